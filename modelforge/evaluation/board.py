"""`modelforge board`: all runs in a table, the page of each, and curves of several over each other.

Pages are made when they are asked for, so that a run that trains is seen as it stands. They have no
script: what is still trained is asked for again every few seconds by the page's own head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelforge.common.progress import clock
from modelforge.errors import UserError
from modelforge.evaluation.listing import TITLES, cells, listed
from modelforge.evaluation.page import html_report
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.runs.standing import standing
from modelforge.web import charts, overlaid, render

MOST = 6  # runs whose curves can be told apart
_REFRESH = 5  # seconds
_WORDS = {
    "begins": "it begins",
    "trains": "it trains",
    "stopped": "it was stopped; `modelforge train` with its folder goes on with it",
    "ended": "it has ended",
}


class Board:
    """The pages of a folder's runs.

    Args:
        folder: Where to look for runs.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def page(self, path: str, query: Mapping[str, list[str]]) -> str | None:
        """The page at a path; None where there is none.

        Only folders that hold a run below the board's own are read, whatever the path says.
        """
        if path == "/":
            return self._table()
        runs = self._runs()
        if path == "/curves":
            chosen = [name for name in runs if name in query.get("run", ())]
            return self._curves({name: runs[name] for name in chosen})
        name = path.removeprefix("/run/").removesuffix(f"/{files.REPORT}").strip("/")
        if path.startswith("/run/") and name in runs:
            try:
                return self._run(name, runs[name])
            except UserError as error:
                return render("message.html", title=name, lines=[str(p) for p in error.problems])
        return None

    def _runs(self) -> dict[str, Path]:
        """The folders of runs by their names, those in stages too."""
        found: dict[str, Path] = {}
        for pattern in (files.STAGES, files.CHOICES):
            for path in self.folder.rglob(pattern):
                found[str(path.parent.relative_to(self.folder))] = path.parent
        return found

    def _table(self) -> str:
        rows = []
        for line in reversed(listed(self.folder)):
            name = str(Path(line["run"]).relative_to(self.folder))
            told = [name, *cells(line)[1:]]
            rows.append({"name": name, "link": f"/run/{quote(name)}/", "cells": told[1:]})
        wholes = [
            {"name": name, "link": f"/run/{quote(name)}/"}
            for name, path in sorted(self._runs().items())
            if (path / files.STAGES).is_file()
        ]
        return render(
            "board.html",
            title=f"Runs below {self.folder}",
            head=TITLES[1:],
            rows=rows,
            wholes=wholes,
            most=MOST,
        )

    def _run(self, name: str, path: Path) -> str:
        run = RunDir(path)
        if run.finished:
            return html_report(path)
        if (path / files.STAGES).is_file():
            stages = [n for n in self._runs() if n.startswith(f"{name}/")]
            lines = ["Its stages have not all ended."]
            links = [{"name": each, "link": f"/run/{quote(each)}/"} for each in stages]
            return render("message.html", title=name, lines=lines, links=links)
        now = standing(run)
        told = [_WORDS[now.state], f"step {now.step}"]
        if now.share is not None:
            told.append(f"{now.share:.0%} done")
        if now.left is not None:
            told.append(f"about {clock(now.left)} left")
        return render(
            "live.html",
            title=name,
            refresh=_REFRESH if now.state in ("begins", "trains") else 0,
            told=", ".join(told),
            warnings=[str(each.get("what", each)) for each in now.warnings],
            charts=charts(now.rows),
        )

    def _curves(self, runs: Mapping[str, Path]) -> str:
        rows: dict[str, Any] = {}
        notes = []
        if len(runs) > MOST:
            notes.append(f"{len(runs)} runs are chosen, and the first {MOST} are drawn.")
        for name, path in list(runs.items())[:MOST]:
            try:
                rows[name] = standing(RunDir(path)).rows
            except UserError as error:
                notes.append(f"{name} is left out: {error.problems[0]}.")
        return render(
            "curves.html",
            title="Curves of several runs",
            note=" ".join(notes),
            charts=overlaid(rows),
        )
