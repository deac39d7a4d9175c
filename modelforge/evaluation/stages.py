"""A run in stages as a whole: its figures, its page and its card, beside those of each stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.evaluation.page import html_report
from modelforge.evaluation.report import figures_of, rows_of, verdict_of
from modelforge.runs import files
from modelforge.runs.folder import RunDir


def write_whole(root: Path, stages: Mapping[str, str], strategy: str) -> None:
    """Write ``results.json``, ``report.html`` and ``README.md`` of a run whose stages are done.

    Args:
        root: Its folder.
        stages: Their folders' names in it by stage, the last one with the model.
        strategy: The name of the whole's.
    """
    run = RunDir(root)
    results = {
        name: RunDir(root / folder).read_json(files.RESULTS) for name, folder in stages.items()
    }
    last = list(stages.values())[-1]
    run.write_json(
        files.RESULTS,
        {
            "strategy": strategy,
            "steps": sum(result["steps"] for result in results.values()),
            "model": f"{last}/{files.MODEL}",
            "stages": {
                name: {"run": stages[name], "steps": result["steps"]}
                | {key: result[key] for key in ("before", "after", "verdict") if key in result}
                for name, result in results.items()
            },
        },
    )
    parts = [
        (name, stages[name], result["steps"], figures_of(result), verdict_of(result))
        for name, result in results.items()
    ]
    run.write_text(files.REPORT, html_report(root))
    run.write_text(files.CARD, _card(root.name, _summary(strategy, parts), parts, last))


def _summary(strategy: str, parts: Sequence[Any]) -> str:
    return f"{strategy} in {len(parts)} stages: {', '.join(part[0] for part in parts)}"


def _card(name: str, summary: str, parts: Sequence[Any], last: str) -> str:
    """The whole in Markdown."""
    lines = [f"# {name}", f"{summary}. The model is in `{last}/{files.MODEL}`; as a `model_name`, "
             "the folder of the whole stands for it."]  # fmt: skip
    for stage, folder, steps, figures, verdict in parts:
        table = rows_of(("held-out", "before", "after"), figures) or "No rows were held out."
        lines += [f"## {stage}", f"{steps} steps, in `{folder}`.", table]
        lines += [verdict] if verdict else []
    return "\n\n".join(lines) + "\n"
