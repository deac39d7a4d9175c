"""How sure a held-out figure is: its 95 % interval, and what chance or the start would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from modelforge.measuring.rows import mean

_Z = NormalDist().inv_cdf(0.975)


def wilson(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of right rows.

    The score interval of Wilson 1927 ("Probable inference, the law of succession, and statistical
    inference", JASA 22). Unlike the normal one it stays within 0 and 1 and holds for few rows.

    Args:
        share: Of rows that are right; ties count half.
        count: Rows, at least 1; a fraction where rows are alike and worth fewer.
    """
    z2 = _Z**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count)) / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def change(
    before: Sequence[float], after: Sequence[float], weights: Sequence[float]
) -> tuple[float, tuple[float, float]] | None:
    """How far a weighted mean moved, and the 95 % interval of that; None below four rows.

    Each row is compared with itself. The error is that of a ratio of means (Cochran 1977,
    "Sampling techniques", 6.4), with Student's t.

    Args:
        before: A figure of each row, before training.
        after: The same after it.
        weights: What each row counts.
    """
    count = len(weights)
    if count < 4 or not math.fsum(weights):
        return None
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    moved = mean(zip(gaps, weights, strict=True))
    share = math.fsum(weights) / count
    rest = math.fsum((w * (gap - moved) / share) ** 2 for gap, w in zip(gaps, weights, strict=True))
    half = student(count - 1) * math.sqrt(rest / (count - 1) / count)
    return moved, (moved - half, moved + half)


def student(freedom: int) -> float:
    """Student's t at 97.5 %, by the expansion of Fisher and Cornish 1960.

    From 3 degrees of freedom on it is right to 1 %.
    """
    z = _Z
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))
