"""Which answers are judged next: those whose vote would tell the most.

Bradley and Terry's model with features: an answer's worth is a sum over its words, its length, its
model and, where one is given, a reward model's score. Votes so far give a normal posterior of the
sum's weights. A vote on a pair of difference x is expected to tell about p (1 - p) x'Sx, where p is
how likely the first wins and S the posterior's covariance (MacKay 1992, "Information-based
objective functions for active data selection"). So a pair is dealt if the model is unsure of it
because it does not know yet, and not because people will never agree.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelforge.common.console import warn
from modelforge.errors import UserError
from modelforge.feedback.collected import Collected
from modelforge.feedback.stats import more_told, stats
from modelforge.feedback.votes import Judged, Vote, judged

Array = NDArray[np.float64]

_WORDS = 192  # features that words fall into
_BATCH = 24  # pairs that are chosen at once
_RARE = 8  # votes after which the choice is made anew, at least
_TRUST = 1.0  # variance of a weight in advance
_TEXTS = Mapping[int, tuple[str, str, tuple[str, ...]]]


class Dealer:
    """Orders the tasks of a store as votes come in.

    Args:
        store: The votes.
        scores: Of answers a reward model's score, by prompt (`key_of`) and text; the pair that it
            is least sure of goes first, until votes tell more.
        active: Whether to order at all; else the tasks come as they stand in the file.
    """

    def __init__(
        self,
        store: Collected,
        *,
        scores: Mapping[tuple[str, str], float] | None = None,
        active: bool = True,
    ) -> None:
        self.store, self.scores, self.active = store, dict(scores or {}), active
        self.told = ""
        self._lock, self._since = threading.Lock(), 0
        self._round = math.ceil(store.latest())  # of a session before this one
        self._wait = 0
        self._space: Space | None = None

    def heard(self) -> None:
        """Count a vote; now and then choose anew, in a thread of its own."""
        with self._lock:
            self._since += 1
            if self._since < self._wait:
                return
            self._since = 0
        threading.Thread(target=self.choose, daemon=True).start()

    def choose(self) -> None:
        """Order the tasks by what is known now, and say what is left."""
        try:
            votes, texts = self.store.votes(), self.store.texts()
            # Later choices take longer, and each vote changes less.
            self._wait = max(_RARE, len(votes) // 20)
            contests = stats(votes, texts)["contests"] if votes else []
            open_ones = [each for each in contests if not each["settled"]]
            worst = max(open_ones, key=lambda each: each["more"] or 0, default=None)
            self.told = more_told(worst) if worst else ("settled" if contests else "")
            if self.active:
                self.store.order(self._due(votes, texts))
        except UserError as error:  # a full disk: the next vote says so too
            warn(str(error.problems[0]))

    def _due(self, votes: Sequence[Vote], texts: _TEXTS) -> dict[int, float]:
        """Of the tasks to be dealt first how early; later rounds come before earlier ones."""
        tasks = self.store.tasks()
        if not tasks:
            return {}
        if self._space is None or len(self._space.of) != len(texts):  # hashing words takes a while
            self._space = Space(texts, self.scores)
        space = self._space
        ids = [task for task, _ in tasks]
        pairs = np.array([space.widest(answers) for _, answers in tasks])
        order = chosen(pairs, *space.posterior(judged(votes)), count=_BATCH)
        self._round += 1
        return {ids[i]: self._round + 1 - place / _BATCH for place, i in enumerate(order)}


class Space:
    """Answers as vectors.

    Args:
        texts: Of each answer's number its prompt, its text and its models.
        scores: Of answers a reward model's score, by prompt and text.
    """

    def __init__(self, texts: _TEXTS, scores: Mapping[tuple[str, str], float]) -> None:
        models = sorted({name for _, _, names in texts.values() for name in names})
        place = {name: i for i, name in enumerate(models)}
        self.scored = bool(scores)
        self.of: dict[int, Array] = {}
        self.named: dict[tuple[str, str], Array] = {}
        spread = float(np.std(list(scores.values()))) or 1.0 if scores else 1.0
        for number, (prompt, text, names) in texts.items():
            row = np.zeros(2 + len(models) + _WORDS)
            row[0] = scores.get((prompt, text), 0.0) / spread
            row[1] = math.log1p(len(text)) / 2
            for name in names:
                row[2 + place[name]] = 1 / len(names)
            row[2 + len(models) :] = words(text)
            self.of[number] = self.named[prompt, text] = row
        self.size = 2 + len(models) + _WORDS
        self._widest: dict[tuple[int, ...], Array] = {}

    def widest(self, answers: Sequence[int]) -> Array:
        """The difference of a task's answers; of several the two that lie furthest apart."""
        key = tuple(answers)
        if key not in self._widest:
            rows = [self.of[i] for i in answers]
            gaps = [a - b for i, a in enumerate(rows) for b in rows[i + 1 :]]
            self._widest[key] = max(gaps, key=lambda gap: float(gap @ gap))
        return self._widest[key]

    def posterior(self, pairs: Sequence[Judged]) -> tuple[Array, Array]:
        """Mean and covariance of the weights (Laplace's approximation).

        In advance a given reward model is taken at its word, and all else weighs nothing.
        """
        before = np.zeros(self.size)
        before[0] = 1.0 if self.scored else 0.0
        told = [each for each in pairs if each.key[:2] in self.named]
        x = np.array([self.named[p.key[0], p.key[1]] - self.named[p.key[0], p.key[2]]
                      for p in told]).reshape(-1, self.size)  # fmt: skip
        won = np.array([(p.outcome + 1) / 2 for p in told])
        return laplace(x, won, np.array([p.weight for p in told]), before)


def words(text: str) -> Array:
    """A text's words and pairs of words, hashed into places with signs, of length 1 or 0.

    Weinberger et al. 2009, "Feature hashing for large scale multitask learning".
    """
    found = re.findall(r"\w+|[^\w\s]", text.lower())
    row = np.zeros(_WORDS)
    for piece in {*found, *map(" ".join, itertools.pairwise(found))}:
        number = zlib.crc32(piece.encode())
        row[number % _WORDS] += 1 if number & (1 << 30) else -1
    length = float(np.linalg.norm(row))
    return row / length if length else row


def laplace(x: Array, won: Array, weight: Array, before: Array) -> tuple[Array, Array]:
    """Mean and covariance of a logistic model's weights after some comparisons.

    Args:
        x: The differences; (comparisons, features).
        won: Of each the share that the first won.
        weight: What each counts.
        before: The weights in advance, with variance `_TRUST`.
    """
    at, prior = before.copy(), np.eye(len(before)) / _TRUST
    bend = prior
    for _ in range(30):
        p = 1 / (1 + np.exp(-np.clip(x @ at, -30, 30)))
        bend = prior + (x * (weight * p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(bend, x.T @ (weight * (won - p)) - (at - before) / _TRUST)
        at = at + step
        if np.abs(step).max() < 1e-8:
            break
    return at, np.asarray(np.linalg.inv(bend), float)


def chosen(x: Array, mean: Array, covariance: Array, *, count: int) -> list[int]:
    """The pairs that tell the most, one after the other, as if those before were judged.

    Args:
        x: The differences; (pairs, features).
        mean, covariance: Of the weights.
        count: How many.
    """
    p = 1 / (1 + np.exp(-np.clip(x @ mean, -30, 30)))
    unsure = p * (1 - p)
    seen: Any = x @ covariance
    spread = np.einsum("ij,ij->i", seen, x)
    order: list[int] = []
    for _ in range(min(count, len(x))):
        worth = unsure * spread
        worth[order] = -1.0
        best = int(worth.argmax())
        order.append(best)
        # What a vote on it would leave of the covariance (Sherman and Morrison 1950).
        direction, scale = seen[best], unsure[best] / (1 + unsure[best] * spread[best])
        along = x @ direction
        spread = np.maximum(spread - scale * along**2, 0.0)
        seen = seen - scale * np.outer(along, direction)
    return order
