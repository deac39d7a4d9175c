"""All runs below a folder, a line for each: what it was judged by, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelforge.common.console import warn
from modelforge.errors import RunError
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.runs.standing import runs_below

TITLES = ("run", "strategy", "steps", "judged by", "before", "after", "verdict")


def listed(folder: Path) -> list[dict[str, Any]]:
    """Of each run its figures, the newest last; a damaged one is named and left out."""
    found = []
    for path in runs_below(folder):
        try:
            found.append(_line(RunDir(path)))
        except RunError as error:
            warn(str(error))
    return found


def _line(run: RunDir) -> dict[str, Any]:
    config, results = run.read_json(files.CONFIG) or {}, run.read_json(files.RESULTS) or {}
    key = results.get("measure", "")
    findings = results.get("compared", {}).get("findings", ())
    return {
        "run": str(run.path),
        "strategy": config.get("strategy", ""),
        "model": config.get("model_name", ""),
        "finished": run.finished,
        "steps": results.get("steps"),
        "label": results.get("label", ""),
        "before": results.get("before", {}).get(key),
        "after": results.get("after", {}).get(key),
        "words": [found["word"] for found in findings],
    }


def cells(line: dict[str, Any]) -> tuple[str, ...]:
    """A run under `TITLES`, as text."""
    return (
        line["run"],
        line["strategy"],
        _shown(line["steps"]),
        line["label"] or "not finished",
        _shown(line["before"]),
        _shown(line["after"]),
        _words(line["words"]),
    )


def _words(words: Sequence[str]) -> str:
    told = {"better": "better", "worse": "worse", "unsure": "not distinguishable"}
    return ", ".join(f"{words.count(w)} {shown}" for w, shown in told.items() if w in words)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
