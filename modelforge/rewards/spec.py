"""Read and check the config's ``rewards`` list without running or loading any of it."""

from __future__ import annotations

import ast
import inspect
import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.rewards.builtin import BUILTIN

#: What TRL hands to every reward function besides the columns of the data.
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra",
                 "log_metric", "environments")  # fmt: skip


@dataclass(frozen=True)
class RewardSpec:
    """One entry of ``rewards``: a name, its share of the sum, and what the function is given."""

    name: str
    weight: float = 1.0
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``builtin``, ``file`` (``path.py:function``) or ``model`` (a folder or a hub id)."""
        if self.name in BUILTIN:
            return "builtin"
        return "file" if re.search(r"\.py:[^:/\\]*$", self.name) else "model"

    def file_and_function(self, base_dir: Path) -> tuple[Path, str]:
        """The file and the function's name, for the kind ``file``."""
        path, _, function = self.name.rpartition(":")
        return base_dir / path, function


def reward_model_arguments(
    *, max_length: int | None = None, batch_size: int = 16, use_4bit: bool = False
) -> None:
    """The arguments of a reward model, as the config may give them.

    Args:
        max_length: Keep the last so many tokens of prompt and completion; None keeps all.
        batch_size: Texts scored at once.
        use_4bit: Load the reward model in 4-bit (nf4).
    """
    if batch_size < 1 or (max_length is not None and max_length < 1):
        raise ValueError("batch_size and max_length must be at least 1")


def parse_rewards(value: Any, *, where: str, base_dir: Path = Path()) -> list[RewardSpec]:
    """The rewards of a config, checked: names, arguments, patterns, files; nothing is run.

    Args:
        value: The config's list; each entry a name or ``{"name", "weight", "arguments"}``.
        where: Its place, for the messages: ``config.json: rewards``.
        base_dir: The folder that relative paths start from: the config's own.

    Raises:
        ConfigError: with every problem found.
    """
    if not isinstance(value, list) or not value:
        fix = 'give a list: ["numeric_answer"]'
        raise ConfigError(Problem(where, "must be a list of rewards, not empty", fix))
    problems: list[Problem] = []
    specs: list[RewardSpec] = []
    for i, entry in enumerate(value):
        spec = _read_entry(entry, f"{where}[{i}]", problems)
        if spec is not None:
            specs.append(spec)
            check = {"builtin": _check_builtin, "file": _check_file, "model": _check_model}
            problems += check[spec.kind](spec, f"{where}[{i}]", base_dir)
    if specs and not problems and all(spec.weight == 0 for spec in specs):
        problems.append(Problem(where, "all weights are 0: nothing is rewarded"))
    if problems:
        raise ConfigError(*problems)
    return specs


def reward_columns(specs: Iterable[RewardSpec], *, base_dir: Path = Path()) -> set[str]:
    """The columns of the data that the rewards read, so that they are missed before a run starts.

    A built-in reads its ``column``; a user's function reads what its signature names without a
    default, besides what TRL itself hands over and what ``arguments`` binds.
    """
    columns: set[str] = set()
    for spec in specs:
        if spec.kind == "builtin":
            parameter = inspect.signature(BUILTIN[spec.name]).parameters.get("column")
            if parameter is not None:
                columns.add(spec.arguments.get("column", parameter.default))
        elif spec.kind == "file":
            node = _find_function(*spec.file_and_function(base_dir))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = _required_names(node)
                columns |= names - {*TRL_ARGUMENTS} - spec.arguments.keys()
    return columns


def _read_entry(entry: Any, where: str, problems: list[Problem]) -> RewardSpec | None:
    """One entry in its full form; None, with the problems noted, where it cannot be read."""
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        fix = '{"name": "regex", "weight": 0.2, "arguments": {"pattern": "\\\\d"}}'
        problems.append(Problem(where, "must be a name, or an object with a name", fix))
        return None
    fields = ("name", "weight", "arguments")
    for key in entry.keys() - set(fields):
        problems.append(Problem(f"{where}.{key}", "unknown key", did_you_mean(key, fields)))
    weight, arguments = entry.get("weight", 1.0), entry.get("arguments", {})
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        problems.append(Problem(f"{where}.weight", f"must be a number, not {weight!r}"))
        weight = 1.0
    if not isinstance(arguments, Mapping):
        problems.append(Problem(f"{where}.arguments", f"must be an object, not {arguments!r}"))
        arguments = {}
    return RewardSpec(entry["name"].strip(), float(weight), dict(arguments))


def _check_builtin(spec: RewardSpec, where: str, base_dir: Path) -> list[Problem]:
    return _check_call(BUILTIN[spec.name], spec, where)


def _check_call(function: typing.Callable, spec: RewardSpec, where: str) -> list[Problem]:
    """The arguments against the function's keyword-only signature, then by calling it."""
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    problems = []
    for key, value in spec.arguments.items():
        place = f"{where}.arguments.{key}"
        if key not in parameters:
            fix = did_you_mean(key, parameters)
            problems.append(Problem(place, f"'{spec.name}' has no such argument", fix))
            continue
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            problems.append(Problem(place, f"{error.errors()[0]['msg']}, not {value!r}"))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in spec.arguments:
            problems.append(Problem(f"{where}.arguments", f"'{spec.name}' needs '{key}'"))
    if not problems:
        try:
            function(**spec.arguments)
        except ValueError as error:
            problems.append(Problem(f"{where}.arguments", f"'{spec.name}': {error}"))
    return problems


def _check_file(spec: RewardSpec, where: str, base_dir: Path) -> list[Problem]:
    """The file parses, and holds a function that can be called as TRL calls it."""
    path, name = spec.file_and_function(base_dir)
    if not path.is_file():
        return [Problem(where, f"no such file: {path}")]
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        return [Problem(where, f"{path} is not Python: {error}")]
    node = _find_function(path, name)
    if node is None:
        known = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        return [Problem(where, f"{path.name} has no function '{name}'", did_you_mean(name, known))]
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []  # a name bound by assignment or import: its signature is known once it runs
    if node.args.kwarg is None:
        what = f"'{name}' must take **kwargs: it is given every column of the data and more"
        return [Problem(where, what, f"def {name}(completions, **kwargs): ...")]
    return []


def _find_function(path: Path, name: str) -> ast.stmt | None:
    """The top-level statement of the file that binds ``name``, the last one as Python would."""
    found = None
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = {node.name}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound = {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound = {target.id for target in node.targets if isinstance(target, ast.Name)}
        else:
            continue
        found = node if name in bound else found
    return found


def _required_names(node: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    positional = [*node.args.posonlyargs, *node.args.args]
    without_default = positional[: len(positional) - len(node.args.defaults)]
    keyword_only = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {a.arg for a in without_default} | {a.arg for a, d in keyword_only if d is None}


def _check_model(spec: RewardSpec, where: str, base_dir: Path) -> list[Problem]:
    """A folder that exists must hold a reward model; else the name must look like a hub id."""
    problems = _check_call(reward_model_arguments, spec, where)
    folder = base_dir / spec.name
    if folder.is_dir():
        from modelforge.rewards.folder import folder_problem

        what = folder_problem(folder)
        return problems + ([Problem(where, what)] if what else [])
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", spec.name)
    if hub_id is None or (base_dir / spec.name.split("/")[0]).is_dir():
        if "/" in spec.name:
            return [*problems, Problem(where, f"no such folder: {folder}")]
        fix = did_you_mean(spec.name, BUILTIN) or "or file.py:function, or a reward model's folder"
        return [Problem(where, f"unknown reward '{spec.name}'", fix)]
    return problems
