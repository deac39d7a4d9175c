"""Configs to start from: what `modelforge init` writes."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from yaml import safe_dump as to_yaml

from modelforge import registry
from modelforge.common.files import write_whole
from modelforge.configfile import schema
from modelforge.configfile.starts import Asked, pipeline, start
from modelforge.errors import Problem, RunError

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"  # not gated, and small enough for any machine
EXAMPLE_ROWS = 64
# What the rows of a kind are called beside a config, and where the tiny model's stand.
_EXAMPLES = {
    "demonstration": ("data.jsonl", "sft_train"),
    "preference": ("preferences.jsonl", "preference_train"),
    "labelled": ("answers.jsonl", "labelled_train"),
    "prompt": ("problems.jsonl", "prompts_train"),
}


class Written(NamedTuple):
    """What `write_preset` wrote.

    Attributes:
        config: The config.
        data: The file that it trains on.
        examples: Whether example rows were written there; no, where the file was there already.
    """

    config: Path
    data: Path
    examples: bool


def preset(strategy: str) -> dict[str, Any]:
    """The shipped config of a strategy; where none is shipped, one with what must be said."""
    shipped = files("modelforge.configs") / f"{strategy}.json"
    if shipped.is_file():
        return json.loads(shipped.read_text(encoding="utf-8"))
    data, _ = _EXAMPLES[registry.get_strategy(strategy).data_kind]
    return {"strategy": strategy, "model_name": MODEL, "dataset": data}


def tiny_preset(strategy: str, tiny: Path) -> dict[str, Any]:
    """The shipped config that trains the tiny model, with its paths in the folder `tiny`."""
    shipped = files("modelforge.configs") / "tiny" / f"{strategy}.json"
    values = json.loads(shipped.read_text(encoding="utf-8"))
    for key in ("model_name", "dataset", "eval_dataset"):
        values[key] = str(tiny / values[key].partition("examples/tiny/")[2])
    return values


def write_preset(
    strategy: str, output: Path | None, *, yaml: bool = False, asked: Asked | None = None
) -> Written:
    """Write a config that trains as it comes, and beside it its schema and example rows.

    The schema is what an editor completes the config with. Rows that are there already stay.

    Args:
        strategy: A strategy's name.
        output: The file; by default ``STRATEGY.json`` here.
        yaml: Write YAML with a comment for each key.
        asked: A preset of the table `starts`; by default the shipped config of the strategy.

    Raises:
        UserError: If a name is unknown, or a file is in the way.
    """
    chosen = registry.get_strategy(strategy)
    target = output or Path(f"{strategy}.{'yaml' if yaml else 'json'}")
    values = preset(strategy) if asked is None else start(strategy, asked)
    yaml = yaml or target.suffix in (".yaml", ".yml")
    return _write(chosen, values, target, yaml=yaml)


def write_pipeline(
    name: str, output: Path | None, asked: Asked, *, yaml: bool = False
) -> list[Written]:
    """Write the configs of a pipeline into a folder, each with its rows; they train in order.

    Args:
        name: Of the table `starts`.
        output: The folder; by default one of the pipeline's name here.
        asked: Family, profile and size.
        yaml: Write YAML with a comment for each key.

    Raises:
        UserError: If a name is unknown, or a file is in the way.
    """
    folder, ending = output or Path(name), "yaml" if yaml else "json"
    stages = pipeline(name, asked)
    for file in stages:
        _refuse_there(folder / f"{file}.{ending}")
    return [
        _write(
            registry.get_strategy(values["strategy"]), values, folder / f"{file}.{ending}",
            yaml=yaml,
        )
        for file, values in stages.items()
    ]  # fmt: skip


def _refuse_there(target: Path) -> None:
    if target.exists():
        raise RunError(Problem(str(target), "is there already", "name another with --output"))


def _write(strategy: type[Strategy], said: dict[str, Any], target: Path, *, yaml: bool) -> Written:
    """Write a config, its schema, and example rows where there are none."""
    _refuse_there(target)
    beside = target.with_name(f"{strategy.name}.schema.json")
    document = schema.load(strategy)
    name, examples = _EXAMPLES[strategy.data_kind]
    data = target.with_name(name)
    values = {"dataset": name} | {key: value for key, value in said.items() if key != "$schema"}
    first = ("strategy", "model_name", "teacher_model", "dataset")
    values = {k: values[k] for k in (*first, *values) if k in values}
    if yaml:
        text = _commented(values, document, beside.name)
    else:
        text = json.dumps({"$schema": beside.name, **values}, indent=2) + "\n"
    try:
        new = not data.exists()
        if new:
            write_whole(data, _example_rows(examples))
        write_whole(beside, json.dumps(document, indent=1) + "\n")
        write_whole(target, text)  # last: where it is, all is
    except OSError as error:
        raise RunError(
            Problem(
                str(target), f"cannot be written: {error.strerror}", "name another with --output"
            )
        ) from None
    return Written(target, data, new)


def _example_rows(name: str) -> str:
    """The first rows that the tiny model learns from."""
    shipped = files("modelforge.tiny") / "data" / f"{name}.jsonl"
    lines = shipped.read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(lines[:EXAMPLE_ROWS])


def _commented(values: dict[str, Any], document: dict[str, Any], schema_name: str) -> str:
    """YAML with what each key means above it."""
    lines = [f"# yaml-language-server: $schema={schema_name}"]
    for key, value in values.items():
        text = document["properties"].get(key, {}).get("description")
        if text:
            lines.append(f"# {text}")
        entry = to_yaml({key: value}, sort_keys=False, allow_unicode=True)
        lines.append(entry.rstrip())
    return "\n".join(lines) + "\n"
