"""Checked rows → a data set of one schema, or a file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.data.check import Checked
from modelforge.data.ledger import Ledger
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset

# Columns of a prompt file that would collide with what TRL passes to reward functions, or that
# make it take the row for another kind. Their content is in ``prompt`` and ``answer``.
RESERVED = frozenset(
    {
        *("prompt", "prompts", "completion", "completions", "completion_ids"),
        *("chosen", "rejected", "messages", "image", "images"),
        *("trainer_state", "log_extra", "log_metric", "environments"),
    }
)


def extra_columns(rows: Iterable[Checked]) -> list[str]:
    """The columns of prompt files that go on to reward functions.

    Raises:
        DataError: If Arrow cannot hold a column of that name.
    """
    names: dict[str, str] = {}
    for item in rows:
        for name in item.row.cells:
            if name not in RESERVED:
                names.setdefault(name, item.row.path)
    # Arrow would cut the name there, and take two columns for one.
    broken = [path for name, path in names.items() if "\0" in name]
    if broken:
        raise DataError(Problem(broken[0], "a column's name holds a NUL character", "rename it"))
    return list(names)


def to_dataset(rows: Sequence[Checked], extra: Sequence[str], ledger: Ledger) -> Dataset:
    """Rows as a data set with one schema."""
    from datasets import Dataset

    columns: dict[str, list[Any]] = {
        name: [item.example[name] for item in rows] for name in rows[0].example
    }
    if ledger.kind == "prompt":
        if "answer" in extra or all(answer is None for answer in columns["answer"]):
            del columns["answer"]
        for name in extra:
            columns[name] = uniform([item.row.cells.get(name) for item in rows], name, ledger)
    return Dataset.from_dict(columns)


# Levels of lists and objects in a cell. datasets takes twice as long for each one more.
DEEPEST = 12


def uniform(values: list[Any], name: str, ledger: Ledger) -> list[Any]:
    """A column of one type: as it is where Arrow can hold it, else as JSON text."""
    import pyarrow

    try:
        if any(deeper(value, DEEPEST) for value in values):
            raise ValueError
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        what = f"column {name} holds values of several types, or nested deeply"
        ledger.note(f"{what}; they are passed on as JSON text")
        return [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str)
            for value in values
        ]
    return values


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie more than so many levels deep in each other."""
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not levels or any(deeper(each, levels - 1) for each in inner)


def write_normal_form(rows: Dataset | Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write rows in normal form as JSON lines.

    Returns:
        The number of rows written.

    Raises:
        DataError: If the file cannot be written.
    """
    count = 0
    try:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n")
                count += 1
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be written: {error.strerror}")) from None
    return count
