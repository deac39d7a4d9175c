"""A folder of data files: which are trained on, which are held out, which are left alone.

The names are those that ``datasets`` reads splits from: ``train.jsonl``, ``my_test.csv``,
``dev/part1.jsonl``, ``data/train-00000-of-00002.parquet``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from modelforge.data.files import DOCUMENTS, ending
from modelforge.errors import DataError, Problem, did_you_mean

WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
HELD_OUT = ("validation", "test")  # the first that is there is held out
ANY_WORD = "|".join(word for words in WORDS.values() for word in words)
WORD = re.compile(rf"(?:^|[-._ 0-9])({ANY_WORD})(?=[-._ 0-9]|$)")
SHARD = re.compile(r"(.+)-\d{5,}-of-\d{5,}$")
# What tools write beside data: descriptions, no rows.
NO_ROWS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Chosen:
    """Files of a folder, relative to it.

    Attributes:
        files: What is read for the purpose asked for.
        held_out: What the folder itself holds out from training.
        notes: What was decided, for the ledger.
    """

    files: list[Path]
    held_out: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split_of(name: str) -> str | None:
    """The split that a name means: ``my_dev`` is ``validation``; None for none."""
    found = WORD.search(name.lower())
    return found and next(split for split, words in WORDS.items() if found[1] in words)


def label(file: Path, stem: str) -> str | None:
    """The split of a file by its folders or its name; of numbered shards the name before it.

    Args:
        file: Relative to the data folder.
        stem: Its name without the data ending.
    """
    for folder in file.parts[:-1]:
        if split := split_of(folder):
            return split
    shard = SHARD.match(stem)
    if shard is None or shard[1] == "data":
        return split_of(stem)
    return next((s for s, words in WORDS.items() if shard[1].lower() in words), shard[1])


def list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """The data files of a folder, of its ``data`` folder and of those named for a split.

    Returns:
        The files, relative to the folder; and what else in it holds data or text.
    """

    def wanted(file: Path) -> bool:
        return file.is_file() and bool(ending(file)) and file.name not in NO_ROWS

    files = [file for file in folder.iterdir() if wanted(file)]
    others: list[str] = []
    for inner in sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")):
        if inner.name == "data" or split_of(inner.name):
            files += [file for file in inner.rglob("*") if wanted(file)]
        elif any(map(wanted, inner.iterdir())):
            others.append(f"{inner.name}/")
    found = sorted(file.relative_to(folder) for file in files)
    rows = [file for file in found if ending(file) not in DOCUMENTS]
    if rows and len(rows) < len(found):  # a README beside the data
        others += [str(file) for file in found if ending(file) in DOCUMENTS]
    return rows or found, others


def choose(
    shown: str,
    folder: Path,
    *,
    split: str | None,
    held_out: bool,
) -> Chosen:
    """The files of a folder that serve a purpose.

    Args:
        shown: The folder as the user wrote it.
        folder: The folder.
        split: The split asked for by name; None leaves the choice to the files' names.
        held_out: Whether held-out rows are wanted, not rows to train on.

    Raises:
        DataError: If the folder has no such split, or more than one that could be meant.
    """
    files, others = list_files(folder)
    if not files:
        fix = f"name one of its folders: {', '.join(others)}" if others else "put data files there"
        raise DataError(Problem(shown, "no data file in this folder", fix))
    groups: dict[str | None, list[Path]] = {}
    for file in files:
        stem = file.name[: file.name.lower().rindex(ending(file))]
        groups.setdefault(label(file, stem), []).append(file)
    names = [name for name in groups if name is not None]
    if split is not None:
        taken = one_of(shown, names, split)
        if taken is None:
            advice = did_you_mean(split, names) or f"it has: {', '.join(names) or 'no splits'}"
            raise DataError(Problem(shown, f"no file for the split '{split}'", advice))
    elif held_out:
        found = (one_of(shown, names, wanted) for wanted in HELD_OUT)
        taken = next((name for name in found if name), None)
    else:
        taken = one_of(shown, names, "train")
        if taken is None and None not in groups and len(names) > 1:
            what = f"has no file to train on: it holds {', '.join(names)}"
            raise DataError(Problem(shown, what, "say which in `dataset_split`"))
    if taken is None and held_out:
        return Chosen(files, notes=notes_of(shown, others, {}))
    rest = {name: group for name, group in groups.items() if name != taken}
    chosen = groups.get(taken, files)
    if taken not in groups:
        rest = {}
    if held_out or (split is not None and split_of(str(taken)) != "train"):
        return Chosen(chosen, notes=notes_of(shown, others, rest))
    second = partner(names, taken)
    kept = rest.pop(second, []) if second else []
    return Chosen(chosen, kept, notes_of(shown, others, rest))


def one_of(shown: str, names: Iterable[str], wanted: str) -> str | None:
    """The one split that ``wanted`` names or means; None for none.

    Raises:
        DataError: If it could mean several.
    """
    names = list(names)
    if wanted in names:
        return wanted
    alike = [name for name in names if split_of(name) == (split_of(wanted) or wanted)]
    if len(alike) > 1:
        what = f"several splits could be meant by {wanted}: {', '.join(alike)}"
        raise DataError(Problem(shown, what, "say which in `dataset_split`"))
    return alike[0] if alike else None


def partner(names: Iterable[str], trained: str | None) -> str | None:
    """The split to hold out beside a trained one: of ``train_sft`` it is ``test_sft``."""
    for split in HELD_OUT:
        alike = [name for name in names if split_of(name) == split]
        rest = WORD.sub("", (trained or "").lower())
        twins = [name for name in alike if WORD.sub("", name.lower()) == rest]
        if len(twins or alike) == 1:
            return (twins or alike)[0]
    return None


def notes_of(
    shown: str, others: Iterable[str], rest: Mapping[str | None, Iterable[Path]]
) -> list[str]:
    """What of a folder is not read."""
    left = list(others) + [str(f) for group in rest.values() for f in group]
    return [f"{shown}: not read: {', '.join(sorted(left))}"] if left else []
