"""Files that are written whole or not at all, and lines that a resume is going to write again."""

from __future__ import annotations

import json
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file under another name, sync it, and rename it: never half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def forget_after(path: Path, step: int) -> None:
    """Drop of a JSON Lines file what came after the checkpoint of ``step``.

    That is every later step, the end of a run (its sum and what follows), and a line that a kill
    cut short.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            break
        if row["step"] > step or "train_runtime" in row.get("session", ()):
            break
        kept.append(line)
    write_whole(path, "".join(kept))
