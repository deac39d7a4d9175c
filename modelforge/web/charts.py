"""Curves of a run's metrics, with axes and units, as the parts of inline SVG: no script draws."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT, MARGIN, BINS = 420, 140, 10, 24
LEFT, BOTTOM, TALL = 58, 24, 180  # the room of a curve's axes, and its height
MOST = 16  # curves of figures that `SHOWN` does not name
POINTS = 240  # of a curve: more than the paper has room for
# What counts the way and is no figure.
_COUNTERS = ("step", "epoch", "num_tokens")

#: The curves in their order: key, title, unit, and the key of the same of held-out rows.
SHOWN = (
    ("loss", "Loss", "nats a token", "eval_loss"),
    ("reward", "Reward", "score", "eval_reward"),
    ("reward/total", "Reward less KL", "score", ""),
    ("rewards/margins", "Margin of the implicit rewards", "nats × beta", "eval_rewards/margins"),
    ("rewards/accuracies", "Pairs on the right side", "share", "eval_rewards/accuracies"),
    ("accuracy", "Pairs scored the right way", "share", "eval_accuracy"),
    ("margin", "Margin of the scores", "score", "eval_margin"),
    ("kl", "KL from the reference", "nats a token", "eval_kl"),
    ("kl/reference", "KL from the reference", "nats an answer", ""),
    ("entropy", "Entropy", "nats a token", "eval_entropy"),
    ("mean_token_accuracy", "Tokens foreseen", "share", "eval_mean_token_accuracy"),
    ("policy/loss", "Policy's loss", "", ""),
    ("value/loss", "Value's loss", "score²", ""),
    ("value/explained_variance", "Variance that the critic explains", "share", ""),
    ("completions/mean_length", "Length of an answer", "tokens", "eval_completions/mean_length"),
    ("completions/clipped_ratio", "Answers cut off", "share", "eval_completions/clipped_ratio"),
    ("grad_norm", "Norm of the gradient", "", ""),
    ("learning_rate", "Learning rate", "", ""),
    ("tokens_per_second", "Speed", "tokens a second", ""),
    ("memory_gb", "Memory", "GiB", ""),
)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in pixels, and what is written there."""

    at: float
    text: str


@dataclass(frozen=True)
class Curve:
    """One line of a drawing.

    Attributes:
        name: What it is of.
        points: ``x,y x,y …`` in pixels, for an SVG polyline.
        last: The place of its last point, in pixels.
        style: The number of its colour and dashes.
        errors: Of each point its place across, and where its error ends below and above, in pixels.
    """

    name: str
    points: str
    last: tuple[float, float]
    style: int
    errors: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """One drawing.

    Attributes:
        title: The figure's name.
        unit: Of the axis that goes up; may be empty.
        caption: First, last, lowest and highest value.
        curves: In training and, where it was measured, on held-out rows.
        across, up: The marks of the axes.
        width, height: The drawing's size, in pixels.
        left, bottom: Where the axes stand, in pixels.
        keyed: Whether the curves are named.
        by: What the axis that goes across counts.
    """

    title: str
    unit: str
    caption: str
    curves: list[Curve]
    across: list[Tick] = field(default_factory=list)
    up: list[Tick] = field(default_factory=list)
    keyed: bool = False
    by: str = "step"
    width: int = WIDTH
    height: int = TALL
    left: int = LEFT
    bottom: int = TALL - BOTTOM


def charts(rows: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """A drawing for each figure that was logged at two steps or more.

    Of those that `SHOWN` does not name only where it ever changed.

    Args:
        rows: Lines of ``metrics.jsonl``: the ``step``, the figures logged there, and ``session``.
    """
    found = _series(rows)
    drawn, taken = [], set()
    for key, title, unit, held_out in SHOWN:
        lines = {"training": found.get(key, []), "held-out": found.get(held_out, [])}
        lines = {name: points for name, points in lines.items() if points}
        taken |= {key, held_out}
        if any(len(points) > 1 for points in lines.values()):
            drawn.append(_chart(title, unit, lines))
    rest = dict.fromkeys(key.removeprefix("eval_") for key in found if key not in taken)
    for key in [key for key in rest if key not in taken and _is_figure(key)]:
        lines = {"training": found.get(key, []), "held-out": found.get(f"eval_{key}", [])}
        lines = {name: points for name, points in lines.items() if points}
        if any(len(points) > 1 for points in lines.values()) and _varies(lines):
            drawn.append(_chart(key, "", lines))
    return drawn[: len(SHOWN) + MOST]


def overlaid(runs: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Chart]:
    """A drawing for each figure of `SHOWN` that one of the runs logged twice, a line for each run.

    Args:
        runs: Name → lines of its ``metrics.jsonl``.
    """
    found = {name: _series(rows) for name, rows in runs.items()}
    drawn = []
    for key, title, unit, held_out in SHOWN:
        for one, told in ((key, title), (held_out, f"{title}, held out")):
            lines = {name: series[one] for name, series in found.items() if series.get(one)}
            if any(len(points) > 1 for points in lines.values()):
                # A run looks the same in every drawing.
                drawn.append(_chart(told, unit, lines, styles=list(found)))
    return drawn


def against(title: str, unit: str, by: str, points: Sequence[tuple[float, float, float]]) -> Chart:
    """A drawing of a figure against another one, with errors.

    Args:
        title: The figure's name.
        unit: Of its values.
        by: What goes across.
        points: Across, up, and how far up and down it may be off, in the order of time.
    """
    line = {title: [(x, y) for x, y, _ in points]}
    return _chart(title, unit, line, errors=[error for _, _, error in points], by=by)


def _series(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Of each figure its steps and values."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for key, value in {**row.get("session", {}), **row}.items():
            # A value that is not finite has no place on the paper.
            number = isinstance(value, int | float) and math.isfinite(value)
            if number and not isinstance(value, bool) and key not in _COUNTERS:
                found.setdefault(key, []).append((row["step"], value))
    return found


def _varies(lines: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    return len({value for points in lines.values() for _, value in points}) > 1


def _is_figure(key: str) -> bool:
    """Whether a key is more than a time, or a held-out figure of a curve that is drawn already."""
    return not key.endswith(("runtime", "_per_second", "_time", "seconds", "/std"))


def _chart(
    title: str,
    unit: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    styles: Sequence[str] = (),
    errors: Sequence[float] = (),
    by: str = "step",
) -> Chart:
    """A drawing of some lines.

    Args:
        title: The figure's name.
        unit: Of its values.
        lines: Name → steps and values.
        styles: The names in the order of their looks; by default that of the lines.
        errors: Of each point of the first line how far it may be off; none: nothing is drawn.
        by: What goes across.
    """
    order, stepwise = list(styles or lines), by == "step"
    steps = [step for points in lines.values() for step, _ in points]
    values = [value for points in lines.values() for _, value in points]
    main = next(iter(lines.values()))
    seen = min(values), max(values)
    ends = [v + s * e for (_, v), e in zip(main, errors, strict=False) for s in (-1, 1)]
    low, high = min(values + ends), max(values + ends)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    begin, end = min(steps), max(max(steps), min(steps) + (1 if stepwise else 1e-6))
    across = (WIDTH - LEFT - MARGIN) / (end - begin)
    up = (TALL - BOTTOM - MARGIN) / (high - low + 2 * room)

    def x(step: float) -> float:
        return round(LEFT + (step - begin) * across, 1)

    def y(value: float) -> float:
        return round(TALL - BOTTOM - (value - low + room) * up, 1)

    curves = []
    for name, points in lines.items():
        places = [(x(step), y(value)) for step, value in (points if errors else thinned(points))]
        drawn = " ".join(f"{a},{b}" for a, b in places)
        bars = [
            (x(step), y(value - error), y(value + error))
            for (step, value), error in zip(points, errors, strict=False)
        ]
        curves.append(Curve(name, drawn, places[-1], order.index(name), bars))
    caption = f"{said(main[0][1])} → {said(main[-1][1])}, between {' and '.join(map(said, seen))}"
    marks = [Tick(x(step), said(step)) for step in ticks(begin, end, whole=stepwise)]
    heights = [Tick(y(value), said(value)) for value in ticks(low - room, high + room)]
    keyed = len(order) > 1
    return Chart(title, unit, caption, curves, marks, heights, keyed=keyed, by=by)


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """About `POINTS` of the points: the lowest and highest of each stretch, and the last."""
    if len(points) <= POINTS:
        return list(points)
    size = math.ceil(len(points) / (POINTS // 2))
    kept: list[tuple[float, float]] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        ends = {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
        kept += sorted(ends)
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Three to six round values between two.

    Args:
        low: The least.
        high: The greatest; more than the least.
        whole: Whether they are whole numbers.
    """
    least = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(least * by for by in (1, 2, 5, 10) if (high - low) / (least * by) <= 5.001)
    step = max(step, 1.0) if whole else step
    count = math.floor(high / step + 1e-9) - math.ceil(low / step - 1e-9)
    first = math.ceil(low / step - 1e-9)
    return [(first + i) * step for i in range(count + 1)]


def said(value: float) -> str:
    """A number in few characters.

    >>> [said(v) for v in (0, 0.25, 1500, 12000, 0.00002)]
    ['0', '0.25', '1500', '12k', '2e-05']
    """
    if abs(value) >= 1e4 and abs(value) < 1e6:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"


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

    def told(value: float) -> str:
        return f"{value:.0%}" if percent else f"{value:.0f}"

    across, most = (WIDTH - 2 * MARGIN) / BINS, max(counts)
    bars = []
    for i, count in enumerate(counts):
        x, height = round(MARGIN + i * across, 1), round((HEIGHT - 2 * MARGIN) * count / most, 1)
        words = f"{told(low + i * width)} to {told(low + (i + 1) * width)}: {count}"
        bars.append((x, HEIGHT - MARGIN - height, round(across - 1, 1), height, words))
    middle = ordered[(len(ordered) - 1) // 2]
    caption = f"{told(ordered[0])} to {told(ordered[-1])}, median {told(middle)}"
    return Histogram(title, caption, bars)
