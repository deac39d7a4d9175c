"""Checkpoints that are whole or not there: written aside, synced, renamed; checked when read."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from modelforge.common.files import file_digest
from modelforge.errors import Problem, RunError

MANIFEST = "manifest.json"
_NAME = re.compile(r"checkpoint-(\d+)")
# Where a checkpoint is written until it is whole; no reader takes it for one.
PARTIAL = ".partial"


def step_of(checkpoint: Path) -> int:
    """The optimiser step that a checkpoint was written after."""
    named = _NAME.fullmatch(checkpoint.name)
    if named:
        return int(named[1])
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder, of whatever name, holds a checkpoint, whole or not."""
    return (folder / "trainer_state.json").is_file()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, oldest first, whole or not."""
    found = [entry for entry in folder.glob("checkpoint-*") if _NAME.fullmatch(entry.name)]
    return sorted(found, key=step_of)


def seal(partial: Path, final: Path) -> None:
    """Turn a finished folder into a checkpoint: list its files, sync them, rename it.

    Args:
        partial: The folder with everything in it, on the same file system as ``final``.
        final: Its name from now on; one of that name is replaced.
    """
    files = {
        str(path.relative_to(partial)): [path.stat().st_size, file_digest(path)]
        for path in _files(partial)
    }
    (partial / MANIFEST).write_text(json.dumps(files, indent=1), encoding="utf-8")
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _sync(final.parent)


def why_damaged(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, or None if it is as it was written."""
    try:
        listed = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        for name, (size, digest) in listed.items():
            path = checkpoint / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
            if file_digest(path) != digest:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read: {error}"
    return None


def latest_intact(folder: Path) -> tuple[Path | None, list[tuple[Path, str]]]:
    """The newest whole checkpoint, and the newer ones that are not, each with what is wrong."""
    damaged: list[tuple[Path, str]] = []
    for checkpoint in reversed(checkpoints(folder)):
        wrong = why_damaged(checkpoint)
        if wrong is None:
            return checkpoint, damaged
        damaged.append((checkpoint, wrong))
    return None, damaged


def rotate(folder: Path, *, keep: int | None, best: str | None) -> None:
    """Delete all but the newest ``keep`` checkpoints and the best one; None keeps all.

    Called after a checkpoint was sealed, so the newest is whole and is never deleted.
    """
    if not keep or keep < 0:
        return
    kept = {path.name for path in checkpoints(folder)[-keep:]}
    if best is not None:
        kept.add(Path(best).name)
    for checkpoint in checkpoints(folder):
        if checkpoint.name not in kept:
            shutil.rmtree(checkpoint, ignore_errors=True)


def cannot_write(error: Exception, root: Path) -> RunError | None:
    """A full disk, or a folder that is gone or closed, said so; None for any other error.

    Args:
        error: What writing raised.
        root: The run's folder of checkpoints.
    """
    last = checkpoints(root)[-1:] if root.is_dir() else []
    kept = "no checkpoint was written yet"
    if last:
        kept = f"{last[0].name} is complete: the same command resumes from there"
    if not root.is_dir() or _says_gone(error, root):
        return RunError(Problem(str(root), "was deleted while the run wrote to it", kept))
    number = getattr(error, "errno", None)
    free = shutil.disk_usage(root).free
    if number in (errno.ENOSPC, errno.EDQUOT) or free < 2**20:
        what = f"the disk is full ({free:,} bytes free)"
        return RunError(Problem(str(root), what, f"free some space; {kept}"))
    if number in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
        return RunError(Problem(str(root), f"cannot be written to: {error}", kept))
    return None


def _says_gone(error: Exception, root: Path) -> bool:
    """Whether it says that a place in this folder is not there: torch's writer in words alone."""
    said = str(error)
    if type(error).__name__ == "SafetensorError":  # which names no place
        return "os error 2)" in said
    there = isinstance(error, FileNotFoundError) or "does not exist" in said
    return there and str(root) in said


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MANIFEST)


def _sync(path: Path) -> None:
    """Have the disk hold it before anything says so."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
