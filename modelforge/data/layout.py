"""What a layout of columns is, and what its cells may be held against."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelforge.data.convert import Converter, DataKind
from modelforge.data.dialogue import Skip, is_messages, to_messages


def is_number(value: Any) -> bool:
    """Whether a cell is a number, also one written as text (as in CSV)."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Whether a cell is a list."""
    return isinstance(value, list)


def is_text(value: Any) -> bool:
    """Whether a cell is one text or number, not a structure."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def is_dialogue(value: Any) -> bool:
    """Whether a cell is a conversation that the assistant does not begin."""
    if not is_messages(value):
        return False
    try:
        return to_messages(value)[0]["role"] != "assistant"
    except Skip:
        return False


@dataclass(frozen=True)
class Format:
    """One layout of columns.

    Attributes:
        name: For the ledger.
        columns: Role → the column names that may fill it, the first found counts. All are needed.
            Names are compared in lower case, blanks and hyphens as ``_``.
        convert: Makes the examples.
        serves: The kinds it can make.
        optional: Roles filled if there.
        values: Role → what at least half its cells must look like in the first rows.
        alone: Whether the file must have no other column.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    convert: Converter
    serves: frozenset[DataKind]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)
    alone: bool = False
