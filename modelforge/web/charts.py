"""Curves of a run's metrics as the points of inline SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT, MARGIN, MOST, BINS = 420, 140, 10, 8, 24
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


@dataclass(frozen=True)
class Histogram:
    """How often values of a range occur.

    Attributes:
        title: What is counted.
        caption: The least, the middle and the greatest value.
        bars: ``x, y, width, height`` in pixels, and its range and count in words.
        width, height: The drawing's size, in pixels.
    """

    title: str
    caption: str
    bars: list[tuple[float, float, float, float, str]]
    width: int = WIDTH
    height: int = HEIGHT


def histogram(title: str, values: Sequence[float], *, percent: bool = False) -> Histogram:
    """`BINS` bars of equal ranges; of shares from 0 to 100 %.

    Args:
        title: What is counted.
        values: At least one.
        percent: Whether the values are shares.
    """
    ordered = sorted(values)
    low, high = (0.0, 1.0) if percent else (float(ordered[0]), float(ordered[-1]))
    width = (high - low) / BINS or 1.0
    counts = [0] * BINS
    for value in ordered:
        counts[min(BINS - 1, int((value - low) / width))] += 1

    def said(value: float) -> str:
        return f"{value:.0%}" if percent else f"{value:.0f}"

    across, most = (WIDTH - 2 * MARGIN) / BINS, max(counts)
    bars = []
    for i, count in enumerate(counts):
        x, height = round(MARGIN + i * across, 1), round((HEIGHT - 2 * MARGIN) * count / most, 1)
        words = f"{said(low + i * width)} to {said(low + (i + 1) * width)}: {count}"
        bars.append((x, HEIGHT - MARGIN - height, round(across - 1, 1), height, words))
    middle = ordered[(len(ordered) - 1) // 2]
    caption = f"{said(ordered[0])} to {said(ordered[-1])}, median {said(middle)}"
    return Histogram(title, caption, bars)
