"""Curves of a run's metrics as the points of inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, MARGIN, MOST = 420, 140, 10, 8
# What counts the way and is no figure.
_COUNTERS = ("step", "epoch", "num_tokens")


@dataclass(frozen=True)
class Chart:
    """One curve.

    Attributes:
        title: The figure's name.
        caption: Its first, last, lowest and highest value.
        points: ``x,y x,y …`` in pixels, for an SVG polyline.
        width, height: The drawing's size, in pixels.
    """

    title: str
    caption: str
    points: str
    width: int = WIDTH
    height: int = HEIGHT


def charts(rows: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """One curve for each figure that is logged at two steps or more; the first few of them.

    Args:
        rows: Lines of ``metrics.jsonl``: the ``step`` and the figures logged there.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in row.items():
            # A value that is not finite has no place on the paper.
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and key not in _COUNTERS:
                curves.setdefault(key, []).append((row["step"], value))
    return [_chart(key, points) for key, points in curves.items() if len(points) > 1][:MOST]


def _chart(title: str, points: Sequence[tuple[float, float]]) -> Chart:
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across = (WIDTH - 2 * MARGIN) / max(steps[-1] - steps[0], 1)
    up = (HEIGHT - 2 * MARGIN) / ((high - low) or 1)
    path = " ".join(
        f"{MARGIN + (step - steps[0]) * across:.1f},{HEIGHT - MARGIN - (value - low) * up:.1f}"
        for step, value in points
    )
    caption = f"{values[0]:.4g} → {values[-1]:.4g} (between {low:.4g} and {high:.4g})"
    return Chart(title, caption, path)
