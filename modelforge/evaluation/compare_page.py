"""`modelforge compare --html`: verdicts, figures, and the rows that differ most, on one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.evaluation.compare import Verdict
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.seen import told
from modelforge.web import render
from modelforge.web.page import chat_turns

SAMPLES = 8  # rows that are shown
_MARKS = {"better": "▲ better", "worse": "▼ worse", "not distinguishable": "= not distinguishable"}
_HALF = 56  # pixels from no change to the longest end of an interval


def compare_page(
    found: Sequence[Evaluation], verdicts: Sequence[Verdict], *, notes: Sequence[str] = ()
) -> str:
    """The page; it has no script and asks for nothing outside.

    Args:
        found: Evaluations of the same rows, the baseline first.
        verdicts: Of `modelforge.evaluation.compare.compare`.
        notes: What else is to be said, a line each.
    """
    first = found[0]
    names = list(first.metrics)
    seen = [f"{each.model}: {line}" for each in found for line in told(each.seen)]
    return render(
        "compare.html",
        title=" against ".join([", ".join(each.model for each in found[1:]), first.model]),
        first=first.model,
        rows=len(first.rows),
        task=first.task,
        models=[
            {"name": name, "verdicts": [_told(v) for v in verdicts if v.model == name]}
            for name in dict.fromkeys(verdict.model for verdict in verdicts)
        ],
        head=["measure", *(each.model for each in found)],
        figures=[[name, *(_figure(each, name) for each in found)] for name in names],
        notes=[*notes, *seen],
        samples=_samples(found, verdicts),
    )


def _told(verdict: Verdict) -> dict[str, Any]:
    change = verdict.change
    known = math.isfinite(change.low)
    interval = f" [{change.low:+.3g}, {change.high:+.3g}]" if known else ""
    where = f" ({verdict.part})" if verdict.part else ""
    kind = {"better": "better", "worse": "worse"}.get(verdict.word, "unsure")
    return {
        "label": f"{verdict.metric.label}{where}",
        "word": _MARKS.get(verdict.word, verdict.word),
        "kind": kind,
        "figures": f"{verdict.first:.4g} → {verdict.second:.4g}",
        "change": f"{change.by:+.3g}{interval}",
        "bar": _bar((change.low, change.by, change.high)) if known else None,
        "p": f"{verdict.p:.2g}",
    }


def _bar(ends: tuple[float, float, float]) -> list[float]:
    """Where an interval and its middle stand; no change stands in the middle of the drawing."""
    reach = max(map(abs, ends)) or 1.0
    return [round(60 + end / reach * _HALF, 1) for end in ends]


def _figure(found: Evaluation, name: str) -> str:
    if name not in found.metrics:
        return "–"
    low, high = found.intervals[name]
    interval = f" [{low:.3g}, {high:.3g}]" if math.isfinite(low) else ""
    return f"{found.metrics[name]:.4g}{interval}"


def _samples(found: Sequence[Evaluation], verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """The rows whose figure moved most from the baseline, by the first measure that tells."""
    moved = [v for v in verdicts if v.metric.primary and not v.part and v.change.by != 0]
    names = [v.metric.name for v in sorted(moved, key=lambda v: v.p)]
    rows = [{row["doc_id"]: row for row in each.rows} for each in found]
    if not names or not any(row["resps"][0] for each in rows for row in each.values()):
        return []
    order = sorted(rows[0], key=lambda number: -_gap(rows, number, names[0]))
    return [_sample(found, rows, number, names[0]) for number in order[:SAMPLES]]


def _gap(rows: Sequence[Mapping[int, Mapping[str, Any]]], number: int, name: str) -> float:
    values = [each[number].get(name) for each in rows]
    known = [value for value in values if value is not None]
    return max(known) - min(known) if len(known) == len(values) else -1.0


def _sample(
    found: Sequence[Evaluation],
    rows: Sequence[Mapping[int, Mapping[str, Any]]],
    number: int,
    name: str,
) -> dict[str, Any]:
    sides = [{"name": "reference", "text": rows[0][number]["target"] or "(nothing)"}]
    for each, own in zip(found, rows, strict=True):
        row = own[number]
        value = row.get(name)
        figure = "" if value is None else f", {name} {value:.4g}"
        answer = row["resps"][0][0] if row["resps"][0] else ""
        sides.append({"name": f"{each.model}{figure}", "text": answer or "(nothing)"})
    return {
        "number": number,
        "turns": chat_turns(rows[0][number]["doc"].get("prompt", "")),
        "sides": sides,
    }
