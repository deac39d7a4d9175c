"""Votes become rows to train on: one for each two answers on which people agree enough."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelforge.errors import Problem, RunError, did_you_mean
from modelforge.feedback.votes import Judged, Vote, by_pair, judged, key_of

CONFLICTS = ("vote", "leave-out")
_PLAIN = 2 / 3  # margin of a better answer that somebody wrote, and of a rating


@dataclass(frozen=True)
class Decided:
    """Rows, and what no row came of.

    Attributes:
        rows: To train on.
        left_out: Of each pair or answer without a row: ``why``, ``prompt``, ``answers``, ``said``
            (what each annotator said).
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, Any]]


def preference_rows(
    votes: Sequence[Vote], *, conflicts: str = "vote", weights: Mapping[str, float] | None = None
) -> Decided:
    """A row for each two answers, with a margin; and one for each better answer that was written.

    The margin is the mean confidence of all votes on the pair, those for the other answer and ties
    counted against it: 1/3 slightly, 2/3 clearly, 1 by far. Touvron et al. 2023 ("Llama 2", table
    27) train with margins of this size. Pairs of a ranking of k carry ``weight`` 2 / k.

    Args:
        votes: All.
        conflicts: Where votes contradict each other, ``vote`` takes the majority, ``leave-out``
            no row.
        weights: What the votes of each annotator count; 1 where not given.

    Raises:
        RunError: If there is no such way.
    """
    _check(conflicts)
    counted = dict(weights or {})
    rows, left_out = [], []
    for group in by_pair(judged(votes)).values():
        found = _row(group, conflicts, counted)
        if isinstance(found, str):
            left_out.append(_told(group, found))
        else:
            rows.append(found)
    rows += [row for vote in votes if _counts(vote, counted) for row in _better(vote)]
    return Decided(_once(rows), left_out)


def labelled_rows(
    votes: Sequence[Vote], *, conflicts: str = "vote", weights: Mapping[str, float] | None = None
) -> Decided:
    """An answer is good if it won more than it lost, and bad if it lost more or was called bad.

    Args:
        votes: All.
        conflicts: As for `preference_rows`: what to do with an answer that won and lost.
        weights: As for `preference_rows`.
    """
    _check(conflicts)
    counted = dict(weights or {})
    sums: dict[tuple[str, str], list[tuple[float, Vote]]] = {}
    for each in judged(votes):
        weight = each.weight * counted.get(each.vote.annotator, 1.0)
        if not weight:
            continue
        for i, sign in ((each.first, 1), (each.second, -1)):
            value = -weight if each.vote.kind == "bad" else sign * each.outcome * weight
            key = key_of(each.vote.prompt), each.vote.answers[i]
            sums.setdefault(key, []).append((value, each.vote))
    rows, left_out = [], []
    for (_, text), said in sums.items():
        total, vote = sum(value for value, _ in said), said[0][1]
        against = any(v > 0 for v, _ in said) and any(v < 0 for v, _ in said)
        why = "only ties" if not any(v for v, _ in said) else ""
        why = why or ("as good as bad" if abs(total) < 1e-9 else "")
        if against and conflicts == "leave-out":
            why = "votes contradict each other"
        if why:
            told = {one.name: _word(one) for _, one in said}
            left_out.append({"why": why, "prompt": vote.prompt, "answers": [text], "said": told})
        else:
            rows.append({**prompt_of(vote.prompt), "completion": answer_of(vote.prompt, text),
                         "label": total > 0})  # fmt: skip
    for vote in votes:
        if vote.better and _counts(vote, counted):
            better = answer_of(vote.prompt, vote.better)
            rows.append({**prompt_of(vote.prompt), "completion": better, "label": True})
    return Decided(_once(rows), left_out)


def demonstration_rows(
    votes: Sequence[Vote], *, conflicts: str = "vote", weights: Mapping[str, float] | None = None
) -> Decided:
    """The better answers that annotators wrote, for ``sft``."""
    _check(conflicts)
    counted = dict(weights or {})
    rows = [
        {**prompt_of(vote.prompt), "completion": answer_of(vote.prompt, vote.better)}
        for vote in votes
        if vote.better and _counts(vote, counted)
    ]
    return Decided(_once(rows), [])


def prompt_of(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """A prompt as the columns of a row."""
    if "messages" not in prompt:
        return {"prompt": prompt["prompt"]}
    row = {"prompt": prompt["messages"]}
    return row | ({"tools": prompt["tools"]} if prompt.get("tools") else {})


def answer_of(prompt: Mapping[str, Any], text: str) -> Any:
    """An answer in the form of its prompt: messages, or text."""
    return [{"role": "assistant", "content": text}] if "messages" in prompt else text


def _row(group: Sequence[Judged], conflicts: str, counted: Mapping[str, float]) -> Any:
    """The row of a pair, or why it has none."""
    said = [(each, each.weight * counted.get(each.vote.annotator, 1.0)) for each in group]
    said = [(each, weight) for each, weight in said if weight]
    if not said:
        return "careless annotators alone"
    sides = {each.outcome for each, _ in said} - {0}
    if not sides:
        return "only ties"
    if len(sides) > 1 and conflicts == "leave-out":
        return "votes contradict each other"
    total = sum(weight for _, weight in said)
    lead = sum(weight * each.outcome for each, weight in said)
    if abs(lead) < 1e-9:
        return "votes contradict each other, as many on each side"
    winner = 1 if lead > 0 else -1
    margin = sum(w * each.outcome * each.strength for each, w in said) * winner / total
    each, vote = group[0], group[0].vote
    numbers = (each.first, each.second)[::winner]
    chosen, rejected = (answer_of(vote.prompt, vote.answers[i]) for i in numbers)
    row = {**prompt_of(vote.prompt), "chosen": chosen, "rejected": rejected}
    row["margin"] = round(max(margin, 0.0), 6)
    weight = sum(each.weight for each, _ in said) / len(said)
    return row | ({} if weight == 1 else {"weight": round(weight, 6)})


def _better(vote: Vote) -> list[dict[str, Any]]:
    """A written answer is preferred to the best of those that were shown, or to all if tied."""
    if not vote.better or vote.kind == "skip":
        return []
    best = min(vote.ranks, default=0)
    ranks = vote.ranks or (best,) * len(vote.answers)
    over = [text for text, rank in zip(vote.answers, ranks, strict=True) if rank == best]
    chosen = answer_of(vote.prompt, vote.better)
    return [
        {**prompt_of(vote.prompt), "chosen": chosen, "rejected": answer_of(vote.prompt, text),
         "margin": round(_PLAIN, 6)}
        for text in over if text.strip() != vote.better.strip()
    ]  # fmt: skip


def with_margins(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ratings, which have no confidence, beside votes: without one margin none is trained on."""
    return [{**row, "margin": row.get("margin", round(_PLAIN, 6))} for row in rows]


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({json.dumps(row, sort_keys=True): row for row in rows}.values())


def _counts(vote: Vote, counted: Mapping[str, float]) -> bool:
    return counted.get(vote.annotator, 1.0) > 0


def _told(group: Sequence[Judged], why: str) -> dict[str, Any]:
    _, first, second = group[0].key
    said = {each.vote.name: _word(each.vote, each.outcome) for each in group}
    return {"why": why, "prompt": group[0].vote.prompt, "answers": [first, second], "said": said}


def _word(vote: Vote, outcome: int | None = None) -> str:
    if vote.kind != "ranked":
        return vote.kind
    return str(list(vote.ranks)) if outcome is None else ("tie", "first", "second")[outcome]


def _check(conflicts: str) -> None:
    if conflicts not in CONFLICTS:
        fix = did_you_mean(conflicts, CONFLICTS)
        raise RunError(Problem(f"--conflicts {conflicts}", "is no way to treat them", fix))
