"""Finding a file's format in the table, and columns named by hand."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelforge.common import patch
from modelforge.data.again import mapped
from modelforge.data.cells import is_empty
from modelforge.data.convert import DataKind, Item
from modelforge.data.formats import TABLE
from modelforge.data.layout import Format
from modelforge.data.names import NAMES
from modelforge.data.read import Row
from modelforge.errors import DataError, Problem, did_you_mean, slip

# What a row of any format may hold for the chat template, beside its messages.
BESIDE: Mapping[str, tuple[str, ...]] = {
    "tools": ("tools", "functions", "function_description"),
    "chat_template_kwargs": ("chat_template_kwargs",),
    "enable_thinking": ("enable_thinking",),
}
# A thought before the reply.
THOUGHT = {"thought": NAMES["thought"]}
LOOKED_AT = 100  # rows whose values decide whether a format fits


def known_names() -> set[str]:
    """Every column name the table knows, and every role."""
    groups = [
        BESIDE,
        THOUGHT,
        *(group for form in TABLE for group in (form.columns, form.optional)),
    ]
    return {name for group in groups for names in group.values() for name in names}


def canonical(name: str) -> str:
    """A column name as the table spells it: "Best Answer" → "best_answer"."""
    return re.sub(r"[\s-]+", "_", str(name).strip().lower())


@dataclass(frozen=True)
class Match:
    """A format found in a file, and which column fills which role."""

    format: Format
    columns: Mapping[str, str]

    def items(self, rows: Iterable[Row]) -> Iterable[Item]:
        """The rows with their cells by role."""
        pairs = tuple(self.columns.items())
        for row in rows:
            yield Item({role: row.cells.get(name) for role, name in pairs}, row)


def rename(rows: Sequence[Row], columns: Mapping[str, str], kind: DataKind) -> Sequence[Row]:
    """Apply a mapping of our names to the file's.

    Raises:
        DataError: If one of our names is unknown or one of the file's is missing.
    """
    present = {name: None for row in rows for name in row.cells}
    by_lower = {name.lower(): name for name in present}
    ours = known_names()
    problems = []
    for our, theirs in columns.items():
        # Any other column of a prompt file is handed to reward functions under its name.
        if our not in ours and kind != "prompt":
            role = slip(our, ours)
            mended = patch.rename(["columns", our], role) if role else ()
            fix = did_you_mean(our, ours)
            problems.append(Problem(f"columns: {our}", "no such role", fix, mended))
        if theirs not in present and not any(holds(row.cells, theirs) for row in rows):
            fix, meant = did_you_mean(theirs, by_lower), slip(theirs, by_lower)
            where = rows[0].path if rows else "columns"
            what = f"no column '{theirs}' (columns: {our})"
            mended = patch.put(["columns", our], by_lower[meant]) if meant else ()
            problems.append(Problem(where, what, fix, mended))
    if problems:
        raise DataError(*problems)
    return mapped(rows, lambda row: Row(renamed(row.cells, columns), row.path, row.line))


def renamed(cells: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    """Cells under our names; a column whose name is taken by a mapped one gets another."""
    moved = set(columns.values())
    kept = {
        f"{name} (of the file)" if name in columns else name: rest_of(value, name, moved)
        for name, value in cells.items()
        if name not in moved
    }
    return {**kept, **{our: within(cells, theirs) for our, theirs in columns.items()}}


def rest_of(value: Any, name: str, moved: Collection[str]) -> Any:
    """What of a cell has no name of ours: of an object that of which no part has one."""
    if not isinstance(value, Mapping) or not any(path.startswith(f"{name}.") for path in moved):
        return value
    parts = ((key, each, f"{name}.{key}") for key, each in value.items())
    left = {key: rest_of(each, path, moved) for key, each, path in parts if path not in moved}
    return {key: each for key, each in left.items() if not is_empty(each)}


def within(cells: Mapping[str, Any], name: str) -> Any:
    """A column's cell, or what ``object.key`` names within one; None for nothing."""
    if name in cells or "." not in name:
        return cells.get(name)
    value: Any = cells
    for step in name.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def holds(cells: Mapping[str, Any], name: str) -> bool:
    """Whether something stands there."""
    return within(cells, name) is not None


def recognise(rows: Sequence[Row], kind: DataKind, mapped: Collection[str] = ()) -> Match:
    """Find the format of one file's rows.

    Args:
        rows: At least one.
        kind: What they are to serve.
        mapped: Names given by hand: the format that uses most of them is taken.

    Raises:
        DataError: If no format fits, or those that fit cannot serve this kind.
    """
    counts: dict[str, int] = {}
    for row in rows:
        for name in row.cells:
            counts[name] = counts.get(name, 0) + 1
    # A column of a few stray rows does not decide what the file is.
    usual = [name for name, count in counts.items() if 2 * count >= len(rows)]
    needed, optional = by_canonical(usual), by_canonical(counts)
    head = rows[:LOOKED_AT]
    matches = [m for form in TABLE if (m := fit(form, needed, optional, head))]
    serving = [match for match in matches if kind in match.format.serves]
    if serving:
        best = max(serving, key=lambda m: len(set(mapped) & set(m.columns.values())))
        by_hand = mapped and set(mapped).isdisjoint(NAMES["thought"])
        return best if kind != "demonstration" or by_hand else with_thought(best, head, mapped)
    raise DataError(unrecognised(rows[0].path, usual, kind, matches))


def by_canonical(names: Iterable[str]) -> dict[str, str]:
    """Columns by the table's spelling; of several alike the one spelt so, else the first."""
    names = list(names)
    exact = {name: name for name in names if canonical(name) == name}
    return {**{canonical(name): name for name in reversed(names)}, **exact}


def fit(
    form: Format,
    needed: Mapping[str, str],
    optional: Mapping[str, str],
    rows: Sequence[Row],
) -> Match | None:
    """Fill a format's roles from the columns there are; None if a needed one is left empty."""
    columns: dict[str, str] = {}
    if form.alone and len(optional) > 1:
        return None
    for role, names in form.columns.items():
        free = (needed[n] for n in names if n in needed and needed[n] not in columns.values())
        column = next(free, None)
        if column is None:
            return None
        columns[role] = column
    for role, looks_right in form.values.items():
        values = [row.cells.get(columns[role]) for row in rows]
        values = [value for value in values if value is not None and value != ""]
        if not values or 2 * sum(map(looks_right, values)) < len(values):
            return None
    for role, names in (*form.optional.items(), *BESIDE.items()):
        there = (optional[name] for name in names if name in optional)
        column = next((name for name in there if name not in columns.values()), None)
        if column is not None and role not in columns:
            columns[role] = column
    return Match(form, columns)


def with_thought(match: Match, rows: Sequence[Row], mapped: Collection[str]) -> Match:
    """The match with the column of the thought before its reply, where there is one.

    Args:
        match: Of demonstrations.
        rows: The first ones.
        mapped: Names given by hand.
    """
    reply = match.columns.get("completion")
    free = by_canonical(
        {name: None for row in rows for name in row.cells if name not in match.columns.values()}
    )
    named = [name for name in NAMES["thought"] if name in mapped]
    column = next((free[name] for name in named or NAMES["thought"] if name in free), None)
    if reply is None or column is None:
        return match
    if named:
        return Match(match.format, {**match.columns, "thought": column})
    # "on", or a number, says how much is to be thought.
    thoughts = [row.cells.get(column) for row in rows]
    said = [value for value in thoughts if isinstance(value, str) and len(value.split()) > 1]
    inline = any("</think>" in str(row.cells.get(reply)) for row in rows)
    if inline or 2 * len(said) < sum(not is_empty(value) for value in thoughts) or not said:
        return match
    return Match(match.format, {**match.columns, "thought": column})


def unrecognised(
    path: str, columns: Sequence[str], kind: DataKind, matches: Sequence[Match]
) -> Problem:
    """The problem of a file that cannot serve ``kind``."""
    shown = ", ".join(map(repr, columns[:12])) or "none"
    example = {
        "demonstration": '{"prompt": "…", "completion": "…"} or {"text": "…"}',
        "preference": '{"prompt": "…", "chosen": "…", "rejected": "…"}',
        "labelled": '{"prompt": "…", "completion": "…", "label": "…"}',
        "prompt": '{"prompt": "…"}',
    }[kind]
    fix = f"name the columns by hand in `columns`, as in {example}"
    if matches:
        form = matches[0].format
        serves = " or ".join(sorted(form.serves))
        return Problem(path, f"read as {form.name}, it holds {serves} rows, not {kind} rows", fix)
    return Problem(path, f"no known format for {kind} rows has the columns {shown}", fix)
