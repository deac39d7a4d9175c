"""What the layouts of votes share: records that hold none, and what goes beside a vote."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelforge.feedback.votes import Vote, key_of

OURS = "modelforge"
PROMPTS = ("prompt", "instruction", "question", "input", "query", "text")
TIES = {"tie": "ranked", "both bad": "bad", "tie (bothbad)": "bad", "bad": "bad"}


class Unread(ValueError):
    """A record that holds no vote in this layout; its text says why."""


def by_task(votes: Iterable[Vote]) -> list[list[Vote]]:
    """Votes on the same answers to the same prompt."""
    groups: dict[Any, list[Vote]] = {}
    for vote in votes:
        groups.setdefault((key_of(vote.prompt), vote.answers), []).append(vote)
    return list(groups.values())


def beside_of(vote: Vote) -> dict[str, Any]:
    """What the layouts have no place for, or only a less exact one."""
    return {"name": vote.name, "ranks": vote.ranks, "shown": vote.shown,
            "seconds": vote.seconds, "at": vote.at}  # fmt: skip


def with_beside(vote: Vote, beside: Mapping[str, Any]) -> Vote:
    """The vote with what stood beside it; its ranks where the layout's own verdict fits them."""
    if not beside:
        return vote
    ranks = tuple(beside["ranks"])
    kept = ranks if vote.kind == "ranked" and _fits(vote.ranks, ranks) else vote.ranks
    return replace(vote, name=beside["name"], ranks=kept, shown=tuple(beside["shown"]),
                   seconds=beside["seconds"], at=beside["at"])  # fmt: skip


def _fits(read: Sequence[int], ranks: Sequence[int]) -> bool:
    """Whether an order that may have broken ties is one of these ranks."""
    order = sorted(range(len(read)), key=lambda i: read[i])
    return not read or [ranks[i] for i in order] == sorted(ranks)


def mine(said: Any) -> dict[str, Any]:
    """What stands under our name, which may be JSON in a text."""
    if isinstance(said, str):
        said = json.loads(said)
    return dict(said) if isinstance(said, Mapping) else {}


def prompt_in(said: Any) -> dict[str, Any]:
    """A prompt of another tool: messages, or text."""
    return {"messages": said} if isinstance(said, list) else {"prompt": str(said)}


def models_in(beside: Mapping[str, Any], answers: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Of each answer its models; a field's name where nothing says more."""
    return tuple(map(tuple, beside.get("models") or [(name,) for name in answers]))


def word_of(vote: Vote, names: Sequence[str], bad: str) -> str:
    """A verdict on two answers in a word."""
    if vote.kind != "ranked":
        return bad if vote.kind == "bad" else "skip"
    first, second = vote.ranks[:2]
    return "tie" if first == second else names[0 if first < second else 1]


def verdict_of(word: str, names: Sequence[str]) -> tuple[tuple[int, ...], str]:
    """Ranks and kind of a verdict in a word."""
    if word in names:
        return tuple(1 if name == word else 2 for name in names), "ranked"
    return ((1,) * len(names), "ranked") if TIES[word] == "ranked" else ((), "bad")


def dense(ranks: Sequence[int]) -> tuple[int, ...]:
    """Ranks without gaps."""
    known = sorted(set(ranks))
    return tuple(known.index(rank) + 1 for rank in ranks)


def number_in(values: Mapping[str, Any], name: str) -> int | None:
    """A confidence, brought to 1 to 3."""
    value = values.get(name)
    with contextlib.suppress(TypeError, ValueError):
        return min(max(int(value), 1), 3) if value is not None else None
    return None
