"""Files and folders: digests, writing a file whole or not at all, knowing a folder again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem, RunError


def digest(value: Any) -> str:
    """The sha256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: If it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())  # of bytes it knows a mark of their order
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be read: {error.strerror}")) from None
    except ValueError as error:
        raise DataError(Problem(str(path), f"is no JSON: {error}")) from None


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, sync it, and rename it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # a full disk keeps nothing of it
        raise


@contextmanager
def writing(path: Path, fix: str) -> Iterator[None]:
    """Within it, a place that takes no file ends in one message.

    Args:
        path: What is written.
        fix: What to do about it.

    Raises:
        RunError: If the disk is full, or the place is none.
    """
    try:
        yield
    except Exception as error:
        from safetensors import SafetensorError

        # What only says "not found" of a model that is read has no number of the system's.
        placed = isinstance(error, OSError) and error.errno is not None
        if not placed and not isinstance(error, SafetensorError):
            raise
        said = error.strerror if isinstance(error, OSError) else str(error)
        raise RunError(Problem(str(path), f"cannot be written: {said}", fix)) from None


def open_folder(folder: Path) -> int | None:
    """A descriptor by which `refuse_replaced` knows a folder again; None where there is none.

    While it is open no other folder can have the same number on the disk. The caller closes it.
    """
    if os.name == "nt":  # Windows cannot open a folder, nor delete one that is in use
        return None
    try:
        return os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None


def missing_folders(path: Path) -> list[Path]:
    """What ``mkdir(parents=True)`` would make for this folder, the innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that hold nothing, up to the first that holds something.

    Args:
        folders: The innermost first, as `missing_folders` gives them.
    """
    with contextlib.suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def refuse_replaced(folder: Path, opened: int | None) -> None:
    """See that a folder is the one that was opened: saving would else make it anew, half empty.

    Args:
        folder: Its path.
        opened: What `open_folder` gave; None for no check.

    Raises:
        RunError: If it was deleted meanwhile.
    """
    if opened is None:
        return
    try:
        same = os.path.samestat(os.fstat(opened), folder.stat())
    except FileNotFoundError:
        same = False
    if not same:
        fix = "run the same command again to begin anew"
        raise RunError(Problem(str(folder), "was deleted while the run wrote to it", fix))


def forget_after(path: Path, step: int) -> None:
    """Drop of a JSON Lines file what came after the checkpoint of ``step``.

    That is every later step, the end of a run (its sum and what follows), and a line that a kill
    cut short.
    """
    if not path.is_file():
        return
    kept = []
    # Its own lines: a text in JSON may hold U+2028, at which str.splitlines would cut.
    for line in io.StringIO(path.read_text(encoding="utf-8")):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > step or "train_runtime" in row.get("session", ()):
            break
        kept.append(line)
    write_whole(path, "".join(kept))
