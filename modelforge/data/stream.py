"""The first rows of a hub data set that is read while it is downloaded, and no more of it.

A run of so many steps trains on so many rows. These are read, checked and tokenised like those of a
file, so that all is known before the run begins, and a run that is resumed finds the same rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from modelforge.common.progress import track
from modelforge.data.again import Again
from modelforge.data.read import Row
from modelforge.data.spool import Spool, scratch_folder, written

BUFFER = 10_000  # rows among which `datasets` draws the next one
HELD = 50_000  # rows that memory holds


def rows_of_steps(steps: int, batch: int, held_out: float | int) -> int:
    """How many rows to read: those of all steps, those held out, and a tenth that may be dropped.

    Args:
        steps: Of the run.
        batch: Rows of one step, on all devices together.
        held_out: A number of rows, or below 1 a share of all.
    """
    trained = steps * batch
    all_rows = trained / (1 - held_out) if held_out < 1 else trained + held_out
    return -(-round(all_rows * 11) // 10)


def streamed(rows: Any, source: str, *, most: int, seed: int) -> tuple[Sequence[Row], str]:
    """The first rows of a stream after shuffling, and a digest of them.

    Args:
        rows: A ``datasets.IterableDataset``.
        source: Its name.
        most: How many rows to read.
        seed: Of the order: the shards are shuffled, and the rows among `BUFFER`.
    """
    digest = hashlib.sha256()
    shuffled = rows.shuffle(seed=seed, buffer_size=min(BUFFER, 10 * most))

    def read() -> Iterator[Row]:
        cells: Mapping[str, Any]
        taken = track(islice(shuffled, most), f"streaming {source}", most)
        for number, cells in enumerate(taken, 1):
            digest.update(json.dumps(cells, default=str).encode("utf-8", "surrogatepass"))
            yield Row(dict(cells), source, number)

    if most <= HELD:
        return list(read()), digest.hexdigest()
    folder = scratch_folder()
    with written(folder):
        spool = Spool(folder / "stream.pickle", read())
    return Again(lambda: spool, len(spool)), digest.hexdigest()
