"""`modelforge sweep`: every combination of a grid trained to its end, and ranked."""

from __future__ import annotations

from typing import Annotated

import typer

from modelforge.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    TrustRemoteCode,
    print_json,
    working,
)


def sweep(
    config: ConfigFile,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid", metavar="KEY=VALUE,…", help="Keys and values: lr=1e-4,3e-4,lora_r=8,16."
        ),
    ] = None,
    max_runs: Annotated[
        int, typer.Option("--max-runs", help="How many runs may be trained.", min=1)
    ] = 32,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train every combination of a grid, and rank the runs. The same command again goes on."""
    with working(as_json=as_json):
        from modelforge.training.grid import read_grid
        from modelforge.training.sweep import sweep as sweep_config

        found = sweep_config(
            config, grid=read_grid(grid or ()), overrides=set_ or (), most=max_runs,
            trust_remote_code=trust_remote_code,
        )  # fmt: skip
    if as_json:
        assert found.result is not None, "the best one is trained"
        print_json(
            found.to_dict() | {"ranked": list(found.said), "run_dir": str(found.result.run_dir)}
        )
