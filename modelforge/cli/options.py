"""What the commands share: their common options, and how they print JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

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


def with_processes(overrides: list[str] | None, num_processes: int | None) -> list[str]:
    """The overrides, with the number of processes where the command line says one."""
    said = [] if num_processes is None else [f"distributed.num_processes={num_processes}"]
    return [*(overrides or ()), *said]


def print_json(value: Any) -> None:
    """JSON to stdout, which it has for itself."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))
