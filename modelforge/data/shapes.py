"""Public layouts in shapes of their own → cells in the columns of a known layout.

``configs/layouts/shapes.json`` lists them. ``columns`` must be there; a name such as ``info.post``
reaches into an object, and ``answers.1`` into a list. ``says`` holds all values that a column may
have, and ``holds`` one that it must have somewhere. ``row`` is what the cells become, with
``$column`` for a value. ``serves`` names the kinds; without it all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any

from modelforge.data.again import mapped
from modelforge.data.cells import is_empty
from modelforge.data.convert import DataKind
from modelforge.data.read import Row
from modelforge.data.recognise import LOOKED_AT, by_canonical
from modelforge.data.sides import spelt

Shape = Mapping[str, Any]
SHAPES: list[Shape] = json.loads(
    files("modelforge.configs").joinpath("layouts/shapes.json").read_text(encoding="utf-8")
)


def shaped(rows: Sequence[Row], kind: DataKind) -> tuple[Sequence[Row], str]:
    """The rows in a known layout, and the name of their shape; other rows as they are."""
    head = rows[:LOOKED_AT]
    names = by_canonical({name: None for row in head for name in row.cells})
    for shape in SHAPES:
        if kind in shape.get("serves", (kind,)) and _fits(shape, head, names):
            return mapped(rows, partial(_remade_row, shape, names)), str(shape["name"])
    return rows, ""


def spread(rows: Sequence[Row]) -> Sequence[Row]:
    """Rows whose ``translation`` holds a text for each language, with a column for each."""
    head = rows[:LOOKED_AT]
    if not rows or not all(isinstance(row.cells.get("translation"), Mapping) for row in head):
        return rows
    return mapped(rows, _spread_row)


def _spread_row(row: Row) -> Row:
    languages = row.cells.get("translation")
    if not isinstance(languages, Mapping):
        return row
    kept = {name: value for name, value in row.cells.items() if name != "translation"}
    return Row(_beside(kept, languages), row.path, row.line)


def _remade_row(shape: Shape, names: Mapping[str, str], row: Row) -> Row:
    return Row(_remade(shape, row.cells, names), row.path, row.line)


def _fits(shape: Shape, rows: Sequence[Row], names: Mapping[str, str]) -> bool:
    """Whether most rows have all columns of a shape, and its columns say what they may."""
    paths = shape["columns"]
    if any(path.partition(".")[0] not in names for path in paths):
        return False
    there = sum(all(_value(row.cells, path, names) is not None for path in paths) for row in rows)
    if 2 * there < len(rows) or not rows:
        return False
    said = {
        path: {spelt(_value(row.cells, path, names)) for row in rows} - {""}
        for path in (*shape.get("says", ()), *shape.get("holds", ()))
    }
    within = all(
        said[path] <= {value.lower() for value in values}
        for path, values in shape.get("says", {}).items()
    )
    return within and all(value in said[path] for path, value in shape.get("holds", {}).items())


def _value(cells: Mapping[str, Any], path: str, names: Mapping[str, str]) -> Any:
    """What stands at a path; None for nothing."""
    first, *steps = path.split(".")
    value = cells.get(names.get(first, first))
    for step in steps:
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _remade(shape: Shape, cells: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """A row's cells in the shape's columns, beside all that it leaves."""
    paths = list(_paths(shape["row"]))
    whole = {names.get(path) for path in paths if "." not in path}
    partly = {names.get(path.partition(".")[0]): None for path in paths if "." in path}
    kept = {k: v for k, v in cells.items() if k not in whole and k not in partly}
    for name in partly:
        taken = {path.split(".")[-1] for path in paths if names.get(path.partition(".")[0]) == name}
        value = cells.get(str(name))
        for each in [value] if isinstance(value, Mapping) and name not in whole else ():
            kept |= {f"{name}.{key}": v for key, v in each.items() if key not in taken}
    return _beside(kept, _filled(shape["row"], cells, names))


def _beside(kept: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """New cells and those kept; one whose name is taken gets another."""
    return {**{f"{k} (of the file)" if k in row else k: v for k, v in kept.items()}, **row}


def _paths(template: Any) -> Iterator[str]:
    """The paths that a template names."""
    if isinstance(template, str) and template.startswith("$"):
        yield template[1:]
    elif isinstance(template, Mapping | list):
        for each in template.values() if isinstance(template, Mapping) else template:
            yield from _paths(each)


def _filled(template: Any, cells: Mapping[str, Any], names: Mapping[str, str]) -> Any:
    """A template with the values of a row; a choice that a row does not have is left out."""
    if isinstance(template, str):
        return _value(cells, template[1:], names) if template.startswith("$") else template
    if isinstance(template, list):
        return [_filled(each, cells, names) for each in template]
    filled = {key: _filled(each, cells, names) for key, each in template.items()}
    return {key: value for key, value in filled.items() if not is_empty(value)}
