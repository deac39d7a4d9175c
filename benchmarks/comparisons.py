"""What the statistics of `modelforge compare` come to over many simulated comparisons.

python benchmarks/comparisons.py [--comparisons 2000] [--seed 0]

It prints false alarms and coverage where two models are alike, false alarms of a family of eight
measures, the power that was planned and the power that was met, and what is left of a judge's
liking for length. Nothing is loaded. Another seed tells what is chance in these figures.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from modelforge.evaluation.preferences import length_controlled, win_rate
from modelforge.evaluation.statistics import holm, paired, rows_needed, signs

RESAMPLES = 1999


def losses(rng, rows, shift=0.0):
    """Losses of two models on rows some of which are hard for both."""
    hard = rng.gamma(2.0, 0.6, size=rows)
    first, second = (hard * rng.lognormal(0, 0.3, size=rows) for _ in range(2))
    return first, second + shift


def answers(rng, rows, better=0.0):
    """Right and wrong answers of two models, to questions some of which are hard for both."""
    hard = rng.random(rows)
    first, second = (
        (rng.random(rows) < np.clip(hard + up, 0, 1)).astype(float) for up in (0.0, better)
    )
    return first, second


def weighted(rng, rows):
    """Losses of rows that count by their tokens."""
    return (*losses(rng, rows), rng.integers(5, 200, size=rows).astype(float))


def null(name, draw, rows, comparisons, seed):
    """False alarms and coverage where both models are alike."""
    rng, alarms, covered = np.random.default_rng(10 * seed), 0, 0
    for number in range(comparisons):
        found = paired(*draw(rng, rows), resamples=RESAMPLES, seed=number)
        alarms += found.p < 0.05
        covered += found.low <= 0 <= found.high
    print(
        f"{name}, {rows} rows: false alarms {alarms / comparisons:.1%}, "
        f"coverage {covered / comparisons:.1%}"
    )
    return alarms, covered


def family(comparisons, seed, size=8, rows=150):
    """How often one of several measures is called different though none is."""
    from scipy import stats

    rng, alarms = np.random.default_rng(10 * seed + 1), 0
    for _ in range(comparisons):
        # Measures of the same rows go together.
        common = rng.normal(size=(rows, 1))
        gaps = 0.5 * common + rng.normal(size=(rows, size))
        alarms += min(holm(list(stats.ttest_1samp(gaps, 0).pvalue))) < 0.05
    error = math.sqrt(0.05 * 0.95 / comparisons)
    print(
        f"one of {size} measures called different by Holm: {alarms / comparisons:.1%} of "
        f"{comparisons:,} (± {2 * error:.1%})"
    )


def often(name, draw, rows, comparisons, seed):
    """False alarms over more comparisons, without their intervals, which take the time."""
    rng, alarms = np.random.default_rng(10 * seed + 4), 0
    for number in range(comparisons):
        first, second, *weights = draw(rng, rows)
        gaps = (second - first) * (weights[0] if weights else 1)
        alarms += signs(gaps, resamples=RESAMPLES, seed=number) < 0.05
    error = math.sqrt(0.05 * 0.95 / comparisons)
    print(
        f"{name}, {rows} rows: false alarms {alarms / comparisons:.1%} of {comparisons:,} "
        f"(± {2 * error:.1%})"
    )


def power(comparisons, seed):
    """Planned power against the power met."""
    rng = np.random.default_rng(10 * seed + 2)
    for effect in (0.1, 0.2, 0.5):
        rows = rows_needed(1.0, effect)
        met = sum(
            paired(np.zeros(rows), rng.normal(effect, 1, size=rows), resamples=999).p < 0.05
            for _ in range(comparisons)
        )
        planned = f"effect {effect} of a standard deviation: {rows} rows for 80 %"
        print(f"{planned}; met {met / comparisons:.1%}")


def length(comparisons, seed, rows=300):
    """A coin that likes length: the plain win rate, and the one at equal length."""
    rng, plain, controlled = np.random.default_rng(10 * seed + 3), 0, 0
    for _ in range(comparisons):
        longer = rng.normal(1, 1, size=rows)
        p = 1 / (1 + np.exp(-1.5 * np.tanh(longer / longer.std())))
        wins = (rng.random(rows) < p).astype(float)
        low, high = win_rate(wins)[1:]
        plain += not low <= 0.5 <= high
        found = length_controlled(wins, longer)
        controlled += not found.low <= 0.5 <= found.high
    print(
        f"a judge that likes length calls the longer model better: {plain / comparisons:.1%} "
        f"plain, {controlled / comparisons:.1%} at equal length"
    )


def main():
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--comparisons", type=int, default=2000)
    asked.add_argument("--seed", type=int, default=0)
    said = asked.parse_args()
    count, seed = said.comparisons, said.seed
    parts = [(losses, 150), (weighted, 200), (answers, 400)]
    found = [null(draw.__name__, draw, rows, count, seed) for draw, rows in parts]
    alarms, covered = (sum(each) / (count * len(parts)) for each in zip(*found, strict=True))
    error = math.sqrt(0.05 * 0.95 / (count * len(parts)))
    print(f"all: false alarms {alarms:.1%}, coverage {covered:.1%} (± {2 * error:.1%})")
    often("weighted", weighted, 200, 5 * count, seed)
    family(10 * count, seed)
    power(count // 2, seed)
    length(count, seed)


if __name__ == "__main__":
    main()
