"""Figures of a part of the rows: by the values of a column."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from modelforge.evaluation.compare import parts_of
from modelforge.evaluation.evaluate import values_of
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.seen import rows_seen
from modelforge.evaluation.statistics import mean_interval


def slices(found: Evaluation, by: str) -> dict[str, dict[str, Any]]:
    """Of each value of a column its rows, figures and their intervals.

    Raises:
        ConfigError: If the data has no such column, or it has too many values.
    """
    return {part: figures(found, ids) for part, ids in list(parts_of(found, by))[1:]}


def figures(found: Evaluation, ids: Iterable[int]) -> dict[str, Any]:
    """The ``rows``, ``metrics`` and ``intervals`` of a part of the rows, by their numbers."""
    wanted = set(ids)
    rows = [row for row in found.rows if row["doc_id"] in wanted]
    metrics, intervals = {}, {}
    for name, metric in found.table.items():
        mean, low, high = mean_interval(*values_of(rows, metric))
        metrics[name], intervals[name] = mean, [low, high]
    return {"rows": len(rows), "metrics": metrics, "intervals": intervals}


def without_seen(found: Evaluation) -> dict[str, Any]:
    """The figures without the rows that were trained on; empty where none was."""
    seen = set(rows_seen(found.seen, runs=True))
    rest = [row["doc_id"] for row in found.rows if row["doc_id"] not in seen]
    return figures(found, rest) if seen else {}
