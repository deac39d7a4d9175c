"""Files → rows, each with the line it came from. What is broken is told with file and line.

Read: ``.json`` (a list of objects, or ``{"data": [...]}``), ``.jsonl``, ``.csv``, ``.parquet``,
each also with ``.gz``; a folder of such files; a data set of the Hugging Face hub.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.common.progress import track
from modelforge.errors import DataError, Problem, did_you_mean

SHOWN = 10  # problems listed in full; the rest is counted
EXCERPT = 30  # characters shown on either side of a broken spot
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
BETWEEN_ITEMS = re.compile(r"[\s,]*")
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")

# A cell of any length is a text somebody wrote; Python's limit of 128 KiB is for other uses.
csv.field_size_limit(2**31 - 1)


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
        rows: In the file's order.
        sha256: Of the file's bytes; empty for a hub data set.
        revision: The commit of a hub data set; empty for a file.
    """

    path: str
    rows: list[Row]
    sha256: str
    revision: str = ""


class _Bad(ValueError):
    """One broken spot: the line (0: the file as a whole), what is wrong, and the mend."""

    def __init__(self, line: int, what: str, fix: str = "") -> None:
        super().__init__(what)
        self.line, self.what, self.fix = line, what, fix


def read_files(source: str, folder: Path, files: Iterable[Path]) -> list[Table]:
    """Read files of a folder.

    Args:
        source: The folder as the user wrote it.
        folder: The folder.
        files: Relative to it.

    Raises:
        DataError: With every problem found (of each file the first ten in full).
    """
    tables: list[Table] = []
    problems: list[Problem] = []
    for file in files:
        try:
            tables.append(read_file(folder / file, shown=str(Path(source) / file)))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(*problems)
    return tables


def find(source: str, base_dir: Path) -> Path | None:
    """The existing file or folder that ``source`` names, or None."""
    if not source or "\0" in source:
        return None
    path = Path(source).expanduser()
    for candidate in (base_dir / path, path):
        if candidate.exists():
            return candidate
    return None


def ending(path: Path) -> str:
    """The data ending of a file name without ``.gz``; empty if it is not one we read."""
    name = path.name.lower().removesuffix(".gz")
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")


def looks_like_hub_id(source: str) -> bool:
    """Whether ``source`` may be ``org/name`` on the hub rather than a path."""
    return bool(HUB_ID.fullmatch(source)) and not ending(Path(source))


def missing(source: str, base_dir: Path) -> Problem:
    """The problem of a path that is not there, with the nearest name that is."""
    if not source:
        return Problem("dataset", "is empty", "give a file, a folder or a hub id")
    folder = (base_dir / Path(source).expanduser()).parent
    if not folder.is_dir():
        return Problem(source, f"no such file, and no folder {folder}")
    names = {entry.name.lower(): entry.name for entry in folder.iterdir()}
    advice = did_you_mean(Path(source).name, names)
    return Problem(source, f"no such file or folder in {folder}", advice)


def read_file(path: Path, *, shown: str) -> Table:
    """Read one file.

    Args:
        path: The file.
        shown: Its name in messages.

    Raises:
        DataError: With every problem of the file (the first ten in full).
    """
    suffix = ending(path)
    if not suffix:
        fix = "use one of " + ", ".join(SUFFIXES) + ", each also with .gz"
        raise DataError(Problem(shown, f"cannot read files ending in '{path.suffix}'", fix))
    problems: list[_Bad] = []
    rows: list[Row] = []
    sha256 = ""
    try:
        raw = path.read_bytes()
        sha256 = hashlib.sha256(raw).hexdigest()
        if path.name.lower().endswith(".gz"):
            raw = gzip.decompress(raw)
        count = raw.count(b"\n") if suffix == ".jsonl" else None
        cells_of = READERS[suffix](raw, problems.append)
        for line, cells in track(cells_of, f"reading {shown}", count):
            rows.append(Row(cells, shown, line))
    except _Bad as bad:
        problems.append(bad)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems.append(_Bad(0, f"not a whole gzip file: {error}", "compress it again"))
    except OSError as error:
        problems.append(_Bad(0, f"cannot be read: {error.strerror or error}"))
    if not rows and not problems:
        problems.append(_Bad(0, "holds no rows", "write one JSON object a line, for example"))
    if problems:
        raise DataError(*listed(shown, problems))
    return Table(shown, rows, sha256)


def listed(shown: str, bad: list[_Bad]) -> list[Problem]:
    """The first problems in full and the number of the others."""
    problems = [
        Problem(f"{shown}:{item.line}" if item.line else shown, item.what, item.fix)
        for item in bad[:SHOWN]
    ]
    if len(bad) > SHOWN:
        problems.append(Problem(shown, f"{len(bad) - SHOWN} more problems of this kind"))
    return problems


Report = Callable[[_Bad], None]
Cells = Iterator[tuple[int, dict[str, Any]]]


def read_jsonl(raw: bytes, report: Report) -> Cells:
    """One JSON object a line; blank lines, a BOM and CRLF are tolerated."""
    # Not str.splitlines: JSON text may hold U+2028, U+0085 and others, which it would split at.
    for number, line in enumerate(decode(raw).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, one_object(line, number)
        except _Bad as bad:
            report(bad)


def one_object(line: str, number: int) -> dict[str, Any]:
    """Parse one line.

    Raises:
        _Bad: If it is not one JSON object of well-formed text.
    """
    try:
        value = DECODER.decode(line)
    except json.JSONDecodeError as error:
        fix = "write one whole JSON object a line"
        what = f"broken JSON, {error.msg.lower()}:\n{excerpt(line, error.pos)}"
        raise _Bad(number, what, fix) from None
    except RecursionError:
        raise _Bad(number, "JSON nested too deeply") from None
    except ValueError as error:
        raise _Bad(number, str(error)) from None
    return checked(value, number, escaped="\\u" in line)


def checked(value: Any, number: int, *, escaped: bool) -> dict[str, Any]:
    """The value if it is an object whose text can be encoded (``escaped``: look for halves)."""
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise _Bad(number, f"a row must be a JSON object, this is a {kind}", 'e.g. {"prompt": "…"}')
    if escaped and LONE_SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        fix = "write the character itself or both halves of the pair"
        raise _Bad(number, "holds half of a surrogate pair (\\ud800…\\udfff)", fix)
    return value


def excerpt(line: str, position: int) -> str:
    """The surroundings of ``position`` with a caret below it."""
    start = max(0, position - EXCERPT)
    shown = line[start : position + EXCERPT].replace("\t", " ").rstrip("\r\n")
    return f"    {shown}\n    {' ' * (position - start)}^"


def read_json(raw: bytes, report: Report) -> Cells:
    """A list of objects, or an object whose ``data`` is one."""
    text = decode(raw)
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        line = text.count("\n", 0, error.pos) + 1
        fix = (
            "name it .jsonl if it holds one object a line"
            if "extra data" in str(error).lower()
            else ""
        )
        what = f"broken JSON, {error.msg.lower()}:\n{excerpt_of_text(text, error.pos)}"
        raise _Bad(line, what, fix) from None
    except RecursionError:
        raise _Bad(0, "JSON nested too deeply") from None
    except ValueError as error:
        raise _Bad(0, str(error)) from None
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    if not isinstance(value, list):
        raise _Bad(0, "a .json file must hold a list of objects", 'e.g. [{"prompt": "…"}]')
    for number, item in zip(item_lines(text, value), value, strict=True):
        try:
            yield number, checked(item, number, escaped="\\u" in text)
        except _Bad as bad:
            report(bad)


def item_lines(text: str, items: list[Any]) -> list[int]:
    """The line each item of the file's list begins at (its number where that cannot be told)."""
    at = text.find("[", max(0, text.find('"data"')) if text.lstrip().startswith("{") else 0) + 1
    line, counted, lines = 1, 0, []
    for item in items:
        at = BETWEEN_ITEMS.match(text, at).end()  # type: ignore[union-attr]
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


def read_csv(raw: bytes, report: Report) -> Cells:
    """Comma-separated, the first row names the columns."""
    reader = csv.reader(io.StringIO(decode(raw), newline=""), strict=True)
    try:
        header = next(reader, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise _Bad(1, f"column name given twice: {', '.join(map(repr, twice))}", "rename one")
        start = reader.line_num + 1
        for cells in reader:
            # An empty line is a row only where there is a single column.
            if cells and len(cells) != len(header):
                what = f"{len(cells)} cells in a table of {len(header)} columns"
                report(_Bad(start, what, "quote cells that hold commas or line breaks"))
            elif cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise _Bad(reader.line_num, f"broken CSV: {error}") from None


def read_parquet(raw: bytes, report: Report) -> Cells:
    """A Parquet file; its rows are numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        cells = pyarrow.parquet.read_table(io.BytesIO(raw)).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise _Bad(0, f"not a readable Parquet file: {first_line(error)}") from None
    yield from enumerate(cells, 1)


READERS: dict[str, Callable[[bytes, Report], Cells]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".parquet": read_parquet,
}


def decode(raw: bytes) -> str:
    """UTF-8 text with or without a byte-order mark.

    Raises:
        _Bad: If the bytes are another encoding or hold NUL.
    """
    fix = "save the file as UTF-8"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _Bad(0, "the text is UTF-16, not UTF-8", fix)
    if (position := raw.find(b"\0")) >= 0:
        line = raw.count(b"\n", 0, position) + 1
        raise _Bad(line, f"NUL byte at byte {position}: not a text file, or damaged", fix)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"not UTF-8 at byte {error.start} (0x{error.object[error.start]:02x})"
        raise _Bad(line, what, fix) from None


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
