"""Tokenised rows in an Arrow file: read batch by batch, so that memory holds a few of them."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

from modelforge.data.again import ByPlace
from modelforge.data.check import Tokenised
from modelforge.data.convert import Example
from modelforge.data.encoded import Encoded
from modelforge.data.read import Row
from modelforge.data.render import RenderError
from modelforge.data.spool import BATCH

# What is told of a row, in the order of `Tokenised`.
TOLD = (
    *("ends", "double_bos", "closed", "flaw", "silent", "blanks_alone"),
    *("asked", "said"),
)


@cache
def schema() -> Any:
    """The columns; what Python alone can hold is JSON text."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    columns = {
        **{"path": pa.string(), "line": pa.int64(), "cells": pa.large_string()},
        **{"example": pa.large_string(), "error": pa.string()},
        **{"first": ids, "second": ids, "start": pa.int32(), "spans": ids},
        **{"findings": pa.list_(pa.string()), "ends": pa.bool_(), "double_bos": pa.bool_()},
        **{"closed": pa.bool_(), "flaw": pa.string(), "silent": pa.int32()},
        **{"blanks_alone": pa.bool_(), "asked": pa.uint64(), "said": pa.uint64()},
    }
    return pa.schema(list(columns.items()))


def packed(rows: Sequence[Tokenised]) -> Any:
    """Rows as a batch of Arrow's; a date in a cell becomes text."""
    import pyarrow as pa

    encoded = [None if isinstance(row.encoded, RenderError) else row.encoded for row in rows]
    columns = {
        "path": [row.row.path for row in rows],
        "line": [row.row.line for row in rows],
        "cells": [(row.row.cells and text(row.row.cells)) or None for row in rows],
        "example": [text(row.example) for row in rows],
        "error": [row.encoded.reason if isinstance(row.encoded, RenderError) else None
                  for row in rows],
        "first": [e and e.ids[0] for e in encoded],
        "second": [e.ids[1] if e and len(e.ids) > 1 else None for e in encoded],
        "start": [e and e.start for e in encoded],
        "spans": [e and e.spans for e in encoded],
        "findings": [list(e.findings) if e else None for e in encoded],
        **{name: [getattr(row, name) for row in rows]
           for name in TOLD},
    }  # fmt: skip
    arrays = [pa.array(columns[field.name], field.type) for field in schema()]
    return pa.record_batch(arrays, schema=schema())


def text(value: Any) -> str:
    """JSON text; as Python writes it, so that half a character stays one."""
    return json.dumps(value, default=str)


def as_bytes(batch: Any) -> bytes:
    """A batch for another process."""
    raw: bytes = batch.serialize().to_pybytes()
    return raw


def from_bytes(raw: bytes) -> Any:
    """A batch from another process."""
    import pyarrow as pa

    return pa.ipc.read_record_batch(pa.py_buffer(raw), schema())


class Unpacked(ByPlace[Tokenised]):
    """The rows of a batch, each made when it is asked for.

    Args:
        batch: As `packed` made it.
    """

    def __init__(self, batch: Any) -> None:
        self.size = batch.num_rows
        self.first, self.second, self.spans = (
            Lists(batch.column(name)) for name in ("first", "second", "spans")
        )
        self.plain = {
            name: batch.column(name).to_pylist()
            for name in schema().names
            if name not in ("first", "second", "spans")
        }

    def __len__(self) -> int:
        return int(self.size)

    def item(self, at: int) -> Tokenised:
        """One of the rows."""
        plain, ids, others = self.plain, self.first.at(at), self.second.at(at)
        cells, error = plain["cells"][at], plain["error"][at]
        row = Row(json.loads(cells) if cells else {}, plain["path"][at], plain["line"][at])
        found: Encoded | RenderError
        if error is not None or ids is None:
            found = RenderError.again(error)
        else:
            both = (ids,) if others is None else (ids, others)
            told = tuple(plain["findings"][at])
            found = Encoded(both, plain["start"][at], self.spans.at(at), told)
        return Stored(row, plain["example"][at], found, *(plain[name][at] for name in TOLD))


class Stored(Tokenised):
    """A row whose example is read from its JSON text when it is asked for first."""

    __slots__ = ("_kept",)
    _kept: str | Example

    @property
    def example(self) -> Example:
        """In normal form."""
        if isinstance(self._kept, str):
            self._kept = json.loads(self._kept)
        return cast("Example", self._kept)

    @example.setter
    def example(self, value: str | Example) -> None:
        self._kept = value


class Lists:
    """The lists of a column of numbers, four bytes a number.

    Args:
        column: Of Arrow.
    """

    def __init__(self, column: Any) -> None:
        self.values = column.values.to_numpy(zero_copy_only=False)
        self.ends = column.offsets.to_pylist()
        self.there = column.is_valid().to_pylist()

    def at(self, i: int) -> array[int] | None:
        """One of them; None where there is none."""
        if not self.there[i]:
            return None
        numbers = array("i")
        numbers.frombytes(self.values[self.ends[i] : self.ends[i + 1]].tobytes())
        return numbers


class Store(ByPlace[Tokenised]):
    """The rows of one Arrow file.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow as pa

        self.path = path
        # Read, not mapped: the pages of a mapped file count as memory of the process.
        self.file = pa.ipc.open_file(pa.OSFile(str(path)))
        last = self.file.num_record_batches - 1
        self.size = last * BATCH + self.file.get_batch(last).num_rows if last >= 0 else 0
        self.held: tuple[int, Sequence[Tokenised]] = (-1, [])

    def __len__(self) -> int:
        return self.size

    def item(self, at: int) -> Tokenised:
        """One of the rows; its neighbours cost nothing more."""
        at = range(self.size)[at]
        number, place = divmod(at, BATCH)
        if self.held[0] != number:
            self.held = number, Unpacked(self.file.get_batch(number))
        return self.held[1][place]

    def __iter__(self) -> Iterator[Tokenised]:
        for number in range(self.file.num_record_batches):
            yield from Unpacked(self.file.get_batch(number))


def store(path: Path, batches: Iterable[Any]) -> Store:
    """Write batches into a file, each but the last of `BATCH` rows, and open it."""
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema()) as writer:
        for batch in batches:
            writer.write_batch(batch)
    return Store(path)
