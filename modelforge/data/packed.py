"""Bytes of a file, unpacked as they are read: ``.gz``, ``.bz2``, ``.xz``, ``.zst`` and ``.zip``."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from modelforge.data.read import Bad

NAMES = {
    ".gz": "gzip",
    ".bz2": "bzip2",
    ".xz": "xz",
    ".zst": "Zstandard",
    ".zip": "ZIP",
}


def without_packing(name: str) -> str:
    """A lower-case file name without the ending of a packer."""
    return name.removesuffix(packing(name))


def packing(name: str) -> str:
    """The packer's ending of a file name; empty for none."""
    return next((end for end in NAMES if name.lower().endswith(end)), "")


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked.

    Raises:
        Bad: If it is damaged; while it is read, too.
    """
    how = packing(path.name)
    try:
        with OPENERS[how](path) as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise broken(how, error) from None
    except RuntimeError as error:  # an encrypted ZIP
        if how != ".zip":
            raise
        raise broken(how, error) from None
    except OSError as error:
        # A file that cannot be opened has a number for why; a broken stream has none.
        if error.errno is not None or not how:
            raise
        raise broken(how, error) from None


def broken(how: str, error: Exception) -> Bad:
    """The problem of a damaged file."""
    what = f"not a whole {NAMES.get(how, 'packed')} file: {' '.join(str(error).split())}"
    return Bad(0, what, "compress it again")


def _plain(path: Path) -> IO[bytes]:
    return path.open("rb")


def _zstandard(path: Path) -> IO[bytes]:
    import pyarrow

    packed: Any = pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
    return io.BufferedReader(packed)


@contextmanager
def _zipped(path: Path) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(path) as archive:
        names = [
            each.filename
            for each in archive.infolist()
            if not each.is_dir() and not each.filename.startswith("__MACOSX/")
        ]
        if len(names) != 1:
            what = f"holds {len(names)} files: {', '.join(names[:5])}"
            raise Bad(0, what, "unpack it, and give the folder; or pack each file by itself")
        with archive.open(names[0]) as stream:
            yield stream


OPENERS: dict[str, Callable[[Path], Any]] = {
    "": _plain,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _zstandard,
    ".zip": _zipped,
}
