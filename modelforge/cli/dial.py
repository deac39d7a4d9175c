"""`modelforge dial`: how much of a run to keep, measured, and one such model saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, TrustRemoteCode, print_json, working


def dial(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    at: Annotated[
        float | None, typer.Option("--at", help="Save this share: 0 is the start, 1 the end.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="FIGURE>=VALUE", help="Save the best that meets it."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where to save it.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Measure models between a run's start and its end, and save the one that is asked for."""
    with working(as_json=as_json):
        from modelforge.training.dial import dial as dial_run

        found = dial_run(
            run, at=at, keep=keep or (), output=output, trust_remote_code=trust_remote_code
        )
    if as_json:
        figures = {f"{share:g}": dict(each) for share, each in found.figures.items()}
        folder = None if found.folder is None else str(found.folder)
        print_json({"figures": figures, "chosen": found.chosen, "folder": folder})
