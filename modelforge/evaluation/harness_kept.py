"""What lm-evaluation-harness kept of a model, read as an evaluation of ours.

So models are held together by it row by row, with paired statistics; lm-eval's own comparison takes
both as independent, and needs many more rows to see the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.errors import Problem, RunError
from modelforge.evaluation import kept
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.metrics import Metric

_Z = 1.959963984540054


def holds_rows(folder: Path) -> bool:
    """Whether a folder holds a finished evaluation, of ours or of lm-eval."""
    return _results(folder) is not None and any(folder.glob("samples_*.jsonl"))


def read_kept(folder: Path, model: str) -> Evaluation:
    """A finished evaluation of a folder, of ours or of lm-eval.

    Args:
        folder: For which `holds_rows` is true.
        model: How the model is to be called.

    Raises:
        RunError: If its files are damaged.
    """
    path = _results(folder)
    try:
        ours = path is not None and path.name == kept.RESULTS and "modelforge" in _object(path)
    except (OSError, ValueError, TypeError) as error:
        fix = "delete the folder, and make it anew"
        raise RunError(Problem(str(folder), f"is damaged: {error}", fix)) from None
    found = kept.read(folder) if ours else read_harness(folder, model)
    assert found is not None, "the folder holds a finished evaluation"
    return found


def read_harness(folder: Path, model: str) -> Evaluation | None:
    """A finished evaluation of lm-eval, or None; loads no library that trains.

    Args:
        folder: Of `modelforge benchmark`, or of ``lm_eval --output_path --log_samples``; of several
            dates in it the last one.
        model: How the model is to be called.

    Raises:
        RunError: If its files are damaged.
    """
    path = _results(folder)
    if path is None:
        return None
    try:
        stored = _object(path)
        rows, table = _rows(path, stored)
        metrics, intervals = {}, {}
        for task, name, value, error in figures(stored):
            measure = f"{task} {name}"
            metrics[measure] = value
            intervals[measure] = _interval(rows, table.get(measure), value, error)
        tasks = ",".join(stored["results"])
        return Evaluation(model, tasks, folder, metrics, intervals, rows, table, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        fix = "delete the folder: its rows are then scored again"
        raise RunError(Problem(str(folder), f"is damaged: {error!r}", fix)) from None


def _results(folder: Path) -> Path | None:
    """The file of the last results."""
    own = folder / kept.RESULTS
    return own if own.is_file() else max(folder.glob("results_*.json"), default=None)


def _object(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def figures(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float, float | None]]:
    """Of each task and measure its value and standard error, None where lm-eval gives none."""
    for task, own in results["results"].items():
        for key, value in own.items():
            name, comma, how = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = own.get(f"{name}_stderr,{how}")
            shown = _called(name, how)
            yield task, shown, float(value), error if isinstance(error, int | float) else None


def _called(name: str, how: str) -> str:
    return name if how == kept.FILTER else f"{name} ({how})"


def _rows(
    results: Path, stored: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Metric]]:
    """The rows of all tasks, and the measures that each row has a number for."""
    date = results.stem.removeprefix("results")
    found: list[dict[str, Any]] = []
    table: dict[str, Metric] = {}
    for task in stored["results"]:
        path = results.with_name(f"samples_{task}{date}.jsonl")
        if not path.is_file():  # a group of tasks
            continue
        better = stored.get("higher_is_better", {}).get(task) or {}
        known: dict[Any, dict[str, Any]] = {}
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                number = f"{task}/{row['doc_id']}"
                whole = known.setdefault(number, row | {"doc_id": number})
                for name in row["metrics"]:
                    value = row.get(name)
                    if isinstance(value, bool | int | float) and math.isfinite(value):
                        measure = f"{task} {_called(name, row['filter'])}"
                        whole[measure] = float(value)
                        table[measure] = _metric(measure, better.get(name))
        found += known.values()
    shares = {name: all(row.get(name) in (None, 0.0, 1.0) for row in found) for name in table}
    return found, {
        name: Metric(name, name, "share" if shares[name] else "score", m.better, "answers")
        for name, m in table.items()
    }


def _metric(name: str, better: bool | None) -> Metric:
    return Metric(name, name, "score", better, "answers")


def _interval(
    rows: Sequence[Mapping[str, Any]], metric: Metric | None, value: float, error: float | None
) -> tuple[float, float]:
    """By the rows where the figure is their mean; else by lm-eval's standard error."""
    from modelforge.evaluation.statistics import mean_interval

    values = [] if metric is None else [r[metric.name] for r in rows if metric.name in r]
    if values:
        mean, low, high = mean_interval(values)
        if math.isclose(mean, value, rel_tol=1e-9, abs_tol=1e-12):
            return low, high
    return (math.nan, math.nan) if error is None else (value - _Z * error, value + _Z * error)
