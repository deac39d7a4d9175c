"""How far annotators agree, beyond chance.

`tests/test_feedback_stats.py` holds these against published examples, and against statsmodels and
krippendorff where those are installed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of each annotator the category of each unit that the annotator judged.
Judgements = Mapping[str, Mapping[Any, float]]


def cohen(first: Sequence[Any], second: Sequence[Any]) -> float:
    """Cohen's kappa of two annotators (1960, "A coefficient of agreement for nominal scales").

    Args:
        first: The category of each unit, by one annotator.
        second: The same, by the other.

    Returns:
        1 for full agreement, 0 for chance; NaN for no unit, or if both know one category alone.
    """
    if not first:
        return math.nan
    count = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / count
    chance = sum(first.count(c) * second.count(c) for c in {*first, *second}) / count**2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


def fleiss(counts: Sequence[Sequence[int]] | NDArray[Any]) -> float:
    """Fleiss' kappa (1971, "Measuring nominal scale agreement among many raters").

    Args:
        counts: Of each unit how many annotators chose each category; (units, categories). Every
            unit has as many annotators, two or more.

    Returns:
        1 for full agreement, 0 for chance; NaN for no unit, or one category alone.
    """
    table = np.asarray(counts, float)
    if not table.size:
        return math.nan
    raters = table[0].sum()
    seen = ((table * (table - 1)).sum(1) / (raters * (raters - 1))).mean()
    chance = ((table.sum(0) / table.sum()) ** 2).sum()
    return float((seen - chance) / (1 - chance)) if chance < 1 else math.nan


def krippendorff(given: Judgements, *, ordinal: bool = False) -> float:
    """Krippendorff's alpha (2011, "Computing Krippendorff's alpha-reliability").

    Not every annotator needs to have judged every unit.

    Args:
        given: The categories; numbers, in their order if ``ordinal``.
        ordinal: Whether neighbouring categories differ less than far ones.

    Returns:
        1 for full agreement, 0 for chance; NaN where no unit was judged twice, or all alike.
    """
    twice, known = _twice(given)
    place = {value: i for i, value in enumerate(known)}
    pairs = np.zeros((len(known), len(known)))
    for values in twice:
        counts = np.bincount([place[value] for value in values], minlength=len(known))
        pairs += (np.outer(counts, counts) - np.diag(counts)) / (len(values) - 1)
    totals = pairs.sum(1)
    apart = _ordinal(totals) if ordinal else 1 - np.eye(len(known))
    seen = (pairs * apart).sum()
    chance = (np.outer(totals, totals) * apart).sum() / max(totals.sum() - 1, 1)
    return float(1 - seen / chance) if chance else math.nan


def _twice(given: Judgements) -> tuple[list[list[float]], list[float]]:
    """The values of each unit that two or more judged, and all of their categories."""
    units: dict[Any, list[float]] = {}
    for row in given.values():
        for unit, value in row.items():
            units.setdefault(unit, []).append(value)
    twice = [values for values in units.values() if len(values) > 1]
    return twice, sorted({value for values in twice for value in values})


def _ordinal(totals: NDArray[Any]) -> NDArray[Any]:
    """How far two categories lie apart: all between them, and half of each, squared."""
    middle = np.cumsum(totals) - totals / 2
    far: NDArray[Any] = (middle[:, None] - middle[None, :]) ** 2
    return far


def agreement(given: Judgements) -> dict[str, Any]:
    """Every coefficient of some annotators.

    Args:
        given: The categories, numbers.

    Returns:
        ``twice`` (units that two or more have judged), ``cohen`` (for two annotators who share
        units: their names, the units and kappa), ``fleiss`` with its ``fleiss_units`` (those of
        the most common number of annotators), ``alpha_nominal`` and ``alpha_ordinal``.
    """
    names, pairs = list(given), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            shared = [unit for unit in given[first] if unit in given[second]]
            if shared:
                kappa = cohen([given[first][u] for u in shared], [given[second][u] for u in shared])
                pairs.append({"annotators": [first, second], "units": len(shared), "kappa": kappa})
    twice, known = _twice(given)
    sizes = [len(values) for values in twice]
    usual = max(set(sizes), key=lambda n: (sizes.count(n), n), default=0)
    table = [[v.count(c) for c in known] for v in twice if len(v) == usual]
    return {
        "twice": len(twice),
        "cohen": pairs,
        "fleiss": fleiss(table),
        "fleiss_units": len(table),
        "alpha_nominal": krippendorff(given),
        "alpha_ordinal": krippendorff(given, ordinal=True),
    }
