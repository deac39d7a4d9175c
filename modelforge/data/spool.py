"""Rows on disk while they are worked on, and where they lie: beside the caches of ``datasets``."""

from __future__ import annotations

import atexit
import errno
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from modelforge.errors import Problem, RunError

Item = TypeVar("Item")

BATCH = 250  # rows written and read at once


def cache_folder() -> Path:
    """Where tokens of large data are kept: ``modelforge`` in ``HF_DATASETS_CACHE``."""
    from datasets.config import HF_DATASETS_CACHE

    return Path(HF_DATASETS_CACHE) / "modelforge"


def scratch_folder() -> Path:
    """A new folder that is gone when this process ends; those of dead processes are removed.

    Raises:
        RunError: If nothing can be written there.
    """
    cache, host = cache_folder(), socket.gethostname()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"tmp-{host}-{os.getpid()}-", dir=cache))
    except OSError as error:
        raise cannot_write(error) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for left in cache.glob(f"tmp-{host}-*"):
        process = left.name.removeprefix(f"tmp-{host}-").split("-")[0]
        if process.isdigit() and not is_alive(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    return folder


@contextmanager
def written(folder: Path) -> Iterator[None]:
    """While large data is written into a folder, which is removed if the disk gets full.

    Raises:
        RunError: If it does.
    """
    try:
        yield
    except OSError as error:
        # What files are read meanwhile cannot fail so.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise cannot_write(error) from None


def cannot_write(error: OSError) -> RunError:
    """Large data has no place."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    what = f"large data is worked on here, and it cannot be written to: {reason}"
    fix = "free some space, or set HF_DATASETS_CACHE to a folder on a disk that has it"
    return RunError(Problem(str(cache_folder()), what, fix))


def is_alive(process: int) -> bool:
    """Whether a process of this machine runs."""
    import psutil

    return bool(psutil.pid_exists(process))


def in_batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """The items, some at a time."""
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch


class Spool(Generic[Item]):
    """Rows in a file of this process, in batches that are read as often as they are asked for.

    Args:
        path: Of the file, which is written anew.
        items: What goes in.
    """

    def __init__(self, path: Path, items: Iterable[Item]) -> None:
        self.path, self.size = path, 0
        self.places = [0]  # in the file, of each batch and of the end
        with path.open("wb") as file:
            for batch in in_batches(items):
                pickle.dump(batch, file, protocol=pickle.HIGHEST_PROTOCOL)
                self.size += len(batch)
                self.places.append(file.tell())

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Item]:
        for number in range(self.batches):
            yield from self.batch(number)

    @property
    def batches(self) -> int:
        """How many batches there are."""
        return len(self.places) - 1

    def batch(self, number: int) -> list[Item]:
        """One batch, made anew: what is changed in it stays as it is in the file."""
        with self.path.open("rb") as file:
            file.seek(self.places[number])
            # Written by this process, into a folder that nobody else can write to.
            rows: list[Item] = pickle.load(file)
        return rows

    def remove(self) -> None:
        """Free the disk."""
        self.path.unlink(missing_ok=True)
