"""What there is: `modelforge strategies`, `profiles` and `schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from modelforge.cli.options import AsJson, print_json, working


def strategies(as_json: AsJson = False) -> None:
    """List the strategies."""
    from modelforge import registry

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
    from modelforge.machine.hardware import list_profiles

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
    from modelforge import registry
    from modelforge.configfile import schema as schemas

    with working(as_json=True):
        chosen = registry.get_strategy(strategy)
        document = schemas.build(chosen) if build else schemas.load(chosen)
    print_json(document)
