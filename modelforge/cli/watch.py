"""`modelforge watch` and `modelforge board`: runs as they train, in terminal and browser."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from modelforge.cli.options import AsJson, print_json, working
from modelforge.cli.report import RUNS
from modelforge.common.console import console, say
from modelforge.common.progress import clock, on_terminal
from modelforge.errors import Problem, RunError
from modelforge.redact import redact
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.runs.standing import Standing

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 48  # characters of a curve
_FIGURES = 6  # curves that are shown
_WORDS = {"begins": "begins", "trains": "trains", "stopped": "was stopped", "ended": "has ended"}


def watch(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, or one of runs: its newest is watched.")
    ] = RUNS,
    every: Annotated[
        float, typer.Option("--every", help="Seconds between two looks.", min=0.1)
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's figures as it trains, from its folder alone, until it ends or stops."""
    with working(as_json=as_json, lasting=True):
        from modelforge.runs.folder import RunDir
        from modelforge.runs.standing import standing

        folder = _newest(run)
        now = standing(RunDir(folder))
        if not once and not as_json:
            now = _followed(run, every)
            folder = _newest(run)
        else:
            for line in lines(folder, now):
                say(line)
    if as_json:
        print_json(
            {"run": str(folder), "state": now.state, "step": now.step, "share": now.share,
             "seconds_left": now.left, "figures": last_figures(now.rows),
             "warnings": list(now.warnings)}
        )  # fmt: skip


def _newest(folder: Path) -> Path:
    """The run there, or the newest below: of a run in stages the stage that it is at.

    Raises:
        RunError: If there is none.
    """
    from modelforge.runs.standing import runs_below

    if (folder / files.CHOICES).is_file():
        return folder
    found = runs_below(folder) if folder.is_dir() else []
    if not found:
        what = "is no folder" if not folder.is_dir() else "holds no run yet"
        raise RunError(Problem(str(folder), what, "give a run's folder, or one of runs"))
    return found[-1]


def _followed(where: Path, every: float) -> Standing:
    """Look again and again until the run ends or stops; its last standing."""
    from modelforge.runs.folder import RunDir
    from modelforge.runs.standing import standing

    told = -1
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            folder = _newest(where)
            now = standing(RunDir(folder))
            going = now.state in ("begins", "trains")
            if not going:
                break
            if on_terminal():
                texts = [Text(redact(line), no_wrap=True) for line in lines(folder, now)]
                live.update(Group(*texts), refresh=True)
            elif now.step != told:
                told = now.step
                say(lines(folder, now)[1])
            time.sleep(every)
    for line in lines(folder, now):
        say(line)
    if now.state == "ended":
        results = RunDir(folder).read_json(files.RESULTS)
        say(results.get("compared", {}).get("told") or results.get("verdict", ""))
    else:
        say(f"`modelforge train {folder}` goes on with it")
    return now


def lines(folder: Path, now: Standing) -> list[str]:
    """A run's standing as text: its state, its last figures, and a curve of each."""
    told = f"step {now.step}"
    if now.share is not None:
        filled = round(now.share * 24)
        told = f"{'█' * filled}{'░' * (24 - filled)} {now.share:.0%}, {told}"
    if now.left is not None:
        told += f", about {clock(now.left)} left"
    figures = last_figures(now.rows)
    width = max(map(len, figures), default=0)
    curves = [
        f"{key.ljust(width)}  {spark(values_of(now.rows, key))}  {value:.4g}"
        for key, value in figures.items()
    ]
    warnings = [f"warning: {each.get('what', each)}" for each in now.warnings[-3:]]
    return [f"{folder} {_WORDS[now.state]}", told, *curves, *warnings]


def last_figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last value of each figure that a reader wants to see first."""
    from modelforge.web.charts import SHOWN

    keys = [key for shown in SHOWN for key in (shown[0], shown[3]) if key]
    found = {key: values_of(rows, key) for key in keys}
    shown = {key: values[-1] for key, values in found.items() if values}
    return dict(list(shown.items())[:_FIGURES])


def values_of(rows: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """Every finite value of a figure, in order."""
    values = [row.get(key, row.get("session", {}).get(key)) for row in rows]
    return [v for v in values if isinstance(v, int | float) and abs(v) < float("inf")]


def spark(values: Sequence[float]) -> str:
    """A curve of characters: the mean of each of at most `_WIDE` stretches.

    >>> spark([0, 1, 2, 3])
    '▁▃▅█'
    """
    count = min(len(values), _WIDE)
    cut = [round(i * len(values) / count) for i in range(count + 1)] if count else [0]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(cut) if b > a]
    low, high = min(means, default=0.0), max(means, default=0.0)
    reach = (high - low) or 1.0
    return "".join(_BARS[int((value - low) / reach * (len(_BARS) - 1))] for value in means)


def board(
    folder: Annotated[Path, typer.Argument(help="Where to look for runs.")] = RUNS,
    port: Annotated[
        int, typer.Option("--port", help="Of this machine; 0: any that is free.", min=0, max=65535)
    ] = 7878,
) -> None:
    """Show all runs in a browser of this machine, as they train. Ctrl-C ends it."""
    with working(as_json=False, lasting=True):
        from modelforge.evaluation.board import Board
        from modelforge.web.server import LOOPBACK, server

        if not folder.is_dir():
            raise RunError(Problem(str(folder), "is no folder", "name the folder of your runs"))
        with server(Board(folder).page, port) as served:
            say(f"runs below {folder}: http://{LOOPBACK}:{served.server_address[1]}/")
            say("on this machine alone; Ctrl-C ends it")
            try:
                served.serve_forever()
            except KeyboardInterrupt:
                say("ended")
