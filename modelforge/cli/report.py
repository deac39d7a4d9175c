"""`modelforge report` and `modelforge runs`: a run on one page, and all runs in a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import say, show_table
from modelforge.common.files import write_whole
from modelforge.errors import Problem, RunError
from modelforge.runs import files

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
        from modelforge.evaluation.listing import TITLES, cells, listed

        found = listed(folder)
    if as_json:
        print_json(found)
        return
    show_table(TITLES, map(cells, found))
