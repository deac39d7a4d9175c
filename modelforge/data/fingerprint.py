"""Whether the rows are those a run began with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset


def fingerprint(*datasets: Dataset | None) -> str:
    """A digest of all rows in their order, whatever file they came from.

    Args:
        datasets: Training and held-out rows in normal form; None for none.
    """
    digest = hashlib.sha256()
    for dataset in datasets:
        digest.update(b"none" if dataset is None else b"rows")
        if dataset is not None and dataset.cache_files:
            for file in dataset.cache_files:  # read, not mapped: its pages would stay in memory
                with Path(file["filename"]).open("rb") as stream:
                    while chunk := stream.read(2**20):
                        digest.update(chunk)
        elif dataset is not None:
            for table in dataset.with_format("arrow").iter(10_000):
                for batch in table.combine_chunks().to_batches():
                    digest.update(batch.serialize())
    return digest.hexdigest()
