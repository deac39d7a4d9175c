"""What helps to write a config: `modelforge init`, `strategies`, `profiles` and `schema`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge import registry
from modelforge.cli.options import AsJson, print_json, working
from modelforge.configfile import schema as schemas
from modelforge.configfile.presets import EXAMPLE_ROWS, write_preset
from modelforge.machine.hardware import list_profiles


def init(
    strategy: Annotated[str, typer.Argument(help="sft, qlora, reward, dpo, grpo, …")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="Commented YAML instead of JSON.")] = False,
) -> None:
    """Write a config that trains as it comes, with a few example rows beside it."""
    config, data, examples = write_preset(strategy, output, yaml=yaml)
    if examples:
        typer.echo(f"wrote {config}, and {EXAMPLE_ROWS} example rows to {data}")
    else:
        typer.echo(f"wrote {config}; {data} was there already and stays as it is")
    typer.echo(f"next: `modelforge check {config}`, then `modelforge train {config}`")
    typer.echo("For a run of your own, set model_name and dataset. A gated model needs HF_TOKEN.")


def strategies(as_json: AsJson = False) -> None:
    """List the strategies."""
    with working(as_json=as_json):  # a package's own strategies are imported
        listed = {name: registry.get_strategy(name) for name in registry.list_strategies()}
    if as_json:
        print_json(
            {
                name: {
                    "summary": cls.summary,
                    "data": cls.data_kind,
                    "measure": cls.measure.label,
                    "defaults": {k: v for k, (v, _) in cls.defaults.items()},
                }
                for name, cls in listed.items()
            }
        )
        return
    for name, cls in listed.items():
        typer.echo(f"{name:8} {cls.summary}; data: {cls.data_kind}; measure: {cls.measure.label}")


def profiles(as_json: AsJson = False) -> None:
    """List the hardware profiles and what they set."""
    listed = list_profiles()
    if as_json:
        print_json([vars(profile) for profile in listed])
        return
    for profile in listed:
        typer.echo(f"{profile.name:5} {profile.summary}")
        typer.echo("      " + ", ".join(f"{k} {v}" for k, v in profile.defaults.items()))


def schema(
    strategy: Annotated[str, typer.Argument(help="Whose schema to print.")],
    build: Annotated[
        bool, typer.Option("--build", help="Make it anew from the installed TRL.")
    ] = False,
) -> None:
    """Print a strategy's JSON Schema."""
    with working(as_json=True):
        chosen = registry.get_strategy(strategy)
        document = schemas.build(chosen) if build else schemas.load(chosen)
    print_json(document)
