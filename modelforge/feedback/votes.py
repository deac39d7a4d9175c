"""What people say of answers side by side, and what follows of each two of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("ranked", "bad", "skip")
CONFIDENCES = {1: "slightly", 2: "clearly", 3: "by far"}
_UNSAID = 2  # of a vote without a confidence


@dataclass(frozen=True)
class Vote:
    """What one annotator said of the answers to one prompt.

    Attributes:
        prompt: ``messages`` of a chat, or ``prompt``.
        answers: The texts, each another one.
        models: Of each answer the names of those that gave it.
        annotator: A random id.
        name: As the annotator is called.
        kind: ``ranked``, ``bad`` (none is good) or ``skip``.
        ranks: Of each answer its place, 1 the best; alike for a tie; empty unless ranked.
        confidence: From 1 to 3, or None.
        shown: The numbers of the answers in the order in which they stood on the page.
        better: What the annotator would have answered, or None.
        comment: Or None.
        seconds: That it took, or None.
        at: When, in seconds since 1970.
    """

    prompt: Mapping[str, Any]
    answers: tuple[str, ...]
    models: tuple[tuple[str, ...], ...]
    annotator: str
    name: str
    kind: str
    ranks: tuple[int, ...] = ()
    confidence: int | None = None
    shown: tuple[int, ...] = ()
    better: str | None = None
    comment: str | None = None
    seconds: float | None = None
    at: float = 0.0


@dataclass(frozen=True)
class Judged:
    """What a vote says of two answers to a prompt. Of two votes on the same answers `key` is one.

    Attributes:
        vote: The whole of it.
        first, second: The numbers of the answers, in the order of their texts.
        outcome: 1 where the first is better, -1 where the second is, 0 for a tie or both bad.
        weight: 2 / k of a ranking of k answers: its k (k - 1) / 2 pairs say as much as k - 1 votes.
    """

    vote: Vote
    first: int
    second: int
    outcome: int
    weight: float

    @property
    def key(self) -> tuple[str, str, str]:
        """The prompt and the two texts."""
        texts = self.vote.answers[self.first], self.vote.answers[self.second]
        return (key_of(self.vote.prompt), *texts)

    @property
    def strength(self) -> float:
        """How sure the annotator was: 1/3 slightly, 2/3 clearly or unsaid, 1 by far."""
        return (self.vote.confidence or _UNSAID) / max(CONFIDENCES)

    @property
    def first_stood_left(self) -> bool:
        """Whether the first stood before the second on the page."""
        shown = self.vote.shown or tuple(range(len(self.vote.answers)))
        return shown.index(self.first) < shown.index(self.second)


def key_of(prompt: Mapping[str, Any]) -> str:
    """A prompt as one text, the same whatever the order of its keys."""
    return json.dumps(prompt, sort_keys=True, ensure_ascii=False)


def judged(votes: Iterable[Vote]) -> list[Judged]:
    """Every two answers of every vote that was no skip."""
    found = []
    for vote in votes:
        if vote.kind == "skip":
            continue
        count = len(vote.answers)
        for pair in itertools.combinations(range(count), 2):
            first, second = sorted(pair, key=lambda i: vote.answers[i])
            outcome = 0
            if vote.kind == "ranked":
                outcome = _sign(vote.ranks[second] - vote.ranks[first])
            found.append(Judged(vote, first, second, outcome, 2 / count))
    return found


def by_pair(found: Iterable[Judged]) -> dict[tuple[str, str, str], list[Judged]]:
    """Of each two answers what was said of them, in the order in which they first came."""
    groups: dict[tuple[str, str, str], list[Judged]] = {}
    for each in found:
        groups.setdefault(each.key, []).append(each)
    return groups


def ranks_of(order: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Places from groups of answers, the best group first.

    >>> ranks_of([[2], [0, 1]])
    (2, 2, 1)
    """
    places = {i: place for place, group in enumerate(order, 1) for i in group}
    return tuple(places[i] for i in sorted(places))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)
