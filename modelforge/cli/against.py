"""`modelforge data A --against B`: what rows two sets share. Needs no model and no tokenizer."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import headline, say
from modelforge.errors import ConfigError, Problem
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.data.overlap import Named

FIRST = 10  # shared rows named of each kind


def show_shared(one: Path, other: Path, *, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Say what rows of one set are in the other too.

    Args:
        one: A config (its training rows), a data file or a folder.
        other: The same.
        overrides: ``key=value`` for the first, if it is a config.

    Returns:
        ``rows`` of each, and ``shared``: how → the places in both, row by row.

    Raises:
        UserError: If one of them cannot be read.
    """
    from modelforge.data.overlap import shared

    rows = [rows_of(one, overrides), rows_of(other)]
    found = shared(*rows)
    headline(f"What {one} and {other} share")
    for name, read in zip((one, other), rows, strict=True):
        say(f"{name}: {len(read)} rows")
    for kind, pairs in found.items():
        say(f"{kind}: {len(pairs)} of {len(rows[0])} rows")
        for here, there in pairs[:FIRST]:
            say(f"  {here} = {there}")
        if len(pairs) > FIRST:
            say(f"  … and {len(pairs) - FIRST} more; --json names all")
    if not found:
        say("no row is shared, whole, in its prompt, nearly so, or in a run of its words")
    return {
        "rows": [len(read) for read in rows],
        "shared": {kind: [list(pair) for pair in pairs] for kind, pairs in found.items()},
    }


def rows_of(path: Path, overrides: Iterable[str] = ()) -> list[Named]:
    """The rows of a set in normal form, each with its place."""
    from modelforge.configfile.load import load_config
    from modelforge.data.load import plain_rows
    from modelforge.data.sources import Asked
    from modelforge.training.read import row_limit

    if not is_config(path):
        if not path.exists():
            what = "no such config, data file or folder"
            raise ConfigError(Problem(str(path), what, "check the path"))
        return plain_rows(Asked(str(path)))
    config = load_config(path, overrides=overrides)
    settings = config.settings
    return plain_rows(
        Asked(
            settings.dataset,
            dataset_split=settings.dataset_split,
            columns=settings.columns,
            **row_limit(config),
            seed=settings.seed,
            base_dir=config.base_dir,
        )
    )


def is_config(path: Path) -> bool:
    """Whether a path is a config or a run's folder, and not data."""
    if path.is_dir():
        return any((path / name).is_file() for name in (files.CHOICES, files.STAGES))
    if path.suffix in (".yaml", ".yml"):
        return True
    if path.suffix != ".json" or not path.is_file():
        return False
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(found, dict) or "dataset" not in found:
        return False
    return "strategy" in found or not isinstance(found["dataset"], dict)
