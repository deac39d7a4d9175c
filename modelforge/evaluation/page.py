"""A finished run on one page, made from its folder alone: `html_report`.

The page has no script and asks for nothing outside; every text of it is escaped. A run in stages is
one page with a part for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelforge import registry
from modelforge.data.ledger import Ledger
from modelforge.evaluation.against_kl import over_optimised
from modelforge.evaluation.report import (
    choices,
    figures_of,
    forgotten,
    of_greedy,
    remembered,
    results_of,
    stopped,
    usage_of,
    verdict_of,
)
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.web import charts, render
from modelforge.web.page import chat_turns, shown_text


def html_report(folder: Path, results: Mapping[str, Any] | None = None) -> str:
    """The page: the verdict, curves, figures, samples, data, choices, and how to use the model.

    Args:
        folder: The run's folder.
        results: What ``results.json`` is going to hold, where it is not written yet.

    Raises:
        RunError: If the run is not finished and no results are given.
    """
    stages = (RunDir(folder).read_json(files.STAGES) or {}).get("stages", {})
    parts = [
        _part(RunDir(folder / stage["run"]), None, name=name) for name, stage in stages.items()
    ] or [_part(RunDir(folder), results, name=folder.name)]
    return render("report.html", title=folder.name, parts=parts)


def _part(run: RunDir, results: Mapping[str, Any] | None, *, name: str) -> dict[str, Any]:
    """One run's part of the page."""
    results = results or results_of(run)
    strategy = registry.get_strategy(run.read_json(files.CONFIG)["strategy"])
    said = (verdict_of, of_greedy, forgotten, remembered, stopped)
    notes = [note(results).replace("`", "") for note in said]  # the card's, in Markdown
    return {
        "name": name,
        "folder": run.path.name,
        "findings": [
            {**found, "change": _change(found)}
            for found in results.get("compared", {}).get("findings", ())
        ],
        "main": _main(results),
        "notes": [note for note in notes if note],
        "summary": strategy.summary,
        "steps": results["steps"],
        "charts": charts(run.read_lines(files.METRICS)),
        "over": over_optimised(run),
        "figures": figures_of(results),
        "samples": [_sample(row) for row in run.read_lines(files.SAMPLES)],
        "data": "\n".join(Ledger.from_dict(run.read_json(files.DATA)).summary_lines()),
        "choices": [
            (key, choice["value"], choice["source"], choice["reason"])
            for key, choice in choices(run).items()
        ],
        "machine": list(_machine(run)),
        "files": [
            (entry, meaning)
            for entry, meaning in files.TABLE.items()
            if not entry.startswith(".")
            # The page is written before the results, whose presence ends a run.
            if entry in (files.REPORT, files.RESULTS) or (run.path / entry).exists()
        ],
        "usage": usage_of(run, strategy.head, results),
    }


def _main(results: Mapping[str, Any]) -> dict[str, str] | None:
    """The figure that the run is judged by; None where no rows were held out."""
    after = results["after"].get(results["measure"])
    if after is None:
        return None
    before = results["before"].get(results["measure"])
    return {
        "label": results["label"],
        "before": "–" if before is None else f"{before:.4g}",
        "after": f"{after:.4g}",
    }


def _change(found: Mapping[str, Any]) -> str:
    told = f"{found['first']:.4g} → {found['second']:.4g}"
    if found["low"] is not None:
        told += f", by {found['by']:+.3g} [{found['low']:+.3g}, {found['high']:+.3g}]"
    return f"{told}, {found['rows']} rows"


_SIDES = {
    "reference": "reference",
    "completion_before": "before",
    "completion": "after",
    "chosen": "chosen",
    "rejected": "rejected",
}
_SCORES = {"chosen": "score_chosen", "rejected": "score_rejected"}


def _sample(row: Mapping[str, Any]) -> dict[str, Any]:
    """A sample as a conversation, with the answers side by side."""
    sides = []
    for key, name in _SIDES.items():
        if key not in row:
            continue
        score = _SCORES.get(key, "")
        if score in row:
            first = row.get(f"{score}_before")
            begun = "" if first is None else f"{first:.4g} → "
            name = f"{name}, score {begun}{row[score]:.4g}"
        sides.append({"name": name, "text": shown_text(row[key]) or "(nothing)"})
    return {
        "turns": chat_turns(row.get("prompt", "")),
        "sides": sides,
    }


def _machine(run: RunDir) -> Iterator[tuple[str, str]]:
    """Where it ran, on what, for how long, and with which memory."""
    environment = run.read_json(files.ENVIRONMENT)
    hardware = environment["hardware"]
    yield "machine", f"{hardware['device_name']}, {hardware['cores']} cores"
    yield "memory", f"{hardware['ram_gb']} GiB, of the card {hardware['vram_gb']} GiB"
    seconds = [
        row["session"]["seconds"]
        for row in run.read_lines(files.METRICS)
        if "seconds" in row.get("session", {})
    ]
    if seconds:
        yield "training", f"{max(seconds):.0f} s"
    plan = run.read_json(files.PLAN) or {}
    for name in ("predicted", "measured"):
        peak = plan.get(name, {}).get("peak_reserved")
        if peak:
            yield f"peak memory, {name}", f"{peak / 2**30:.2f} GiB"
    for name, version in environment["versions"].items():
        yield name, version
