"""`modelforge init`: a config to start from, of a preset or of another trainer's file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelforge.cli.options import AsJson, Overrides, print_json, working
from modelforge.common.console import are_heard, say, warn
from modelforge.common.files import write_whole, writing
from modelforge.errors import ConfigError, Problem, RunError, did_you_mean

if TYPE_CHECKING:
    from modelforge.configfile.presets import Written


def init(
    strategy: Annotated[
        str | None,
        typer.Argument(help="sft, dpo, grpo, …, or a pipeline: sft-dpo, …", show_default=False),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; a pipeline's folder.")
    ] = None,
    yaml: Annotated[bool, typer.Option("--yaml", help="YAML instead of JSON.")] = False,
    family: Annotated[
        str | None, typer.Option("--family", help="A family of models: qwen3, llama, gemma, ….")
    ] = None,
    profile: Annotated[
        str | None, typer.Option("--profile", help="The card: cpu, low, mid, high or max.")
    ] = None,
    size: Annotated[
        str | None, typer.Option("--size", help="demo (10 rows), prototype (1,000) or full.")
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Carry over a config of TRL, LLaMA-Factory, Axolotl, ms-swift, Unsloth, ….",
        ),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", help="The trainer of FILE, if its keys do not tell.")
    ] = "",
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Write a config that trains as it comes, or the configs of a pipeline; or carry one over."""
    preset = {"--family": family, "--profile": profile, "--size": size}
    with working(as_json=as_json):
        if from_ is not None:
            _refuse([n for n, value in preset.items() if value], "has no effect with --from")
            told = _carry_over(from_, strategy or "", project, set_ or [], output, yaml=yaml)
        else:
            given = [n for n, value in (("--project", project), ("--set", set_)) if value]
            _refuse(given, "goes with --from FILE")
            told = _write(strategy, output, (family, profile, size), yaml=yaml)
            lines = told.pop("lines")
            for line in lines if are_heard() else ():
                typer.echo(line, err=as_json)
    if as_json:
        print_json(told)
    elif from_ is not None and output is None:
        typer.echo(told["text"], nl=False)


def _refuse(options: list[str], what: str) -> None:
    if options:
        raise ConfigError(*(Problem(f"init {name}", what, "leave it out") for name in options))


def _write(
    name: str | None,
    output: Path | None,
    asked: tuple[str | None, str | None, str | None],
    *,
    yaml: bool,
) -> dict[str, Any]:
    """Write a preset's config, or a pipeline's, and say what comes next."""
    from modelforge import registry
    from modelforge.configfile.presets import write_pipeline, write_preset
    from modelforge.configfile.starts import Asked, starts

    known = [*registry.list_strategies(), *starts()["pipelines"]]
    if name is None:
        fix = f"name one of {', '.join(known)}, or --from FILE"
        raise ConfigError(Problem("init", "names no strategy", fix))
    if name not in known:
        fix = did_you_mean(name, known)
        if "did you mean" not in fix:
            fix = f"name one of {', '.join(known)}"
        raise ConfigError(Problem(f"init {name}", "is no strategy and no pipeline", fix))
    if name in starts()["pipelines"]:
        written = write_pipeline(name, output, Asked(*asked), yaml=yaml)
        folder = written[0].config.parent
        steps = [f"modelforge train {each.config.name}" for each in written]
        next_ = [f"cd {folder}", f"modelforge check {written[0].config.name}", *steps]
    else:
        chosen = Asked(*asked) if any(asked) else None
        written = [write_preset(name, output, yaml=yaml, asked=chosen)]
        config = written[0].config
        next_ = [f"modelforge check {config}", f"modelforge train {config}"]
    lines = [_told(each) for each in written]
    lines += [f"next: {', then '.join(f'`{line}`' for line in next_)}"]
    lines += ["For a run of your own, set model_name and dataset. A gated model needs HF_TOKEN."]
    return {
        "configs": [str(each.config) for each in written],
        "data": sorted({str(each.data) for each in written}),
        "next": next_,
        "lines": lines,
    }


def _told(written: Written) -> str:
    from modelforge.configfile.presets import EXAMPLE_ROWS

    config, data, examples = written
    if examples:
        return f"wrote {config}, and {EXAMPLE_ROWS} example rows to {data}"
    return f"wrote {config}; {data} was there already and stays as it is"


def _carry_over(
    path: Path,
    strategy: str,
    project: str,
    overrides: list[str],
    output: Path | None,
    *,
    yaml: bool,
) -> dict[str, Any]:
    """A config of another trainer as ours, written if so asked; say what became of each key."""
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
    if told := counted(found):
        warn(told)
    say(f"next: {'' if output else 'save it, then '}`modelforge check {output or 'FILE'}`")
    return {"config": found.config, "text": text, "keys": [asdict(line) for line in found.lines],
            "written": [str(file) for file in [*whole, *([output] if output else [])]]}  # fmt: skip
