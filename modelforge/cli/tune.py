"""`modelforge tune`: trials of a config side by side, and the best of them kept."""

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


def tune(
    config: ConfigFile,
    trials: Annotated[
        int | None,
        typer.Option("--trials", help="How many rates, a third of the config's to thrice.", min=1),
    ] = None,
    rates: Annotated[
        str | None, typer.Option("--rates", help="Learning rates to try, such as 1e-4,3e-4.")
    ] = None,
    ranks: Annotated[str | None, typer.Option("--ranks", help="LoRA ranks to try.")] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Seeds to try.")] = None,
    keep: Annotated[
        str,
        typer.Option("--keep", help="best, or average: that of all adapters, if it is better."),
    ] = "best",
    to_the_end: Annotated[
        bool, typer.Option("--to-the-end", help="Train every trial to its end.")
    ] = False,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Train trials of a config in one pass, and keep the best by the held-out measure."""
    with working(as_json=as_json):
        from modelforge.training.tune import asked
        from modelforge.training.tune import tune as tune_config

        grid = asked(trials=trials, rates=rates, ranks=ranks, seeds=seeds, keep=keep)
        found = tune_config(
            config, overrides=set_ or (), **grid,
            to_the_end=to_the_end, trust_remote_code=trust_remote_code,
        )  # fmt: skip
    if as_json:
        assert found.result is not None, "the best one is trained"
        print_json(found.to_dict() | {"run_dir": str(found.result.run_dir)})
