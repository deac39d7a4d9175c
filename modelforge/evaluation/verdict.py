"""The verdict of a run: what got better, what got worse, and what cannot be told apart.

The figures are those of the rows that were held out, of the rows that came along from earlier runs
(`modelforge.evaluation.guards`) and of neutral texts. Each row is compared with itself before
training; all p values are adjusted together by Holm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modelforge.evaluation.statistics import ALPHA, Change, holm, paired
from modelforge.measuring.rows import mean
from modelforge.strategy import Measure

_WORDS = {"better": "better", "worse": "worse", "unsure": "not distinguishable"}
_NEUTRAL = "loss on texts that have nothing to do with the data"
_LEAST = 8  # rows below which nothing is said


def compared(
    measure: Measure, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The verdict, for ``results.json``; None where there is nothing to compare.

    Args:
        measure: The figure that the run is judged by.
        before: What `modelforge.evaluation.results.measured` found before training.
        after: The same of the trained model.

    Returns:
        ``findings``: of each figure its ``label``, ``first``, ``second``, ``by``, ``low``,
        ``high``, ``p`` (adjusted), ``rows`` and ``word``; ``told``: all in words.
    """
    found = list(_all(measure, before, after))
    if not found:
        return None
    adjusted = holm([change.p for _, _, _, change in found])
    findings = []
    for (label, up, means, change), p in zip(found, adjusted, strict=True):
        word = "unsure"
        if p < ALPHA and change.by:
            word = "better" if (change.by > 0) == up else "worse"
        findings.append(
            {"label": label, "word": word, "first": means[0], "second": means[1], "p": p,
             "by": change.by, "low": _finite(change.low), "high": _finite(change.high),
             "rows": change.rows}
        )  # fmt: skip
    return {"findings": findings, "told": told(findings)}


def told(findings: Sequence[Mapping[str, Any]]) -> str:
    """Findings in words: ``better: …. worse: …. not distinguishable: ….``"""
    groups = []
    for word, shown in _WORDS.items():
        own = [_one(finding) for finding in findings if finding["word"] == word]
        if own:
            groups.append(f"{shown}: {'; '.join(own)}")
    words = ". ".join(groups)
    return f"{words[0].upper()}{words[1:]}."


def _one(finding: Mapping[str, Any]) -> str:
    interval = ""
    if finding["low"] is not None:
        interval = f" [{finding['low']:+.3g}, {finding['high']:+.3g}]"
    return f"{finding['label']} {finding['first']:.4g} → {finding['second']:.4g}{interval}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


Found = tuple[str, bool, list[float], Change]
Rows = Sequence[Mapping[str, Any]]


def _all(measure: Measure, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Found]:
    name = measure.key.removeprefix("eval_")
    yield from _paired(
        measure.label, name, before["rows"], after["rows"], up=measure.higher_is_better
    )
    first, last = before.get("guards") or [], after.get("guards") or []
    for run in dict.fromkeys(row["of"] for row in last):
        own = [[row for row in rows if row["of"] == run] for rows in (first, last)]
        if any("accuracy" in row for row in own[1]):
            label = f"pairs of {run} whose better answer is likelier"
            plain = [[{**row, "weight": 1.0} for row in rows] for rows in own]
            yield from _paired(label, "accuracy", *plain, up=True)
        else:
            yield from _paired(f"loss on rows of {run}", "loss", *own, up=False)
    neutral = [each.get("neutral", {}).get("losses") or [] for each in (before, after)]
    rows = [
        [{"loss": loss, "weight": count} for loss, count in losses if count] for losses in neutral
    ]
    yield from _paired(_NEUTRAL, "loss", *rows, up=False)


def _paired(label: str, name: str, first: Rows, last: Rows, *, up: bool) -> Iterator[Found]:
    """One figure over the rows that have it before and after; none where they are too few."""
    rows = [
        (a[name], b[name], b["weight"])
        for a, b in zip(first, last, strict=False)
        if a.get(name) is not None and b.get(name) is not None and b["weight"]
    ]
    if len(rows) < _LEAST:
        return
    a, b, weights = (list(column) for column in zip(*rows, strict=True))
    alike = len(set(weights)) == 1
    change = paired(a, b, None if alike else weights)
    means = [mean(zip(side, weights, strict=True)) for side in (a, b)]
    yield label, up, means, change
