"""Check the config's rewards without running or loading any of them."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from modelforge.config import RewardEntry
from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.rewards.builtin import BUILTIN
from modelforge.rewards.constrained import (
    CONSTRAINTS,
    constrained_problems,
    constraint_arguments,
)
from modelforge.rewards.functions import (
    function_problem,
    names_file,
    names_module,
    required_names,
)
from modelforge.rewards.upstream import FROM_TRL

#: What TRL hands to every reward function besides the columns of the data.
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra",
                 "log_metric", "environments")  # fmt: skip

Kind = Literal["builtin", "constraints", "trl", "file", "module", "model"]


def kind_of(name: str) -> Kind:
    """What a reward's name names; ``model`` is a reward model's folder or hub id."""
    if name in BUILTIN:
        return "builtin"
    if name == CONSTRAINTS:
        return "constraints"
    if name in FROM_TRL:
        return "trl"
    if names_file(name):
        return "file"
    return "module" if names_module(name) else "model"


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


def parse_rewards(
    entries: Sequence[str | RewardEntry], *, where: str, base_dir: Path = Path()
) -> list[RewardEntry]:
    """The rewards in full form, checked: names, arguments, patterns, sources; nothing is run.

    Args:
        entries: As the config holds them, at least one.
        where: Their place, for the messages: ``config.json: rewards``.
        base_dir: The folder that relative paths start from: the config's own.

    Raises:
        ConfigError: with every problem found.
    """
    full = [RewardEntry(name=e) if isinstance(e, str) else e for e in entries]
    full = [entry.model_copy(update={"name": entry.name.strip()}) for entry in full]
    problems: list[Problem] = []
    for i, entry in enumerate(full):
        problems += _problems(entry, f"{where}[{i}]", base_dir)
    if not problems and all(entry.weight == 0 for entry in full):
        problems.append(Problem(where, "all weights are 0: nothing is rewarded"))
    if problems:
        raise ConfigError(*problems)
    return full


def reward_columns(entries: Iterable[RewardEntry], *, base_dir: Path = Path()) -> set[str]:
    """The columns of the data that the rewards read, so that they are missed before a run starts.

    A built-in reads its ``column``; a user's function reads what its signature names without a
    default, besides what TRL itself hands over and what ``arguments`` binds.
    """
    columns: set[str] = set()
    for entry in entries:
        kind = kind_of(entry.name)
        if kind == "builtin":
            parameter = inspect.signature(BUILTIN[entry.name]).parameters.get("column")
            if parameter is not None:
                columns.add(entry.arguments.get("column", parameter.default))
        elif kind == "trl":
            columns |= set(FROM_TRL[entry.name].columns)
        elif kind in ("file", "module"):
            names = required_names(entry.name, base_dir)
            columns |= names - {*TRL_ARGUMENTS} - entry.arguments.keys()
    return columns


def _problems(entry: RewardEntry, where: str, base_dir: Path) -> list[Problem]:
    kind = kind_of(entry.name)
    if kind == "builtin":
        return _check_call(BUILTIN[entry.name], entry, where)
    if kind == "constraints":
        wrong = _check_call(constraint_arguments, entry, where)
        return wrong or constrained_problems(entry, where, base_dir)
    if kind == "trl":
        theirs = FROM_TRL[entry.name]
        missing = theirs.missing(entry.name, where)
        return [*_check_call(theirs.arguments, entry, where), *missing]
    if kind == "model":
        return _check_model(entry, where, base_dir)
    problem = function_problem(entry.name, where, base_dir)
    return [problem] if problem else []


def _check_call(function: typing.Callable, entry: RewardEntry, where: str) -> list[Problem]:
    """The arguments against the function's keyword-only signature, then by calling it."""
    parameters = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    problems = []
    for key, value in entry.arguments.items():
        place = f"{where}.arguments.{key}"
        if key not in parameters:
            fix = did_you_mean(key, parameters)
            problems.append(Problem(place, f"'{entry.name}' has no such argument", fix))
            continue
        try:
            TypeAdapter(hints[key]).validate_python(value, strict=True)
        except ValidationError as error:
            problems.append(Problem(place, f"{error.errors()[0]['msg']}, not {value!r}"))
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in entry.arguments:
            problems.append(Problem(f"{where}.arguments", f"'{entry.name}' needs '{key}'"))
    if not problems:
        try:
            function(**entry.arguments)
        except ValueError as error:
            problems.append(Problem(f"{where}.arguments", f"'{entry.name}': {error}"))
    return problems


def _check_model(entry: RewardEntry, where: str, base_dir: Path) -> list[Problem]:
    """A folder that exists must hold a reward model; else the name must look like a hub id."""
    problems = _check_call(reward_model_arguments, entry, where)
    folder = base_dir / entry.name
    if folder.is_dir():
        from modelforge.rewards.folder import folder_problem

        what = folder_problem(folder)
        return problems + ([Problem(where, what)] if what else [])
    hub_id = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", entry.name)
    if hub_id is None or (base_dir / entry.name.split("/")[0]).is_dir():
        if "/" in entry.name:
            return [*problems, Problem(where, f"no such folder: {folder}")]
        fix = (
            did_you_mean(entry.name, [*BUILTIN, *FROM_TRL, CONSTRAINTS])
            or "or file.py:function, or a reward model's folder"
        )
        return [Problem(where, f"unknown reward '{entry.name}'", fix)]
    return problems
