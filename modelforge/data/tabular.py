"""Tables: CSV and its kin, Parquet, Arrow, XLSX."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from modelforge.data.packed import opened, packing
from modelforge.data.read import Bad, Cells, Report, first_line

# A cell of any length is a text somebody wrote; Python's limit of 128 KiB is for other uses.
csv.field_size_limit(2**31 - 1)
SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 20  # rows that tell what stands between cells
# Anki writes how its notes are to be read before them; Excel takes the separator from such a line.
NOTES = ("#separator:", "#html:", "#columns:")  # a text may begin with other words behind a "#"
DIRECTIVE = (*NOTES, "#notetype", "#deck", "#tags", "#guid")
BY_NAME = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " ", "colon": ":"}
EXCEL = re.compile(r"\A\ufeff?\"?sep=(.)\"?\r?\n")
BATCH = 1000  # rows of a binary table that are taken out of it at once


def separator(head: str) -> str:
    """What stands between the cells of a CSV: a comma, unless another makes a table and it none."""
    if named := EXCEL.match(head):
        return named[1]
    return next((mark for mark in SEPARATORS if is_table(head, mark)), ",")


def is_table(head: str, mark: str) -> bool:
    """Whether the first rows have equally many cells, more than one, with this between them."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=mark, strict=True)
    try:
        rows = [row for row, _ in zip(reader, range(SAMPLE), strict=False) if row]
    except csv.Error:
        return False
    return bool(rows) and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)


def read_separated(stream: TextIO, report: Report, mark: str) -> Cells:
    """Rows of cells with ``mark`` between them, the first of which names the columns."""
    reader = csv.reader(stream, delimiter=mark, strict=True)
    try:
        header = next(reader, [])
        if EXCEL.match(mark.join(header) + "\n"):
            header = next(reader, [])
        refuse_twice(header)
        start = reader.line_num + 1
        for cells in reader:
            # An empty line is a row only where there is a single column.
            if cells and len(cells) != len(header):
                what = f"{len(cells)} cells in a table of {len(header)} columns"
                report(Bad(start, what, "quote cells that hold commas or line breaks"))
            elif cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise Bad(reader.line_num, f"broken CSV: {error}") from None


def read_anki(stream: TextIO, report: Report) -> Cells:
    """Notes that Anki exports as text: a front, a back, and perhaps other columns.

    Fields that hold HTML stay as they are.
    """
    said: dict[str, str] = {}
    at, line = 0, stream.readline()
    while line.lower().startswith(DIRECTIVE):
        name, _, value = line[1:].rstrip("\r\n").partition(":")
        said[name.lower()] = value
        at, line = at + 1, stream.readline()
    mark = BY_NAME.get(said.get("separator", "tab").strip().lower(), said.get("separator", "\t"))
    if len(mark) != 1:
        raise Bad(1, f"the separator of these notes is {mark!r}", "set one character")
    names = said["columns"].split(mark) if "columns" in said else ["Front", "Back"]
    placed = {n: v.strip() for n, v in said.items() if n.endswith(" column")}
    own = {int(v): n.removesuffix(" column") for n, v in placed.items() if v.isdecimal()}
    reader = csv.reader(itertools.chain([line], stream), delimiter=mark, strict=True)
    try:
        start = at + 1
        for cells in reader:
            numbers = range(1, len(cells) + 1)
            named = [own.get(i) or dict(enumerate(names, 1)).get(i, f"field {i}") for i in numbers]
            refuse_twice(named)
            if cells:
                yield start, dict(zip(named, cells, strict=True))
            start = at + reader.line_num + 1
    except csv.Error as error:
        raise Bad(at + reader.line_num, f"broken notes of Anki: {error}") from None


def refuse_twice(header: list[str]) -> None:
    """See that no two columns have one name.

    Raises:
        Bad: If two have.
    """
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise Bad(1, f"column name given twice: {', '.join(map(repr, twice))}", "rename one")


# What reading damaged bytes raises: Arrow hands offsets to Python as they stand in the file.
BROKEN = (OSError, ValueError, SystemError, OverflowError)


def read_parquet(path: Path, report: Report) -> Cells:
    """A Parquet file; its rows are numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source(path)) as file:
            yield from numbered(file.iter_batches(BATCH))
    except (pyarrow.ArrowException, *BROKEN) as error:
        raise Bad(0, f"not a readable Parquet file: {first_line(error)}") from None


def read_arrow(path: Path, report: Report) -> Cells:
    """A file of `datasets`' ``save_to_disk``, or any other of Arrow's; rows are numbered from 1."""
    import pyarrow

    try:
        given = source(path)
        # Read, not mapped: pages of a mapped file count as memory of the process.
        file = pyarrow.OSFile(str(given)) if isinstance(given, Path) else given
        try:
            batches = pyarrow.ipc.open_stream(file)
        except pyarrow.ArrowInvalid:
            reader = pyarrow.ipc.open_file(file)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        yield from numbered(batches)
    except (pyarrow.ArrowException, *BROKEN) as error:
        raise Bad(0, f"not a readable Arrow file: {first_line(error)}") from None


def source(path: Path) -> Any:
    """A file as Arrow's readers take it: its path, or its bytes where it is packed."""
    if not packing(path.name):
        return path
    with opened(path) as stream:
        return io.BytesIO(stream.read())


def numbered(batches: Iterable[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of Arrow's batches, from 1."""
    number = 0
    for batch in batches:
        for begin in range(0, batch.num_rows, BATCH):
            for cells in batch.slice(begin, BATCH).to_pylist():
                number += 1
                yield number, cells


def read_xlsx(path: Path, report: Report) -> Cells:
    """The first sheet of an Excel file that holds rows; its first row names the columns."""
    if find_spec("openpyxl") is None:
        fix = "pip install openpyxl, or save the sheet as .csv"
        raise Bad(0, "Excel files need the package openpyxl, which is not installed", fix)
    from openpyxl import load_workbook

    with opened(path) as stream:
        raw = io.BytesIO(stream.read())
    try:
        book = load_workbook(raw, read_only=True, data_only=True)
        sheets = {sheet.title: list(sheet.iter_rows(values_only=True)) for sheet in book.worksheets}
    except Exception as error:  # openpyxl raises many kinds for what is no Excel file
        raise Bad(0, f"not a readable Excel file: {first_line(error)}") from None
    filled = {title: rows for title, rows in sheets.items() if any(map(any, rows))}
    if len(filled) > 1:
        what = f"holds several sheets: {', '.join(filled)}"
        raise Bad(0, what, "save each to a file of its own, such as train.csv and test.csv")
    for rows in filled.values():
        yield from sheet_rows(rows, report)


def sheet_rows(rows: list[tuple[Any, ...]], report: Report) -> Cells:
    """The rows of a sheet under its header."""
    first = next(i for i, row in enumerate(rows) if any(cell is not None for cell in row))
    header = [None if cell is None else str(cell) for cell in rows[first]]
    refuse_twice([name for name in header if name is not None])
    for number, row in enumerate(rows[first + 1 :], first + 2):
        if all(cell is None for cell in row):
            continue
        if any(cell is not None for name, cell in zip(header, row, strict=True) if name is None):
            report(Bad(number, "a cell stands in a column without a name", "name the column"))
            continue
        yield number, {n: cell for n, cell in zip(header, row, strict=True) if n is not None}
