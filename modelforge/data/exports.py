"""Exports of annotation tools → plain cells, which are then recognised as those of any file.

Argilla keeps what is shown in ``fields`` and what people said in ``responses``; its tables have
columns such as ``answer.responses``. Label Studio keeps them in ``data`` and ``annotations``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modelforge.data.again import mapped
from modelforge.data.cells import is_empty
from modelforge.data.read import Row

SAID = ("text", "choices", "selected", "rating", "value")  # where Label Studio keeps what was said
OF_ARGILLA = (".responses", ".suggestion")


def plain(rows: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows with what an annotation tool wrapped around them taken off, and the tool's name."""
    for tool, fits, unwrap in (
        ("Argilla", is_argilla, from_argilla),
        ("Argilla", is_argilla_table, from_argilla_table),
        ("Label Studio", is_label_studio, from_label_studio),
    ):
        if rows and all(fits(row.cells) for row in rows):
            return mapped(rows, partial(unwrapped, unwrap)), tool
    return rows, ""


def unwrapped(unwrap: Callable[[Mapping[str, Any]], dict[str, Any]], row: Row) -> Row:
    """A row after its tool's wrapping was taken off."""
    return Row(unwrap(row.cells), row.path, row.line)


def is_argilla(cells: Mapping[str, Any]) -> bool:
    """Whether a row is a record of Argilla's JSON."""
    return isinstance(cells.get("fields"), Mapping) and ("responses" in cells)


def from_argilla(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Fields, and to each question the first answer, or the suggestion where nobody answered."""
    said: dict[str, Any] = {}
    for source in ("suggestions", "responses"):  # the later wins
        answers = cells.get(source)
        if isinstance(answers, Mapping):
            for question, value in answers.items():
                found = first_value(value)
                if not is_empty(found):
                    said[question] = found
    rest = {k: v for k, v in cells.items() if k not in ("fields", "suggestions", "responses")}
    return {**rest, **cells["fields"], **said}


def first_value(value: Any) -> Any:
    """The first of several answers, out of the object that it may stand in."""
    if isinstance(value, list):
        value = value[0] if value else None
    return value.get("value") if isinstance(value, Mapping) and "value" in value else value


def is_argilla_table(cells: Mapping[str, Any]) -> bool:
    """Whether a row is of a table that Argilla exports."""
    return any(name.endswith(".responses") for name in cells)


def from_argilla_table(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Columns as they are, and ``answer.responses`` (else ``answer.suggestion``) as ``answer``."""
    plain = {k: v for k, v in cells.items() if not any(mark in k for mark in OF_ARGILLA)}
    for ending in reversed(OF_ARGILLA):  # the later wins
        for name, value in cells.items():
            if name.endswith(ending) and not is_empty(first_value(value)):
                plain[name.removesuffix(ending)] = first_value(value)
    return plain


def is_label_studio(cells: Mapping[str, Any]) -> bool:
    """Whether a row is a task of Label Studio's."""
    return isinstance(cells.get("data"), Mapping) and isinstance(cells.get("annotations"), list)


def from_label_studio(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The task's data, and what its first annotation says under the names of its controls."""
    said: dict[str, Any] = {}
    annotations = [a for a in cells["annotations"] if not a.get("was_cancelled")]
    for result in annotations[0].get("result", []) if annotations else []:
        value = result.get("value", {})
        found = next((value[key] for key in SAID if key in value), None)
        said[result.get("from_name", "")] = first_value(found)
    rest = {k: v for k, v in cells.items() if k not in ("data", "annotations")}
    return {**rest, **cells["data"], **said}
