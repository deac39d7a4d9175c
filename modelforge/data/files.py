"""Finding files, and reading them by their endings.

Read: ``.json`` (a list of objects, or an object that holds one), ``.jsonl``, ``.csv``, ``.tsv``,
``.parquet``, ``.arrow`` and ``.txt``, each also with ``.gz`` and ``.zst``.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

from modelforge.common.progress import track
from modelforge.data.read import Bad, Cells, Report, Row, Table, decode, read_json, read_jsonl
from modelforge.data.tabular import read_arrow, read_csv, read_parquet, read_tsv, separator
from modelforge.errors import DataError, Problem, did_you_mean

SHOWN = 10  # problems listed in full; the rest is counted
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PACKED = (".gz", ".zst")


def read_text(text: str, report: Report) -> Cells:
    """A document: one row."""
    if text.strip():
        yield 1, {"text": text}


TEXT_READERS: dict[str, Callable[[str, Report], Cells]] = {
    ".jsonl": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".txt": read_text,
}
BINARY_READERS: dict[str, Callable[[bytes, Report], Cells]] = {
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
SUFFIXES = (*TEXT_READERS, *BINARY_READERS)
DOCUMENTS = (".txt",)  # a file is one text, however long


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
    name = path.name.lower()
    for packed in PACKED:
        name = name.removesuffix(packed)
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
        fix = "use one of " + ", ".join(SUFFIXES) + ", each also with .gz or .zst"
        raise DataError(Problem(shown, f"cannot read files ending in '{path.suffix}'", fix))
    problems: list[Bad] = []
    rows: list[Row] = []
    notes: list[str] = []
    sha256 = ""
    try:
        raw = path.read_bytes()
        sha256 = hashlib.sha256(raw).hexdigest()
        raw = unpacked(raw, path.name.lower())
        if suffix in BINARY_READERS:
            found = BINARY_READERS[suffix](raw, problems.append)
        else:
            text, encoding = decode(raw)
            if encoding != "UTF-8":
                notes.append(f"{shown}: read as {encoding}")
            if suffix == ".csv" and (mark := separator(text)) != ",":
                notes.append(f"{shown}: read with {mark!r} between the cells")
            found = TEXT_READERS[suffix](text, problems.append)
        count = raw.count(b"\n") if suffix == ".jsonl" else None
        told = track(found, f"reading {shown}", count)
        rows.extend(Row(cells, shown, line) for line, cells in told)
    except Bad as bad:
        problems.append(bad)
    except OSError as error:
        problems.append(Bad(0, f"cannot be read: {error.strerror or error}"))
    if not rows and not problems:
        problems.append(Bad(0, "holds no rows", "write one JSON object a line, for example"))
    if problems:
        raise DataError(*listed(shown, problems))
    return Table(shown, rows, sha256, notes=notes)


def unpacked(raw: bytes, name: str) -> bytes:
    """The bytes of a packed file, or these bytes.

    Raises:
        Bad: If it is damaged.
    """
    if name.endswith(".gz"):
        try:
            return gzip.decompress(raw)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise Bad(0, f"not a whole gzip file: {error}", "compress it again") from None
    if name.endswith(".zst"):
        import pyarrow

        try:
            with pyarrow.CompressedInputStream(pyarrow.BufferReader(raw), "zstd") as stream:
                whole: bytes = stream.read()
                return whole
        except (pyarrow.ArrowException, OSError) as error:
            what = f"not a whole Zstandard file: {' '.join(str(error).split())}"
            raise Bad(0, what, "compress it again") from None
    return raw


def listed(shown: str, bad: list[Bad]) -> list[Problem]:
    """The first problems in full and the number of the others."""
    problems = [
        Problem(f"{shown}:{item.line}" if item.line else shown, item.what, item.fix)
        for item in bad[:SHOWN]
    ]
    if len(bad) > SHOWN:
        problems.append(Problem(shown, f"{len(bad) - SHOWN} more problems of this kind"))
    return problems
