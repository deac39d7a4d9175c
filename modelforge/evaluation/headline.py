"""The figure that a run is judged by: its interval, and what chance or the start gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.measuring.intervals import change, wilson
from modelforge.measuring.rows import GREEDY_REWARD, mean
from modelforge.strategy import Measure

Rows = Sequence[Mapping[str, Any]]


def judged(measure: Measure, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """How sure the measure is, for ``results.json``; empty without held-out rows.

    Args:
        measure: The figure.
        before: What `modelforge.evaluation.results.measured` found before training.
        after: The same of the trained model.

    Returns:
        ``rows``: how many; ``chance``: what guessing gets, or None; ``interval``: the 95 %
        interval of the share of right rows or, without a chance level, of the change since the
        start (None where it cannot be told); ``verdict``: both in words.
    """
    value = after["figures"].get(measure.key)
    rows: Rows = after["rows"]
    if value is None or not rows:
        return {}
    if measure.chance is not None:
        interval = wilson(value, len(rows))
        verdict = _against(measure.chance, interval, better=measure.higher_is_better)
        said = (
            f"95 % interval {interval[0]:.3g} to {interval[1]:.3g} of {len(rows)}; "
            f"chance is {measure.chance:g}: {verdict}"
        )
        return _found(rows, measure.chance, interval, said)
    name = measure.key.removeprefix("eval_")
    pairs = [
        (first[name], last[name], last["weight"])
        for first, last in zip(before["rows"], rows, strict=False)
        if first.get(name) is not None and last.get(name) is not None
    ]
    moved = change(*zip(*pairs, strict=True)) if pairs else None
    if moved is None:
        few = ", too few for an interval" if pairs else ""
        return _found(rows, None, None, f"{len(rows)} rows{few}")
    by, interval = moved
    said = (
        f"change {by:+.3g}, 95 % interval {interval[0]:+.3g} to {interval[1]:+.3g} "
        f"of {len(pairs)} rows"
    )
    verdict = _since_the_start(interval, better=measure.higher_is_better)
    return _found(rows, None, interval, f"{said}: {verdict}")


def greedy(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any] | None:
    """How the likeliest answers are rewarded, for ``results.json``; None where none were given.

    Args:
        before: What `modelforge.evaluation.results.measured` found before training.
        after: The same of the trained model.

    Returns:
        ``rows``: prompts; ``before`` (None where it was not measured) and ``after``: the mean
        reward of their likeliest answers; ``sampled``: that of their sampled answers after
        training; ``interval``: the 95 % interval of the change; ``told``: all in words.
    """
    both = [(row[GREEDY_REWARD], row["reward"]) for row in after["rows"] if _given(row)]
    if not both:
        return None
    pairs = [
        (first[GREEDY_REWARD], last[GREEDY_REWARD], 1.0)
        for first, last in zip(before["rows"], after["rows"], strict=False)
        if _given(first) and _given(last)
    ]
    last, sampled = (mean((value, 1.0) for value in side) for side in zip(*both, strict=True))
    begun = mean((first, 1.0) for first, _, _ in pairs) if pairs else None
    moved = change(*zip(*pairs, strict=True)) if pairs else None
    told = f"greedy answers to {len(both)} of the prompts: reward "
    told += f"{last:.4g}" if begun is None else f"{begun:.4g} → {last:.4g}"
    if moved is not None:
        told += f", 95 % interval of the change {moved[1][0]:+.3g} to {moved[1][1]:+.3g}"
    return {
        "rows": len(both),
        "before": begun,
        "after": last,
        "sampled": sampled,
        "interval": None if moved is None else list(moved[1]),
        "told": f"{told}; sampled answers to them: {sampled:.4g}",
    }


def _given(row: Mapping[str, Any]) -> bool:
    return row.get(GREEDY_REWARD) is not None and row.get("reward") is not None


def _found(
    rows: Rows, chance: float | None, interval: tuple[float, float] | None, verdict: str
) -> dict[str, Any]:
    listed = None if interval is None else list(interval)
    return {"rows": len(rows), "chance": chance, "interval": listed, "verdict": verdict}


def _against(chance: float, interval: tuple[float, float], *, better: bool) -> str:
    low, high = interval
    if low <= chance <= high:
        return "not told apart from chance"
    return "better than chance" if (low > chance) == better else "worse than chance"


def _since_the_start(interval: tuple[float, float], *, better: bool) -> str:
    low, high = interval
    if low <= 0 <= high:
        return "not told apart from no change"
    return "better than the start" if (low > 0) == better else "worse than the start"
