"""Who wins, how far people agree, and what each annotator does: all of a file of votes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.evaluation.preferences import bradley_terry, win_rate
from modelforge.evaluation.statistics import rows_needed
from modelforge.feedback.agreement import agreement
from modelforge.feedback.annotators import annotators, categories, summary
from modelforge.feedback.votes import Vote, judged, key_of

#: Of each answer's number its prompt, its text and its models.
Texts = Mapping[int, tuple[str, str, tuple[str, ...]]]
_FEW = 10  # prompts below which nobody says how many votes are left to cast


def stats(votes: Sequence[Vote], texts: Texts) -> dict[str, Any]:
    """All figures of some votes.

    Args:
        votes: All.
        texts: All answers: those that several models gave alike are ties without a vote.

    Returns:
        ``votes``, ``skips``, ``prompts``, ``contests`` (of each two models who wins, and how many
        more prompts would settle it), ``strengths`` (of three models and more: Bradley and Terry's,
        with intervals), ``agreement``, ``annotators``.
    """
    said = [vote for vote in votes if vote.kind != "skip"]
    rounds = outcomes(votes, texts)
    return {
        "votes": len(said),
        "skips": len(votes) - len(said),
        "prompts": len({key_of(vote.prompt) for vote in said}),
        "contests": [_contest(pair, found) for pair, found in sorted(rounds.items())],
        "strengths": _strengths(rounds),
        "agreement": agreement(_by_name(votes)),
        "annotators": [summary(each) for each in annotators(votes)],
    }


def outcomes(
    votes: Sequence[Vote], texts: Texts
) -> dict[tuple[str, str], dict[str, list[tuple[float, float]]]]:
    """Of each two models, of each prompt, what the first won (1, ½, 0) and what that counts."""
    rounds: dict[tuple[str, str], dict[str, list[tuple[float, float]]]] = {}

    def add(first: str, second: str, prompt: str, won: float, weight: float) -> None:
        if first > second:
            first, second, won = second, first, 1 - won
        rounds.setdefault((first, second), {}).setdefault(prompt, []).append((won, weight))

    for each in judged(votes):
        sides = (each.vote.models[i] for i in (each.first, each.second))
        for first, second in itertools.product(*sides):
            if first != second:
                add(first, second, each.key[0], (each.outcome + 1) / 2, each.weight)
    for prompt, _, models in texts.values():
        for first, second in itertools.combinations(models, 2):
            add(first, second, prompt, 0.5, 1.0)
    return rounds


def _by_name(votes: Sequence[Vote]) -> dict[str, dict[Any, float]]:
    """The categories of each annotator under a name that is only theirs."""
    names = {vote.annotator: vote.name for vote in votes}
    twice = {name for name in names.values() if list(names.values()).count(name) > 1}
    given = categories(votes)
    return {
        f"{names[who]} ({who[:4]})" if names[who] in twice else names[who]: row
        for who, row in given.items()
    }


def _contest(
    pair: tuple[str, str], found: Mapping[str, Sequence[tuple[float, float]]]
) -> dict[str, Any]:
    """One model against another; each prompt counts once."""
    wins = [_mean(each) for each in found.values()]
    share, low, high = win_rate(wins)
    count = len(wins)
    settled = not low <= 0.5 <= high
    more = None
    if not settled and count >= _FEW:
        spread = math.sqrt(sum((w - share) ** 2 for w in wins) / (count - 1))
        if abs(share - 0.5) > 1e-9 and spread:
            more = max(rows_needed(spread, share - 0.5) - count, 1)
    return {"models": list(pair), "prompts": count, "wins": share, "low": low, "high": high,
            "settled": settled, "more": more}  # fmt: skip


def _mean(found: Sequence[tuple[float, float]]) -> float:
    return sum(won * weight for won, weight in found) / sum(weight for _, weight in found)


def _strengths(
    rounds: Mapping[tuple[str, str], Mapping[str, Sequence[tuple[float, float]]]],
) -> dict[str, list[float]]:
    names = sorted({name for pair in rounds for name in pair})
    if len(names) < 3:
        return {}
    pairs, prompts = [], []
    for (first, second), found in rounds.items():
        for prompt, each in found.items():
            pairs.append((names.index(first), names.index(second), _mean(each)))
            prompts.append(prompt)
    fitted = bradley_terry(pairs, len(names), prompts=prompts)
    return {
        name: [fitted.strength[i], fitted.low[i], fitted.high[i]] for i, name in enumerate(names)
    }


def told(contest: Mapping[str, Any], left: int | None = None) -> str:
    """A contest in words.

    Args:
        contest: Of `stats`.
        left: How many prompts are not judged yet, where that is known.
    """
    first, second = contest["models"]
    said = (
        f"{first} wins {contest['wins']:.0%} [{contest['low']:.0%}, {contest['high']:.0%}] of "
        f"{contest['prompts']} prompts against {second}"
    )
    return f"{said}; {more_told(contest, left)}"


def more_told(contest: Mapping[str, Any], left: int | None = None) -> str:
    """How many more votes would settle who is better."""
    if contest["settled"]:
        return "that is settled"
    if contest["prompts"] < _FEW:
        return f"too few to say more: judge {_FEW - contest['prompts']} further prompts first"
    more = contest["more"]
    if more is None:
        return "they are even so far"
    votes = "1 more vote" if more == 1 else f"{more:,} more votes"
    if left is not None and more > left:
        return f"{votes} would settle it, and {left} prompts are left: bring more prompts"
    return f"{votes} would settle it"
