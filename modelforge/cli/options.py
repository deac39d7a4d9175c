"""What the commands share: their common options, and how they print JSON."""

from __future__ import annotations

import atexit
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from modelforge.common.console import quieten
from modelforge.common.libraries import libraries_heard
from modelforge.common.progress import doing

ConfigFile = Annotated[
    Path, typer.Argument(help="A JSON or YAML config, or a run's folder.", show_default=False)
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a key, over the file. Repeatable."),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", help="Let a config that asks for it run the model's own code."
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option("--num-processes", help="Processes that train together, one a card.", min=1),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a machine.")]
# Every command has these two: `modelforge.cli.main` adds them.
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print every value chosen for you.")]


def with_processes(overrides: list[str] | None, num_processes: int | None) -> list[str]:
    """The overrides, with the number of processes where the command line says one."""
    said = [] if num_processes is None else [f"distributed.num_processes={num_processes}"]
    return [*(overrides or ()), *said]


@contextmanager
def working(*, as_json: bool, lasting: bool = False) -> Iterator[None]:
    """Around the work of a command: libraries are quiet, and stdout stays free for the JSON.

    What a library prints to stdout goes to stderr, whether it writes to `sys.stdout` or, as
    compiled code and child processes do, to the file descriptor.

    Args:
        as_json: Whether the command prints JSON when the work is done.
        lasting: Whether the command goes on until its user ends it, and needs no bar for that.
    """
    quieten()
    with libraries_heard(), nullcontext() if lasting else doing("at work"):
        if not as_json:
            yield
            return
        with _stdout_elsewhere():
            yield


@contextmanager
def _stdout_elsewhere() -> Iterator[None]:
    """Send to stderr what is written to stdout."""
    real = sys.stdout
    real.flush()
    with redirect_stdout(sys.stderr):
        try:
            number = real.fileno()
        except (OSError, ValueError):  # no file: a test or a notebook has put something else there
            yield
            return
        kept = os.dup(number)
        os.dup2(2, number)
        try:
            yield
        finally:
            os.dup2(kept, number)
            os.close(kept)


def print_json(value: Any) -> None:
    """JSON to stdout, which it has for itself to the end of the process."""
    text = json.dumps(_plain(value), indent=2, ensure_ascii=False, default=str, allow_nan=False)
    typer.echo(text)
    # Libraries print a last word when the process ends.
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout.flush()
        atexit.register(os.dup2, 2, 1)


def _plain(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
