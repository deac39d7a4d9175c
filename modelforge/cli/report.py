"""`modelforge report` and `modelforge runs`: a run on one page, and all runs in a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import say, show_table
from modelforge.common.files import write_whole
from modelforge.errors import Problem, RunError
from modelforge.runs import files
from modelforge.runs.folder import RunDir

RUNS = Path("runs")


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File of the page.")] = None,
) -> None:
    """Write a run's page anew, from its folder alone; a run in stages is one page."""
    with working(as_json=False):
        from modelforge.evaluation.page import html_report

        if not run.is_dir():
            raise RunError(Problem(str(run), "is no folder", "give the folder of a finished run"))
        page, target = html_report(run.resolve()), output or run / files.REPORT
        try:
            write_whole(target, page)
        except OSError as error:
            what = f"cannot be written: {error.strerror}"
            raise RunError(Problem(str(target), what, "name another with --output")) from None
    say(f"wrote {target}")


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = RUNS,
    as_json: AsJson = False,
) -> None:
    """List the runs below a folder: what each was judged by, before and after."""
    with working(as_json=as_json):
        if not folder.is_dir():
            raise RunError(Problem(str(folder), "is no folder", "name the folder of your runs"))
        found = list(_runs(folder))
    if as_json:
        print_json(found)
        return
    titles = ("run", "strategy", "steps", "judged by", "before", "after", "verdict")
    rows = [
        (r["run"], r["strategy"], _shown(r["steps"]), r["label"] or "not finished",
         _shown(r["before"]), _shown(r["after"]), _words(r["words"]))
        for r in found
    ]  # fmt: skip
    show_table(titles, rows)


def _runs(folder: Path) -> Iterator[dict[str, Any]]:
    for choices in sorted(folder.rglob(files.CHOICES), key=lambda path: path.stat().st_mtime):
        run = RunDir(choices.parent)
        config, results = run.read_json(files.CONFIG) or {}, run.read_json(files.RESULTS) or {}
        key = results.get("measure", "")
        findings = results.get("compared", {}).get("findings", ())
        yield {
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


def _words(words: list[str]) -> str:
    told = {"better": "better", "worse": "worse", "unsure": "not distinguishable"}
    return ", ".join(f"{words.count(w)} {shown}" for w, shown in told.items() if w in words)


def _shown(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}"
