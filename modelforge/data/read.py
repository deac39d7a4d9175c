"""Rows with the line they came from, and JSON. What is broken is told with file and line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

EXCERPT = 30  # characters shown on either side of a broken spot
BETWEEN_ITEMS = re.compile(r"[\s,]*")
WHITE = re.compile(r"[ \t\n\r]*")  # JSON's own
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a file: its cells by column, and where it stands."""

    cells: dict[str, Any]
    path: str
    line: int

    @property
    def where(self) -> str:
        """``file:line`` as a user would look it up."""
        return f"{self.path}:{self.line}"


@dataclass(frozen=True)
class Table:
    """The rows of one file.

    Attributes:
        path: As the user wrote it.
        rows: In the file's order; of much data read again from the file each time.
        sha256: Of the file's bytes; empty for a hub data set.
        revision: The commit of a hub data set; empty for a file.
        fingerprint: Of the content of a hub data set; empty for a file.
        notes: How it was read, where that is not plain.
        doubts: The same where the user should look at it.
    """

    path: str
    rows: Sequence[Row]
    sha256: str
    revision: str = ""
    fingerprint: str = ""
    notes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)


class Bad(ValueError):
    """One broken spot: the line (0: the file as a whole), what is wrong, and the mend."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix


Report = Callable[[Bad], None]
Cells = Iterator[tuple[int, dict[str, Any]]]


def read_jsonl(stream: TextIO, report: Report) -> Cells:
    """One JSON object a line; blank lines, a BOM and CRLF are tolerated."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            yield number, one_object(line.removesuffix("\n"), number)
        except Bad as bad:
            report(bad)


def one_object(line: str, number: int) -> dict[str, Any]:
    """Parse one line.

    Raises:
        Bad: If it is not one JSON object of well-formed text.
    """
    try:
        value = DECODER.decode(line)
    except json.JSONDecodeError as error:
        fix = "write one whole JSON object a line"
        what = f"broken JSON, {error.msg.lower()}:\n{excerpt(line, error.pos)}"
        raise Bad(number, what, fix) from None
    except RecursionError:
        raise Bad(number, "JSON nested too deeply") from None
    except ValueError as error:
        raise Bad(number, str(error)) from None
    return checked(value, number, escaped="\\u" in line)


def is_whole(text: str) -> bool:
    """Whether a text is one whole piece of JSON."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def checked(value: Any, number: int, *, escaped: bool) -> dict[str, Any]:
    """The value if it is an object whose text can be encoded (``escaped``: look for halves)."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise Bad(number, f"a row must be a JSON object, this is a {kind}", 'e.g. {"prompt": "…"}')
    if escaped and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        fix = "write the character itself or both halves of the pair"
        raise Bad(number, "holds half of a surrogate pair (\\ud800…\\udfff)", fix)
    return value


def excerpt(line: str, position: int) -> str:
    """The surroundings of ``position`` with a caret below it."""
    start = max(0, position - EXCERPT)
    shown = line[start : position + EXCERPT].replace("\t", " ").rstrip("\r\n")
    return f"    {shown}\n    {' ' * (position - start)}^"


def read_json(stream: TextIO, report: Report) -> Cells:
    """A list of objects, or an object that holds one such list. A list is read item by item."""
    text = stream.read()
    escaped = "\\u" in text
    try:
        for number, item in list_items(text) if text.lstrip()[:1] == "[" else held_items(text):
            try:
                yield number, checked(item, number, escaped=escaped)
            except Bad as bad:
                report(bad)
    except json.JSONDecodeError as error:
        line = text.count("\n", 0, error.pos) + 1
        fix = (
            "name it .jsonl if it holds one object a line"
            if "extra data" in str(error).lower()
            else ""
        )
        what = f"broken JSON, {error.msg.lower()}:\n{excerpt_of_text(text, error.pos)}"
        raise Bad(line, what, fix) from None
    except RecursionError:
        raise Bad(0, "JSON nested too deeply") from None
    except Bad:
        raise
    except ValueError as error:
        raise Bad(0, str(error)) from None


def list_items(text: str) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one list, each with the line it begins at.

    Raises:
        ValueError: If it is broken, at the place where it is.
    """
    at = text.index("[") + 1
    line, counted = 1, 0
    while True:
        at = behind_white(text, at)
        if text.startswith("]", at) and text[:at].rstrip()[-1:] == "[":
            break
        line += text.count("\n", counted, at)
        counted = at
        item, at = DECODER.raw_decode(text, at)
        yield line, item
        at = behind_white(text, at)
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        at += 1
    end = behind_white(text, at + 1)
    if end != len(text):
        raise json.JSONDecodeError("Extra data", text, end)


def behind_white(text: str, at: int) -> int:
    """The place of the first character from there on that is no white space."""
    found = WHITE.match(text, at)
    assert found is not None, "it matches the empty text too"
    return found.end()


def held_items(text: str) -> Iterator[tuple[int, Any]]:
    """The items of the list that a file's one object holds.

    Raises:
        ValueError: If it is broken.
        Bad: If it holds none, or several.
    """
    key, items = the_list(DECODER.decode(text))
    yield from zip(item_lines(text, items, key), items, strict=True)


def the_list(value: Any) -> tuple[str, list[Any]]:
    """The list of objects that a JSON file is, or holds under a key (empty for none).

    Raises:
        Bad: If there is none, or several.
    """
    fix = 'e.g. [{"prompt": "…"}]'
    if isinstance(value, list):
        return "", value
    if not isinstance(value, dict):
        raise Bad(0, "a .json file must hold a list of objects", fix)
    lists = {
        key: inner
        for key, inner in value.items()
        if isinstance(inner, list) and inner and all(isinstance(item, dict) for item in inner)
    }
    if not lists and (rows := rows_of_columns(value)):
        return "", rows
    if len(lists) > 1:
        what = f"holds several lists: {', '.join(lists)}"
        raise Bad(0, what, "write each to a file of its own, such as train.jsonl and test.jsonl")
    if not lists:
        if isinstance(value.get("data"), list):
            return "data", value["data"]
        raise Bad(0, "a .json file must hold a list of objects", fix)
    return next(iter(lists.items()))


def rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of an object that holds a list of cells for each column; none for any other."""
    columns = list(value.values())
    if len(columns) < 2 or not all(isinstance(column, list) for column in columns):
        return []
    if len({len(column) for column in columns}) != 1:
        return []
    return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]


def item_lines(text: str, items: list[Any], key: str) -> list[int]:
    """The line each item of the file's list begins at (its number where that cannot be told)."""
    at = text.find("[", max(0, text.find(json.dumps(key))) if key else 0) + 1
    line, counted, lines = 1, 0, []
    for item in items:
        between = BETWEEN_ITEMS.match(text, at)
        assert between is not None, "it matches the empty text too"
        at = between.end()
        line += text.count("\n", counted, at)
        counted = at
        lines.append(line)
        try:
            again, at = DECODER.raw_decode(text, at)
        except ValueError:
            return list(range(1, len(items) + 1))
        if again != item:
            return list(range(1, len(items) + 1))
    return lines


def excerpt_of_text(text: str, position: int) -> str:
    """`excerpt` of the line that holds ``position``."""
    start = text.rfind("\n", 0, position) + 1
    end = text.find("\n", position)
    return excerpt(text[start : None if end < 0 else end], position - start)


def no_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing a key that would silently replace another."""
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"key given twice in one object: {', '.join(map(repr, twice))}")
    return value


def number_or_missing(name: str) -> float | None:
    """pandas writes NaN for a missing cell; the infinities are numbers."""
    return None if name == "NaN" else float(name)


DECODER = json.JSONDecoder(object_pairs_hook=no_duplicate_keys, parse_constant=number_or_missing)


def first_line(error: Exception) -> str:
    """The first line of an exception's text, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
