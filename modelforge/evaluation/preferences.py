"""Who wins where two answers are compared: win rates, the share of length in them, strengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special

from modelforge.evaluation.statistics import LEVEL, Array, mean_interval
from modelforge.measuring.intervals import wilson

_Z = float(special.ndtri(0.5 + LEVEL / 2))


def win_rate(wins: Sequence[float] | Array) -> tuple[float, float, float]:
    """The share of prompts that a model wins, and its 95 % interval.

    Args:
        wins: Of each prompt 1 (won), 0 (lost), ½ (tie); or the mean of both orders.
    """
    share, low, high = mean_interval(wins)
    if math.isnan(low) or low == high:
        low, high = wilson(share, len(wins))
    return share, max(low, 0.0), min(high, 1.0)


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal length.

    Attributes:
        win_rate, low, high: What a model would win with answers as long as the other's.
        length: By how much a longer answer raises the log odds; about one standard deviation of
            the lengths' differences makes 0.76 of it.
        length_low, length_high: Its 95 % interval.
    """

    win_rate: float
    low: float
    high: float
    length: float
    length_low: float
    length_high: float


def length_controlled(
    wins: Sequence[float] | Array, longer: Sequence[float] | Array
) -> LengthControlled:
    """The win rate that is left when the liking for long answers is taken out.

    A logistic model of the wins with the difference of the lengths, through tanh, beside the
    model's own term, as in Dubois et al. 2024, "Length-controlled AlpacaEval"; their term for the
    prompt's difficulty, which needs many models, is left out. A weak ridge (0.01) keeps it finite.

    Args:
        wins: As for `win_rate`.
        longer: By how much the model's answer is longer, in any unit.
    """
    w, gap = np.asarray(wins, float), np.asarray(longer, float)
    x = np.tanh(gap / (gap.std() or 1.0))
    design = np.c_[np.ones_like(x), x]

    def loss(at: Array) -> float:
        z = design @ at
        return float((np.logaddexp(0, z) - w * z).sum() + 0.005 * (at**2).sum())

    def slope(at: Array) -> Array:
        found: Array = design.T @ (special.expit(design @ at) - w) + 0.01 * at
        return found

    def bend(at: Array) -> Array:
        p = special.expit(design @ at)
        found: Array = design.T @ (design * (p * (1 - p))[:, None]) + 0.01 * np.eye(2)
        return found

    at = _newton(slope, bend, np.zeros(2), loss)
    # The sandwich: a share of both orders is no draw of one coin.
    bread = np.linalg.inv(bend(at))
    rest = (w - special.expit(design @ at)) ** 2
    error = np.sqrt(np.diag(bread @ (design.T @ (design * rest[:, None])) @ bread))
    low, high = at - _Z * error, at + _Z * error
    share, least, most = (float(special.expit(side[0])) for side in (at, low, high))
    return LengthControlled(share, least, most, float(at[1]), float(low[1]), float(high[1]))


def _newton(
    slope: Callable[[Array], Array],
    bend: Callable[[Array], Array],
    at: Array,
    loss: Callable[[Array], float],
) -> Array:
    """The minimum of a convex function, to the last digits."""
    found = optimize.minimize(loss, at, jac=slope, hess=bend, method="trust-exact")
    at = np.asarray(found.x, float)
    for _ in range(3):  # the trust region stops at 1e-4 of the slope
        at = at - np.linalg.solve(bend(at), slope(at))
    return at


@dataclass(frozen=True)
class Strengths:
    """Of each model its strength in log odds, with mean 0, and the 95 % interval of that."""

    strength: list[float]
    low: list[float]
    high: list[float]


def bradley_terry(
    pairs: Sequence[tuple[int, int, float]],
    count: int,
    *,
    prompts: Sequence[Any] | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> Strengths:
    """The strengths of several models from comparisons of two (Bradley and Terry 1952).

    A weak ridge (0.01) keeps a model finite that has won all.

    Args:
        pairs: (i, j, the share of it that i won).
        count: Models.
        prompts: The prompt of each comparison: the bootstrap draws prompts. By default each has
            its own.
        resamples: Of the bootstrap.
        seed: Of it.
    """
    i, j = (np.array([pair[side] for pair in pairs]) for side in (0, 1))
    won = np.array([pair[2] for pair in pairs], float)

    def fit(weight: Array, at: Array) -> Array:
        for _ in range(50):
            p = special.expit(at[i] - at[j])
            slope, bend = -0.01 * at, 0.01 * np.eye(count)
            rest, curve = weight * (won - p), weight * p * (1 - p)
            np.add.at(slope, i, rest)
            np.add.at(slope, j, -rest)
            for row, column, sign in ((i, i, 1), (j, j, 1), (i, j, -1), (j, i, -1)):
                np.add.at(bend, (row, column), sign * curve)
            step = np.linalg.solve(bend, slope)
            at = at + step
            if np.abs(step).max() < 1e-12:
                break
        return at - at.mean()

    best = fit(np.ones(len(won)), np.zeros(count))
    named, places = np.unique(
        np.arange(len(won)) if prompts is None else np.asarray(prompts), return_inverse=True
    )
    rng, size = np.random.default_rng(seed), len(named)
    times = [np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(resamples)]
    drawn = np.array([fit(each.astype(float)[places], best) for each in times])
    low, high = np.quantile(drawn, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0)
    return Strengths(best.tolist(), low.tolist(), high.tolist())
