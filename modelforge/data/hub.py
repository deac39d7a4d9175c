"""A data set of the Hugging Face hub: its rows, and the commit they are from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from modelforge.common.hub import refusal, why_offline
from modelforge.data.again import Again
from modelforge.data.folder import HELD_OUT, one_of
from modelforge.data.read import Row, Table, first_line
from modelforge.data.stream import streamed
from modelforge.errors import DataError, Problem

LARGE = 2**26  # bytes of a data set that memory holds
COMMIT = re.compile(r"/([0-9a-f]{40})/")


def read_hub(
    source: str, *, split: str | None, name: str | None, most: int | None = None, seed: int = 0
) -> Table:
    """Download (or take from the cache) one split of a hub data set, or stream its first rows.

    Args:
        source: Its id.
        split: The split; None takes the one that is held out, or the only one.
        name: The configuration.
        most: How many rows to stream; None downloads all.
        seed: Of the order in which they are streamed.

    Raises:
        DataError: If the hub does not give it: unknown, private, no such split, no network.
    """
    from datasets import load_dataset
    from datasets.config import HF_DATASETS_CACHE

    try:
        revision = None if most is None else head_of(source)
        rows = load_dataset(
            source, name, split=split, streaming=most is not None, revision=revision
        )
        if split is None:
            found = next(filter(None, map(partial(one_of, source, rows), HELD_OUT)), None)
            rows = rows[found or next(iter(rows))]
        if most is not None:
            some, fingerprint = streamed(rows, source, most=most, seed=seed)
            return Table(source, some, "", revision or "", fingerprint=fingerprint)
    except DataError:
        raise
    except Exception as error:  # the hub's libraries raise many kinds; each means a refusal
        fix = "check the id, the split and the network; or give a path that exists"
        what = f"no such file or folder, and the hub does not give it: {first_line(error)}"
        offline, advice = why_offline()
        refused, remedy = refusal(source, error, kind="datasets/")
        if offline:
            what = f"no such file or folder, and not in the cache {HF_DATASETS_CACHE}; {offline}"
            fix = advice
        elif refused:
            what, fix = f"no such file or folder, and as a data set it {refused}", remedy
        raise DataError(Problem(source, what, fix)) from None
    read: Sequence[Row] = Again(lambda: rows_of(rows, source), len(rows))
    if (rows.dataset_size or 0) <= LARGE:
        read = list(read)
    # What datasets calls its fingerprint tells the content, where there is no file to hash.
    return Table(source, read, "", commit_of(rows), fingerprint=rows._fingerprint)


def head_of(source: str) -> str | None:
    """The commit that a hub data set is at, so that all of a stream is of one."""
    from huggingface_hub import HfApi

    return HfApi().dataset_info(source).sha


def rows_of(rows: Any, source: str) -> Iterator[Row]:
    """The rows of a data set, from 1."""
    return (Row(cells, source, i) for i, cells in enumerate(rows, 1))


def commit_of(rows: Any) -> str:
    """The commit that a hub data set was made from, which its place in the cache names."""
    for file in rows.cache_files:
        if found := COMMIT.search(Path(file["filename"]).as_posix()):
            return found[1]
    return ""
