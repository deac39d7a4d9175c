"""What each annotator does: sides, lengths, speed, contradictions, and how far to be trusted."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelforge.errors import Problem, RunError, did_you_mean
from modelforge.feedback.votes import Judged, Vote, by_pair, judged, key_of
from modelforge.measuring.intervals import wilson

CARELESS = ("keep", "drop", "weigh")

_LEAST = 10  # votes on pairs that others judged too, before anyone is called careless
_P = 0.01  # of a side that was taken by chance alone, over all annotators
_ROUNDS = 200  # of the estimate
_SLOWEST = 40.0  # characters a second that are still read
_SUREST = 0.95  # an accuracy that few votes can show: more would outvote all others
_Z = 1.96  # standard errors on each side of an estimate: 95 %


@dataclass(frozen=True)
class Annotator:
    """What one annotator does.

    Attributes:
        id, name: As in the file.
        votes, skips: How many.
        left, left_interval: The share of decided votes for what stood first, and its 95 % interval.
        longer, longer_interval: The same for the longer answer.
        seconds: The median time of a vote; NaN where none is known.
        hurried: Share of votes faster than the answers can be read (40 characters a second).
        contradictions: Circles of three answers (a over b, b over c, c over a).
        shared: Decided pairs that others decided too.
        agrees, agrees_interval: How often they say the same, pair by pair.
        accuracy, accuracy_error: The chance that a decided vote is right, as far as the votes of
            others tell, and its standard error.
        problems: Why the annotator is called careless; empty if not.
    """

    id: str
    name: str
    votes: int
    skips: int
    left: float
    left_interval: tuple[float, float]
    longer: float
    longer_interval: tuple[float, float]
    seconds: float
    hurried: float
    contradictions: int
    shared: int
    agrees: float
    agrees_interval: tuple[float, float]
    accuracy: float
    accuracy_error: float
    problems: list[str] = field(default_factory=list)


def annotators(votes: Sequence[Vote]) -> list[Annotator]:
    """Every annotator of some votes, in the order in which they came."""
    pairs = judged(votes)
    exact, others = accuracies(pairs), _others(pairs)
    names = {vote.annotator: vote.name for vote in votes}
    found = []
    for who in names:
        mine = [each for each in pairs if each.vote.annotator == who and each.outcome]
        own = [vote for vote in votes if vote.annotator == who]
        said = [vote for vote in own if vote.kind != "skip"]
        left = [each.first_stood_left == (each.outcome > 0) for each in mine]
        gaps = [(_gap(each), each.outcome) for each in mine if _gap(each)]
        longer = [(gap > 0) == (outcome > 0) for gap, outcome in gaps]
        timed = [vote for vote in said if vote.seconds is not None]
        seconds = [vote.seconds for vote in timed if vote.seconds is not None]
        same = others.get(who, [])
        told = Annotator(
            who,
            names[who],
            len(said),
            len(own) - len(said),
            *_share(left),
            *_share(longer),
            statistics.median(seconds) if seconds else math.nan,
            sum(map(_hurried, timed)) / len(timed) if timed else math.nan,
            _circles(mine),
            len(same),
            *_share(same),
            *exact.get(who, (math.nan, math.nan)),
        )
        careful = [right for other, (right, _) in exact.items() if other != who]
        told.problems.extend(_problems(told, len(left), careful))
        found.append(told)
    return found


def weights(votes: Sequence[Vote], careless: str) -> dict[str, float]:
    """What each annotator's votes count.

    Args:
        votes: All.
        careless: ``keep`` (all count 1), ``drop`` (careless ones count 0), or ``weigh``: by the log
            odds of being right, the most reliable one's as 1, a coin's as 0. That is the best
            weight of independent votes (Nitzan and Paroush 1982, "Optimal decision rules in
            uncertain dichotomous choice situations").

    Raises:
        RunError: If there is no such way.
    """
    if careless not in CARELESS:
        fix = did_you_mean(careless, CARELESS)
        raise RunError(Problem(f"--careless {careless}", "is no way to treat annotators", fix))
    found = annotators(votes) if careless != "keep" else []
    if careless == "drop":
        return {each.id: 0.0 for each in found if each.problems}
    odds = {}
    for each in found:
        # Of one who shares no pair nothing is known: two right of three, as below in advance.
        known = 2 / 3 if math.isnan(each.accuracy) else each.accuracy
        right = min(max(known, 0.5), _SUREST)
        odds[each.id] = math.log(right / (1 - right))
    most = max(odds.values(), default=0.0) or 1.0
    return {who: value / most for who, value in odds.items()}


def accuracies(pairs: Sequence[Judged]) -> dict[str, tuple[float, float]]:
    """The chance that each annotator's decided vote is right, estimated without the truth.

    Two steps. Dawid and Skene 1979 ("Maximum likelihood estimation of observer error-rates using
    the EM algorithm"), with one rate of error an annotator and two right votes of three in advance,
    says of each pair how likely the first answer is the better one. Then each annotator is held
    against what the votes of the others say, so that nobody confirms himself. A coin gets ½.

    Returns:
        The chance and its standard error. Annotators who share no pair with anyone are left out.
    """
    groups = []
    for each in by_pair(pairs).values():
        decided = [(p.vote.annotator, p.outcome) for p in each if p.outcome]
        if len({who for who, _ in decided}) > 1:
            groups.append(decided)
    rate = _rates(groups)
    gained, known = dict.fromkeys(rate, 0.0), dict.fromkeys(rate, 0.0)
    for group in groups:
        for who, side in group:
            others = [(name, s) for name, s in group if name != who]
            sure = 2 * _first(others, rate) - 1
            gained[who] += side * sure
            known[who] += sure**2
    return {
        who: (min(max(0.5 + gained[who] / known[who] / 2, 0.0), 1.0), 0.5 / math.sqrt(known[who]))
        for who in rate
        if known[who] > 1e-9
    }


def _rates(groups: Sequence[Sequence[tuple[str, int]]]) -> dict[str, float]:
    """Dawid and Skene's estimate of each annotator's share of right votes."""
    who = sorted({name for group in groups for name, _ in group})
    rate = dict.fromkeys(who, 0.8)
    for _ in range(_ROUNDS):
        right, count = dict.fromkeys(who, 2.0), dict.fromkeys(who, 3.0)
        for group in groups:
            first = _first(group, rate)
            for name, side in group:
                right[name] += first if side > 0 else 1 - first
                count[name] += 1
        now = {name: min(max(right[name] / count[name], 0.01), 0.99) for name in who}
        moved = max((abs(now[name] - rate[name]) for name in who), default=0.0)
        rate = now
        if moved < 1e-9:
            break
    return rate


def _first(group: Sequence[tuple[str, int]], rate: Mapping[str, float]) -> float:
    """How likely the first answer is the better one, by these votes."""
    odds = sum(side * math.log(rate[name] / (1 - rate[name])) for name, side in group)
    return 1 / (1 + math.exp(-max(min(odds, 50.0), -50.0)))


def categories(votes: Sequence[Vote]) -> dict[str, dict[Any, float]]:
    """Of each annotator -1, 0 or 1 for each two answers, for `agreement`."""
    found: dict[str, dict[Any, float]] = {}
    for each in judged(votes):
        found.setdefault(each.vote.annotator, {})[each.key] = float(each.outcome)
    return found


def _others(pairs: Sequence[Judged]) -> dict[str, list[bool]]:
    """Of each annotator whether each other decided vote on the same pair says the same."""
    found: dict[str, list[bool]] = {}
    for group in by_pair(pairs).values():
        decided = [each for each in group if each.outcome]
        for one, other in itertools.permutations(decided, 2):
            if one.vote.annotator != other.vote.annotator:
                same = one.outcome == other.outcome
                found.setdefault(one.vote.annotator, []).append(same)
    return found


def _share(right: Sequence[bool]) -> tuple[float, tuple[float, float]]:
    if not right:
        return math.nan, (math.nan, math.nan)
    share = sum(right) / len(right)
    return share, wilson(share, len(right))


def _gap(each: Judged) -> int:
    return len(each.vote.answers[each.first]) - len(each.vote.answers[each.second])


def _hurried(vote: Vote) -> bool:
    return sum(map(len, vote.answers)) > _SLOWEST * (vote.seconds or 0.0)


def _circles(mine: Sequence[Judged]) -> int:
    """Circles of three in an annotator's votes on one prompt."""
    over: dict[str, set[tuple[str, str]]] = {}
    for each in mine:
        a, b = each.key[1:] if each.outcome > 0 else each.key[:0:-1]
        over.setdefault(key_of(each.vote.prompt), set()).add((a, b))
    count = 0
    for beats in over.values():
        texts = sorted({text for pair in beats for text in pair})
        for a, b, c in itertools.combinations(texts, 3):
            count += {(a, b), (b, c), (c, a)} <= beats or {(b, a), (c, b), (a, c)} <= beats
    return count


def _problems(found: Annotator, decided: int, careful: Sequence[float]) -> list[str]:
    """Why an annotator is careless: blind to the answers, or to all that others see in them.

    Args:
        found: What is known of the annotator.
        decided: How many decided votes that is.
        careful: The accuracies of all others.
    """
    from scipy import stats

    told = []
    taken = round(found.left * decided) if decided else 0
    if decided >= _LEAST and stats.binomtest(taken, decided).pvalue < _P / (len(careful) + 1):
        side, share = ("first", found.left) if found.left > 0.5 else ("last", 1 - found.left)
        told.append(f"takes the {side} answer in {share:.0%} of {decided} votes")
    half = _Z * found.accuracy_error
    usual = statistics.median(careful) if careful else math.nan
    as_a_coin = found.accuracy - half <= 0.5 and found.accuracy + half < usual
    if as_a_coin and found.shared >= _LEAST:
        told.append(
            f"is right in {found.accuracy:.0%} by the votes of others, as a coin would be; "
            f"theirs are in {usual:.0%}"
        )
    return told


def summary(found: Annotator) -> Mapping[str, Any]:
    """As plain JSON."""
    return dict(vars(found))
