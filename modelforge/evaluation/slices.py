"""Figures of a part of the rows: by the values of a column."""

from __future__ import annotations

from typing import Any

from modelforge.evaluation.compare import parts_of
from modelforge.evaluation.evaluate import values_of
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.statistics import mean_interval


def slices(found: Evaluation, by: str) -> dict[str, dict[str, Any]]:
    """Of each value of a column its rows, figures and their intervals.

    Raises:
        ConfigError: If the data has no such column, or it has too many values.
    """
    told = {}
    for part, ids in list(parts_of(found, by))[1:]:
        wanted = set(ids)
        rows = [row for row in found.rows if row["doc_id"] in wanted]
        figures, intervals = {}, {}
        for name, metric in found.table.items():
            mean, low, high = mean_interval(*values_of(rows, metric))
            figures[name], intervals[name] = mean, [low, high]
        told[part] = {"rows": len(rows), "metrics": figures, "intervals": intervals}
    return told
