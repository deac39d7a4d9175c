"""What helps to write a config: `modelforge init`, `strategies`, `profiles` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, Overrides, print_json, working
from modelforge.common.console import say, warn
from modelforge.common.files import write_whole, writing
from modelforge.errors import ConfigError, Problem, RunError


def init(
    strategy: Annotated[
        str | None,
        typer.Argument(help="sft, qlora, reward, dpo, grpo, …", show_default=False),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write.")] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="YAML instead of JSON.")] = False,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Carry over a config of TRL, LLaMA-Factory, Axolotl, ms-swift, Unsloth, ….",
        ),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="Whose file it is, where its keys do not tell.")
    ] = "",
    set_: Overrides = None,
) -> None:
    """Write a config that trains as it comes; or carry another trainer's over (--from)."""
    if from_ is not None:
        _carry_over(from_, strategy or "", project, set_ or [], output, yaml=yaml)
        return
    if project or set_:
        raise ConfigError(Problem("init", "--project and --set go with --from FILE"))
    from modelforge import registry
    from modelforge.configfile.presets import EXAMPLE_ROWS, write_preset

    if strategy is None:
        known = ", ".join(registry.list_strategies())
        raise ConfigError(
            Problem("init", "names no strategy", f"name one of {known}, or --from FILE")
        )
    config, data, examples = write_preset(strategy, output, yaml=yaml)
    if examples:
        typer.echo(f"wrote {config}, and {EXAMPLE_ROWS} example rows to {data}")
    else:
        typer.echo(f"wrote {config}; {data} was there already and stays as it is")
    typer.echo(f"next: `modelforge check {config}`, then `modelforge train {config}`")
    typer.echo("For a run of your own, set model_name and dataset. A gated model needs HF_TOKEN.")


def _carry_over(
    path: Path,
    strategy: str,
    project: str,
    overrides: list[str],
    output: Path | None,
    *,
    yaml: bool,
) -> None:
    """Print or write a config of another trainer as ours, and say what became of each key."""
    from yaml import safe_dump as to_yaml

    from modelforge.importing.carry import import_config
    from modelforge.importing.told import counted, table_of

    if output is not None and output.exists():
        raise RunError(Problem(str(output), "is there already", "name another with --output"))
    found = import_config(
        path,
        strategy=strategy,
        project=project,
        overrides=overrides,
        target=output.parent if output is not None else None,
    )
    for line in table_of(found):
        say(line)
    if yaml or (output is not None and output.suffix in (".yaml", ".yml")):
        text = to_yaml(found.config, sort_keys=False, allow_unicode=True)
    else:
        text = json.dumps(found.config, indent=2, ensure_ascii=False) + "\n"
    folder = output.parent if output is not None else Path()
    for name in found.files:
        if (folder / name).exists() and (folder / name).read_text("utf-8") != found.files[name]:
            raise RunError(Problem(str(folder / name), "is there already", "move it away"))
    whole = {folder / name: content for name, content in found.files.items()}
    for file, content in (whole | ({output: text} if output is not None else {})).items():
        with writing(file, "name another place with --output"):
            write_whole(file, content)
        say(f"wrote {file}")
    if output is None:
        typer.echo(text, nl=False)
    if told := counted(found):
        warn(told)
    say(f"next: {'' if output else 'save it, then '}`modelforge check {output or 'FILE'}`")


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
