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
SUGGESTED = "-suggestion"
SIDES = ("response_a", "response_b")
NOT_GIVEN = ("discarded", "draft")  # answers that nobody handed in


def plain(rows: Sequence[Row]) -> tuple[Sequence[Row], str]:
    """The rows with what an annotation tool wrapped around them taken off, and the tool's name."""
    for tool, fits, unwrap in (
        ("Argilla", is_argilla, from_argilla),
        ("Argilla", is_argilla_table, from_argilla_table),
        ("Argilla", is_argilla_one, from_argilla_one),
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
        for question, value in by_question(cells.get(source)).items():
            found = first_value(value)
            if not is_empty(found):
                said[question] = found
    rest = {k: v for k, v in cells.items() if k not in ("fields", "suggestions", "responses")}
    return {**rest, **cells["fields"], **said}


def by_question(value: Any) -> Mapping[str, Any]:
    """Answers or suggestions by their question; the older form is a list, one of each person."""
    if isinstance(value, Mapping):
        return value
    found: dict[str, Any] = {}
    for each in value if isinstance(value, list) else ():
        if isinstance(each, Mapping) and "question_name" in each:
            found.setdefault(str(each["question_name"]), each)
        elif isinstance(each, Mapping) and each.get("status") not in NOT_GIVEN:
            values = each.get("values")
            found = {**(values if isinstance(values, Mapping) else {}), **found}
    return found


def first_value(value: Any) -> Any:
    """The first of several answers that was handed in, out of the object that it may stand in."""
    if isinstance(value, list):
        given = [
            each
            for each in value
            if not (isinstance(each, Mapping) and each.get("status") in NOT_GIVEN)
        ]
        value = given[0] if given else None
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


def is_argilla_one(cells: Mapping[str, Any]) -> bool:
    """Whether a row is of a data set that Argilla 1 writes: questions beside their suggestions."""
    return any(name.endswith(SUGGESTED) and isinstance(cells.get(asked_in(name)), list)
               for name in cells)  # fmt: skip


def from_argilla_one(cells: Mapping[str, Any]) -> dict[str, Any]:
    """Each question with its first answer, else with the suggestion."""
    asked = {asked_in(name) for name in cells if name.endswith(SUGGESTED)}
    # Beside `reply-suggestion` stands `reply-suggestion-metadata`, with its score and its agent.
    beside = tuple(f"{name}{SUGGESTED}" for name in asked)
    plain = {k: v for k, v in cells.items() if not k.startswith(beside) and k not in asked}
    for name in asked & cells.keys():
        found = first_value(cells[name])
        plain[name] = cells.get(f"{name}{SUGGESTED}") if is_empty(found) else found
    return plain


def asked_in(name: str) -> str:
    """The question of a column of suggestions."""
    return name.removesuffix(SUGGESTED)


def is_label_studio(cells: Mapping[str, Any]) -> bool:
    """Whether a row is a task of Label Studio's."""
    return isinstance(cells.get("data"), Mapping) and isinstance(cells.get("annotations"), list)


def from_label_studio(cells: Mapping[str, Any]) -> dict[str, Any]:
    """The task's data, and what its first annotation says under the names of its controls."""
    said: dict[str, Any] = {}
    data = cells["data"]
    annotations = [a for a in cells["annotations"] if not a.get("was_cancelled")]
    for result in annotations[0].get("result", []) if annotations else []:
        value = result.get("value", {})
        found = next((value[key] for key in SAID if key in value), None)
        name = result.get("from_name", "")
        if result.get("type") == "pairwise":
            # Both sides by name, and the side that was chosen: left or right.
            sides = dict(zip(str(result.get("to_name", "")).split(","), SIDES, strict=False))
            data, name = {sides.get(k, k): v for k, v in data.items()}, "preference"
        said[name] = first_value(found)
    rest = {k: v for k, v in cells.items() if k not in ("data", "annotations")}
    return {**rest, **data, **said}
