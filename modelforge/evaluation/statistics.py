"""Whether a difference is more than chance: paired intervals, tests, power.

All of it compares models on the same rows. So each row is compared with itself, which takes what
makes rows easy or hard out of the comparison. scipy does what it has. The rest is written here and
held against independent computations to 1e-9 (`tests/test_statistics.py`).
`benchmarks/comparisons.py` prints false alarms, coverage and power over many simulated comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from modelforge.measuring.intervals import wilson

Array = NDArray[np.float64]

LEVEL = 0.95  # of every interval
ALPHA = 0.05  # the chance of a false alarm that is accepted
POWER = 0.8  # the chance of finding a difference that is there
RESAMPLES = 9999
_EXACT = 16  # rows that differ up to which all 2^n signs are tried
_FREEDOM = 12  # degrees of freedom that an interval has at least, of more rows than that
_BLOCK = 2**21  # numbers of a resample that are held at once


@dataclass(frozen=True)
class Change:
    """One model against another on the same rows.

    Attributes:
        by: The (weighted) mean of the rows' differences, second minus first.
        low, high: Its 95 % interval; NaN below four rows.
        p: Of the hypothesis that both are alike; 1 where no row differs.
        rows: How many were compared.
        spread: Standard deviation of the rows' differences, weighted to a mean weight of 1.
    """

    by: float
    low: float
    high: float
    p: float
    rows: int
    spread: float


def paired(
    first: Sequence[float] | Array,
    second: Sequence[float] | Array,
    weights: Sequence[float] | Array | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Change:
    """Second minus first, row by row.

    The interval is the BCa bootstrap's over rows (Efron 1987, "Better bootstrap confidence
    intervals", JASA 82), at a level above 95 %, since few rows vary more than it sees
    (`_expanded`). The p value is exact McNemar's where rows are right or wrong, else that of
    `signs`.

    Args:
        first: A figure of each row under one model.
        second: The same under the other.
        weights: What each row counts; by default all alike.
        resamples: Of the bootstrap, and of the permutation test.
        seed: Of both.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    gaps, count = b - a, len(a)
    if not count:
        return Change(math.nan, math.nan, math.nan, 1.0, 0, math.nan)
    share = np.ones(count) if weights is None else np.asarray(weights, float)
    share = share / share.mean()
    by = float((gaps * share).mean())
    # Of a ratio of means (Cochran 1977, "Sampling techniques", 6.4).
    rest = (gaps - by) * share
    spread = float(np.sqrt((rest**2).sum() / (count - 1))) if count > 1 else math.nan
    low, high = _interval(gaps, share, by, resamples, seed)
    binary = weights is None and set(np.unique(np.r_[a, b])) <= {0.0, 1.0}
    p = mcnemar(a, b) if binary else signs(gaps * share, resamples=resamples, seed=seed)
    return Change(by, low, high, p, count, spread)


def _interval(
    gaps: Array, share: Array, by: float, resamples: int, seed: int
) -> tuple[float, float]:
    """The BCa interval of the weighted mean of the rows' differences."""
    if len(gaps) < 4:
        return math.nan, math.nan
    if np.ptp(gaps) == 0:
        return by, by

    def of(rows: Array, weight: Array, axis: int = -1) -> Any:
        return (rows * weight).sum(axis) / weight.sum(axis)

    found = stats.bootstrap(
        (gaps, share),
        of,
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BLOCK // len(gaps)),
        confidence_level=_expanded((gaps - by) * share),
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _expanded(rest: Array) -> float:
    """The level at which few rows cover 95 %: as Student's t is wider than the normal.

    Hesterberg 2015, "What teachers should know about the bootstrap", The American Statistician 69.
    Rows that lie far out make the variance less sure. So the degrees of freedom are those of a
    variance whose own variance is (2 + excess kurtosis) / n of its square (Satterthwaite 1946).
    The excess counts twice, since a sample underestimates it, and `_FREEDOM` bounds what it takes.
    These two are from no paper. With them the intervals of losses weighted by tokens covered
    93.5 %, without any of it 92.1 % (`benchmarks/results/comparisons.md`).

    Args:
        rest: How far each row lies from the mean, weighted.
    """
    count = len(rest)
    square = rest**2
    excess = max(float((square**2).mean() / square.mean() ** 2) - 3, 0.0)
    freedom = max(min(count - 1, count / (1 + excess)), min(count - 1, _FREEDOM))
    wide = float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(count / (count - 1))
    return float(2 * stats.norm.cdf(wide) - 1)


def signs(gaps: Sequence[float] | Array, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """The p value of Fisher's permutation test of paired differences, two-sided.

    If both models are alike, each difference had the other sign as likely. Up to 16 rows that
    differ all signs are tried; beyond that so many at random, with the data as one of them
    (Phipson and Smyth 2010, "Permutation p-values should never be zero").
    """
    d = np.asarray(gaps, float)
    d = d[d != 0]
    if not len(d):
        return 1.0
    seen = abs(d.sum()) - 1e-12 * np.abs(d).sum()  # sums are rounded
    if len(d) <= _EXACT:
        bits = (np.arange(2 ** len(d))[:, None] >> np.arange(len(d))) & 1
        return float((np.abs((2.0 * bits - 1) @ d) >= seen).mean())
    rng, block, count = np.random.default_rng(seed), max(1, _BLOCK // len(d)), 0
    for begin in range(0, resamples, block):
        size = min(block, resamples - begin)
        turned = rng.integers(0, 2, size=(size, len(d)), dtype=np.int8)
        count += int((np.abs((2.0 * turned - 1) @ d) >= seen).sum())
    return (1 + count) / (resamples + 1)


def mcnemar(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """The p value of McNemar's exact test: of rows right under one model alone, half by chance.

    Args:
        first: 1 where a row is right under one model, else 0.
        second: The same under the other.
    """
    a, b = np.asarray(first, float), np.asarray(second, float)
    won, lost = int((b > a).sum()), int((b < a).sum())
    return float(stats.binomtest(won, won + lost, 0.5).pvalue) if won + lost else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values made larger, so that one of them is below 5 % by chance in 5 % of cases at most.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    found, order = [0.0] * len(p), sorted(range(len(p)), key=lambda i: p[i])
    last = 0.0
    for rank, i in enumerate(order):
        last = max(last, min(1.0, p[i] * (len(p) - rank)))
        found[i] = last
    return found


def mean_interval(
    values: Sequence[float] | Array, weights: Sequence[float] | Array | None = None
) -> tuple[float, float, float]:
    """A (weighted) mean and its 95 % interval, Student's t; Wilson's for right and wrong rows.

    The interval is NaN below four rows that are not all right or wrong.
    """
    rows = np.asarray(values, float)
    count = len(rows)
    if not count:
        return math.nan, math.nan, math.nan
    if weights is None and set(np.unique(rows)) <= {0.0, 1.0}:
        return (float(rows.mean()), *wilson(float(rows.mean()), count))
    share = np.ones(count) if weights is None else np.asarray(weights, float)
    share = share / share.mean()
    mean = float((rows * share).mean())
    if count < 4:
        return mean, math.nan, math.nan
    error = math.sqrt((((rows - mean) * share) ** 2).sum() / (count - 1) / count)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * error
    return mean, mean - half, mean + half


def rows_needed(spread: float, effect: float, *, alpha: float = ALPHA, power: float = POWER) -> int:
    """How many rows a paired comparison needs, by the power of Student's t test.

    Args:
        spread: Standard deviation of the rows' differences.
        effect: The mean difference to be found.
        alpha: The chance of a false alarm.
        power: The chance of finding it.

    Raises:
        ValueError: If the effect is 0.
    """
    if not effect:
        raise ValueError("no number of rows finds a difference of 0")
    if not spread:
        return 2
    low, high = 1, 2
    while found_with(spread, effect, high, alpha=alpha) < power:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        enough = found_with(spread, effect, middle, alpha=alpha) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high


def found_with(spread: float, effect: float, rows: int, *, alpha: float = ALPHA) -> float:
    """The chance that a paired t test of so many rows finds a mean difference, two-sided."""
    if rows < 2:
        return 0.0
    bound = stats.t.ppf(1 - alpha / 2, rows - 1)
    shift = abs(effect) / spread * math.sqrt(rows)
    # Beyond the other bound lies nothing worth counting, and scipy's nct is NaN far out there.
    return float(np.nan_to_num(stats.nct.sf(bound, rows - 1, shift), nan=1.0))


def smallest_effect(
    spread: float, rows: int, *, alpha: float = ALPHA, power: float = POWER
) -> float:
    """The least mean difference that so many rows find, in the figure's unit; infinite below 2."""
    if rows < 2:
        return math.inf
    if not spread:
        return 0.0
    high = spread
    while found_with(spread, high, rows, alpha=alpha) < power:
        high *= 2
    root = optimize.brentq(
        lambda effect: found_with(spread, effect, rows, alpha=alpha) - power, 0.0, high
    )
    return float(root)


def pass_at_k(answers: int, right: int, k: int) -> float:
    """The chance that one of k answers is right, from more of them (Chen et al. 2021, eq. 1).

    Args:
        answers: How many were sampled, at least k.
        right: How many of them are right.
        k: How many a user would take.
    """
    if not 0 <= right <= answers or not 1 <= k <= answers:
        raise ValueError(f"pass@{k} of {right} right among {answers}")
    return 1.0 - math.comb(answers - right, k) / math.comb(answers, k)


def kl_estimates(logp: Sequence[float], logq: Sequence[float]) -> dict[str, Array]:
    """Estimates of KL(p || q) from samples of p (Schulman 2020, "Approximating KL divergence").

    Returns:
        ``k1`` and ``k3``, whose means are unbiased (k3 varies less and is never negative), and
        ``k2``, which is biased.
    """
    ratio = np.asarray(logq, float) - np.asarray(logp, float)
    return {"k1": -ratio, "k2": ratio**2 / 2, "k3": np.expm1(ratio) - ratio}
