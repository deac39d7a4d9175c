"""Finding files, and reading them by their endings.

Read: ``.json`` (a list of objects, or an object that holds one), ``.jsonl``, ``.csv``, ``.tsv``,
``.parquet``, ``.arrow``, ``.xlsx`` and ``.txt``, each also with ``.gz``, ``.bz2``, ``.xz``,
``.zst`` and ``.zip``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TextIO

from modelforge.common.progress import track
from modelforge.data.again import Again
from modelforge.data.encodings import encoding_of
from modelforge.data.packed import NAMES, opened, packing, without_packing
from modelforge.data.read import (
    Bad,
    Cells,
    Report,
    Row,
    Table,
    is_whole,
    read_json,
    read_jsonl,
)
from modelforge.data.tabular import (
    NOTES,
    read_anki,
    read_arrow,
    read_parquet,
    read_separated,
    read_xlsx,
    separator,
)
from modelforge.errors import DataError, Problem, did_you_mean

SHOWN = 10  # problems listed in full; the rest is counted
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HEAD = 2**20  # characters of a text that tell what it is
ANKI = ".anki"  # no ending of a file: what it begins with tells it
HASHED = 2**20  # bytes hashed at once


def read_text(stream: TextIO, report: Report) -> Cells:
    """A document: one row."""
    text = stream.read()
    if text.strip():
        yield 1, {"text": text}


TEXT_READERS: dict[str, Callable[[TextIO, Report], Cells]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": partial(read_separated, mark=","),
    ".tsv": partial(read_separated, mark="\t"),
    ".txt": read_text,
    ANKI: read_anki,
}
CALLED = {".json": "a JSON list", ".jsonl": "JSON lines", ANKI: "notes of Anki"}
BINARY_READERS: dict[str, Callable[[Path, Report], Cells]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".xlsx": read_xlsx,
}
# Other names of the same.
ALIASES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl"}
SUFFIXES = (*(suffix for suffix in TEXT_READERS if suffix != ANKI), *BINARY_READERS)
DOCUMENTS = (".txt",)  # a file is one text, however long


def read_files(
    source: str, folder: Path, files: Iterable[Path], *, large: bool = False
) -> list[Table]:
    """Read files of a folder.

    Args:
        source: The folder as the user wrote it.
        folder: The folder.
        files: Relative to it.
        large: See `read_file`.

    Raises:
        DataError: With every problem found (of each file the first ten in full).
    """
    tables: list[Table] = []
    problems: list[Problem] = []
    for file in files:
        try:
            shown = str(Path(source) / file)
            tables.append(read_file(folder / file, shown=shown, large=large))
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
    """The data ending of a file name without a packer's; empty if it is not one we read."""
    name = without_packing(path.name.lower())
    endings = (*SUFFIXES, *ALIASES)
    found = next((suffix for suffix in endings if name.endswith(suffix)), "")
    return ALIASES.get(found, found)


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
    if (folder / Path(source).name).is_dir():
        return Problem(source, "is a folder", "name a file in it")
    names = {entry.name.lower(): entry.name for entry in folder.iterdir()}
    advice = did_you_mean(Path(source).name, names)
    return Problem(source, f"no such file or folder in {folder}", advice)


def read_file(path: Path, *, shown: str, large: bool = False) -> Table:
    """Read one file.

    Args:
        path: The file.
        shown: Its name in messages.
        large: Whether its rows are read from the file again each time, and never all held.

    Raises:
        DataError: With every problem of the file (the first ten in full).
    """
    suffix = ending(path)
    if not suffix:
        fix = "use one of " + ", ".join(SUFFIXES) + ", each also with " + ", ".join(NAMES)
        if packing(path.name):
            fix = (
                f"unpack it, or name it by what is in it, as {path.stem}.jsonl{packing(path.name)}"
            )
        raise DataError(Problem(shown, f"cannot read files ending in '{path.suffix}'", fix))
    problems: list[Bad] = []
    rows: Sequence[Row] = []
    notes: list[str] = []
    doubts: list[str] = []
    sha256 = ""
    try:
        stamp, sha256 = stamp_of(path), digest_of(path)
        cells = reader_of(path, shown, suffix, notes, doubts)
        count = None
        if suffix == ".jsonl" and not packing(path.name):
            count = lines_of(path)
        told = track(cells(problems.append), f"reading {shown}", count)
        if large:
            found = sum(1 for _ in told)
            rows = Again(lambda: rows_again(cells, path, shown, stamp), found)
        else:
            rows = list(rows_of(told, shown))
    except Bad as bad:
        problems.append(bad)
    except OSError as error:
        problems.append(Bad(0, f"cannot be read: {error.strerror or error}"))
    if not rows and not problems:
        problems.append(Bad(0, "holds no rows", "write one JSON object a line, for example"))
    if problems:
        raise DataError(*listed(shown, problems))
    return Table(shown, rows, sha256, notes=notes, doubts=doubts)


def rows_of(cells: Cells, shown: str) -> Iterator[Row]:
    """Cells with their place."""
    return (Row(each, shown, line) for line, each in cells)


def stamp_of(path: Path) -> tuple[int, int]:
    """The size of a file and when it was written, in nanoseconds."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def rows_again(
    cells: Callable[[Report], Cells], path: Path, shown: str, stamp: tuple[int, int]
) -> Iterator[Row]:
    """The rows of a file that was read before.

    Raises:
        DataError: If it is not the file that it was: its tokens would be kept as those of another.
    """
    try:
        yield from rows_of(cells(ignore), shown)
        same = stamp_of(path) == stamp
    except (OSError, Bad):
        same = False
    if not same:
        raise DataError(Problem(shown, "was changed while it was read", "run it again"))


def ignore(bad: Bad) -> None:
    """Pass over a problem that was told when the file was read first."""


def reader_of(
    path: Path, shown: str, suffix: str, notes: list[str], doubts: list[str]
) -> Callable[[Report], Cells]:
    """What gives a file's rows, as often as it is asked; how they are read goes into the lists.

    Raises:
        Bad: If its text is in no known encoding.
    """
    if suffix in BINARY_READERS:
        return partial(BINARY_READERS[suffix], path)
    encoding = encoding_of(lambda: opened(path))
    if encoding.example:
        doubts.append(
            f"{shown}: it does not say its encoding; read as {encoding.name}, in which a part of "
            f"it is {encoding.example!r}: save it as UTF-8 if that reads wrong"
        )
    elif encoding.name != "UTF-8":
        notes.append(f"{shown}: read as {encoding.name}")
    with opened(path) as stream, as_text(stream, encoding.codec, newline="") as text:
        head = text.read(HEAD)
    found = kind_of(suffix, head)
    if found != suffix:
        notes.append(f"{shown}: read as {CALLED[found]}, which it holds")
    read = TEXT_READERS[found]
    if found == ".csv":
        mark = separator(head)
        if mark != ",":
            notes.append(f"{shown}: read with {mark!r} between the cells")
        read = partial(read_separated, mark=mark)

    def cells(report: Report) -> Cells:
        # JSON text may hold U+2028, U+0085 and others, which a universal newline would split at.
        newline = "" if found in (".csv", ".tsv", ANKI) else "\n"
        with opened(path) as stream, as_text(stream, encoding.codec, newline) as text:
            yield from read(text, report)

    return cells


def kind_of(suffix: str, head: str) -> str:
    """What a text file is, by its ending and where others are usual by how it begins."""
    start = head.lstrip("\ufeff \t\r\n")
    first, _, rest = start.partition("\n")
    if suffix == ".jsonl" and start[:1] == "[":  # a list in a line of many is a broken row
        return suffix if rest.strip() and is_whole(first) else ".json"
    if suffix == ".json" and start[:1] == "{":
        return ".jsonl" if rest.lstrip()[:1] == "{" and is_whole(first) else suffix
    if suffix in (".txt", ".csv", ".tsv") and start.startswith(NOTES):
        return ANKI
    return suffix


def as_text(stream: IO[bytes], codec: str, newline: str) -> TextIO:
    """Bytes as text; a byte-order mark at its beginning is no part of it."""
    return io.TextIOWrapper(stream, codec, newline=newline)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASHED):
            digest.update(chunk)
    return digest.hexdigest()


def lines_of(path: Path) -> int:
    """How many lines a file has."""
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(partial(file.read, HASHED), b""))


def listed(shown: str, bad: list[Bad]) -> list[Problem]:
    """The first problems in full and the number of the others."""
    problems = [
        Problem(f"{shown}:{item.line}" if item.line else shown, item.what, item.fix)
        for item in bad[:SHOWN]
    ]
    if len(bad) > SHOWN:
        problems.append(Problem(shown, f"{len(bad) - SHOWN} more problems of this kind"))
    return problems
