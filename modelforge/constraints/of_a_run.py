"""The constraints of a config, and those that a run was trained with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.common.paths import find_path
from modelforge.config import Config
from modelforge.constraints.constraints import Constraints
from modelforge.errors import ConfigError, Problem, UserError

#: A file, ``none`` or the entries themselves; None where nothing is asked for.
Asked = str | Sequence[Mapping[str, Any]] | None

#: What `--constraints` takes for none of those that the run was trained with.
NONE = "none"


def of_config(config: Config) -> Constraints | None:
    """The constraints of a config; None where it has none.

    Raises:
        UserError: With everything that is wrong with them.
    """
    given: Any = config.settings.constraints
    where = f"{config.name}: constraints"
    return None if given is None else _read(given, config.base_dir, where)


def of_recorded(recorded: Mapping[str, Any], asked: Asked, *, said: str) -> Constraints | None:
    """Those that a model is held to: the ones that are asked for, else its run's own.

    Args:
        recorded: The config of its run; empty where there is none.
        asked: A file, ``none``, entries, or None for the run's.
        said: How the user named the model.

    Raises:
        UserError: With everything that is wrong with them.
    """
    if asked == NONE:
        return None
    if asked is not None:
        return _read(asked, Path(), "--constraints")
    given = recorded.get("constraints")
    try:
        return None if given is None else _read(given, Path(), f"{said}: constraints")
    except UserError as error:
        fix = "name a file of constraints with --constraints, or none"
        problems = (Problem(p.where, p.what, f"{p.fix}; or {fix}") for p in error.problems)
        raise ConfigError(*problems) from None


def _read(given: Any, base_dir: Path, where: str) -> Constraints:
    if not isinstance(given, str):
        return Constraints(given, base_dir=base_dir, where=where)
    path = find_path(given, base_dir, wanted=Path.is_file)
    if path is None:
        fix = "name a JSON file that holds a list of them"
        raise ConfigError(Problem(where, f"there is no file {given}", fix))
    return Constraints(path)


def constraint_problems(config: Config) -> Iterator[Problem]:
    """Everything that is wrong with a config's constraints; no model of them is loaded."""
    try:
        of_config(config)
    except UserError as error:
        yield from error.problems
