"""The figures of single held-out rows, and the figures of all rows that follow from them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# An accuracy, and the margin whose sign it counts, under TRL's names (reward, dpo).
_SIDES = ("rewards/chosen", "rewards/rejected")
#: The reward of the likeliest answer to a prompt, among a row's figures.
GREEDY_REWARD = "reward_greedy"
_ACCURACIES = (("accuracy", "margin"), ("rewards/accuracies", "rewards/margins"))


@dataclass(frozen=True)
class HeldOutRow:
    """What was measured on one row, one pair, or one prompt with its answers.

    Attributes:
        weight: Its supervised tokens, for a demonstration; 1 for a pair or a prompt.
        figures: The loss, and the trainer's metrics under their names.
        scores: Of a prompt: each answer's rewards by name, and their sum as ``reward``; NaN where
            an answer could not be scored.
    """

    weight: float
    figures: Mapping[str, float]
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, which knows no NaN."""
        figures = {name: finite(value) for name, value in self.figures.items()}
        scores = {name: [finite(score) for score in each] for name, each in self.scores.items()}
        return {"weight": self.weight, **figures} | ({"scores": scores} if scores else {})


def finite(value: float) -> float | None:
    """The value, or None in place of NaN and infinity."""
    return value if math.isfinite(value) else None


def ties_half(figures: dict[str, float]) -> dict[str, float]:
    """The figures with a pair whose sides score alike counted as half right.

    TRL counts it as wrong. So DPO, whose margins are all 0 before the first step, began at 0 and
    not at chance. Half a point a tie is the convention of the Mann-Whitney statistic.
    """
    for accuracy, margin in _ACCURACIES:
        if accuracy in figures and figures.get(margin) == 0.0:
            figures[accuracy] = 0.5
    return figures


def by_sign(figures: dict[str, float]) -> dict[str, float]:
    """The figures of a labelled answer (kto), with whether it moved the right way.

    A good answer is to become likelier than it was at the start, a bad one less likely. The implied
    reward is above 0 or below accordingly; one that has not moved is half right.
    """
    sides = [name for name in _SIDES if name in figures]
    if len(sides) == 1 and "rewards/margins" not in figures:
        reward = figures[sides[0]] * (1 if sides[0] == _SIDES[0] else -1)
        figures["rewards/accuracies"] = 0.5 if reward == 0.0 else float(reward > 0)
    return figures


def together(rows: Sequence[HeldOutRow]) -> dict[str, float]:
    """The figures of all rows: weighted means; the least and the most of a minimum and a maximum.

    Standard deviations of rewards are those over all answers, standard errors (``reward_stderr``)
    those of a mean over prompts. What no row has a number for is NaN.
    """
    names = dict.fromkeys(name for row in rows for name in row.figures)
    found = {name: _figure(name, rows) for name in names}
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        scores = [s for row in rows for s in row.scores.get(name, ()) if not math.isnan(s)]
        key = "reward_std" if name == "reward" else f"rewards/{name}/std"
        found[key] = statistics.stdev(scores) if len(scores) > 1 else math.nan
    for name in ("reward", GREEDY_REWARD):
        means = [row.figures.get(name, math.nan) for row in rows if row.scores]
        means = [value for value in means if not math.isnan(value)]
        if len(means) > 1:
            found[f"{name}_stderr"] = statistics.stdev(means) / math.sqrt(len(means))
    return found


def _figure(name: str, rows: Sequence[HeldOutRow]) -> float:
    pairs = [
        (row.figures[name], _weight(name, row))
        for row in rows
        if not math.isnan(row.figures.get(name, math.nan))
    ]
    pairs = [(value, weight) for value, weight in pairs if weight]
    if not pairs:
        return math.nan
    words = name.rpartition("/")[2].split("_")
    if "min" in words or "max" in words:
        return (min if "min" in words else max)(value for value, _ in pairs)
    return mean(pairs)


def _weight(name: str, row: HeldOutRow) -> float:
    if "terminated" in name:  # TRL gives 0 where no answer has ended
        return row.weight * (1 - row.figures.get("completions/clipped_ratio", 0.0))
    return row.weight


def mean(pairs: Iterable[tuple[float, float]]) -> float:
    """The mean of (value, weight), whatever the order they come in."""
    pairs = list(pairs)
    return math.fsum(v * w for v, w in pairs) / math.fsum(w for _, w in pairs)
