"""Tables: CSV and its kin, Parquet, Arrow."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from modelforge.data.read import Bad, Cells, Report, first_line

# A cell of any length is a text somebody wrote; Python's limit of 128 KiB is for other uses.
csv.field_size_limit(2**31 - 1)
SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 20  # rows that tell what stands between cells


def separator(text: str) -> str:
    """What stands between the cells of a CSV: a comma, unless another makes a table and it none."""
    return next((mark for mark in SEPARATORS if is_table(text, mark)), ",")


def is_table(text: str, mark: str) -> bool:
    """Whether the first rows have equally many cells, more than one, with this between them."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        rows = [row for row, _ in zip(reader, range(SAMPLE), strict=False) if row]
    except csv.Error:
        return False
    return bool(rows) and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows)


def read_csv(text: str, report: Report) -> Cells:
    """Rows of cells, the first of which names the columns."""
    yield from read_separated(text, report, separator(text))


def read_tsv(text: str, report: Report) -> Cells:
    """The same with tabs between the cells."""
    yield from read_separated(text, report, "\t")


def read_separated(text: str, report: Report, mark: str) -> Cells:
    """The same with ``mark`` between the cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        header = next(reader, [])
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise Bad(1, f"column name given twice: {', '.join(map(repr, twice))}", "rename one")
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


def read_parquet(raw: bytes, report: Report) -> Cells:
    """A Parquet file; its rows are numbered from 1."""
    import pyarrow
    import pyarrow.parquet

    try:
        yield from enumerate(cells_of(pyarrow.parquet.read_table(io.BytesIO(raw))), 1)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Bad(0, f"not a readable Parquet file: {first_line(error)}") from None


def read_arrow(raw: bytes, report: Report) -> Cells:
    """A file of `datasets`' ``save_to_disk``, or any other of Arrow's; rows are numbered from 1."""
    import pyarrow

    buffer = pyarrow.BufferReader(raw)
    try:
        try:
            table = pyarrow.ipc.open_stream(buffer).read_all()
        except pyarrow.ArrowInvalid:
            table = pyarrow.ipc.open_file(buffer).read_all()
        yield from enumerate(cells_of(table), 1)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise Bad(0, f"not a readable Arrow file: {first_line(error)}") from None


def cells_of(table: Any) -> Iterator[dict[str, Any]]:
    """The rows of a table, some at a time: all at once would take long without a sign."""
    for batch in table.to_batches(max_chunksize=1000):
        yield from batch.to_pylist()
