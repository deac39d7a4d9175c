"""The constraints of a config, and those that a run was trained with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.common.paths import find_path
from modelforge.config import Config
from modelforge.constraints.constraints import Constraints
from modelforge.errors import ConfigError, Problem, RunError, UserError

#: A file, ``none`` or the entries themselves; None where nothing is asked for.
Asked = str | Sequence[Mapping[str, Any]] | None

#: What `--constraints` takes for none of those that the run was trained with.
NONE = "none"

#: Beside an export's weights: those that its run was trained with.
CARRIED = "constraints.json"
_ABOUT = "export.json"


def of_config(config: Config) -> Constraints | None:
    """The constraints of a config; None where it has none.

    Raises:
        UserError: With everything that is wrong with them.
    """
    given: Any = config.settings.constraints
    where = f"{config.name}: constraints"
    return None if given is None else _read(given, config.base_dir, where)


def of_recorded(
    recorded: Mapping[str, Any], asked: Asked, *, said: str, option: bool = True
) -> Constraints | None:
    """Those that a model is held to: the ones that are asked for, else its run's own.

    Args:
        recorded: The config of its run; empty where there is none.
        asked: A file, ``none``, entries, or None for the run's.
        said: How the user named the model.
        option: Whether the command has ``--constraints``.

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
        fix = fix if option else "put the file back that the run was trained with"
        problems = (Problem(p.where, p.what, f"{p.fix}; or {fix}") for p in error.problems)
        raise ConfigError(*problems) from None


def carry(recorded: Mapping[str, Any], folder: Path, *, said: str) -> list[str]:
    """Write a run's constraints beside an export of it; their models are named and stay.

    Args:
        recorded: The config of the run; empty where there is none.
        folder: Of the export.
        said: How the user named the model.

    Returns:
        Their names.

    Raises:
        UserError: With everything that is wrong with them.
    """
    found = of_recorded(recorded, None, said=said)
    if not found:
        return []
    entries = carried_entries(found)
    (folder / CARRIED).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    return [str(entry["name"]) for entry in entries]


def carried_entries(found: Constraints) -> list[dict[str, Any]]:
    """What a file of them holds: it is read elsewhere, so a model's path is whole."""
    entries = []
    for one in found.each:
        entry = one.entry.model_dump(mode="json", exclude_none=True)
        for key in ("classifier", "judge"):
            path = find_path(entry[key], one.base_dir) if key in entry else None
            entry |= {} if path is None else {key: str(path.resolve())}
        entries.append(entry)
    return entries


def beside(folder: Path) -> dict[str, Any]:
    """What an export's folder says of constraints, in the words of a run's config.

    A file that has gone is named too: then it is missed, and no answer goes without it.

    Raises:
        RunError: If what the export says of itself cannot be read.
    """
    path = folder / _ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        fix = "export the model again"
        raise RunError(Problem(str(path), f"cannot be read: {error}", fix)) from None
    said = isinstance(about, dict) and about.get("constraints")
    held = said or (folder / CARRIED).is_file()
    return {"constraints": str((folder / CARRIED).resolve())} if held else {}


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
