"""What a config names → the tables to train on and those to hold out: `read_parts`."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from modelforge.common.sources import DatasetSource, Splits
from modelforge.data.again import Again
from modelforge.data.files import ending, find, looks_like_hub_id, missing, read_file, read_files
from modelforge.data.folder import choose
from modelforge.data.ledger import Ledger
from modelforge.data.packed import packing
from modelforge.data.read import Row, Table
from modelforge.errors import DataError, Problem

LARGE = 2**26  # bytes of files from which on rows are read anew each time: half a GiB in memory
PACKED = 4  # how much larger packed files are unpacked, roughly
DENSE = (".parquet", ".xlsx")  # packed in themselves
FEW = 50_000  # rows that are held, however large the files are that they are drawn from

DatasetSpec = str | Path | Sequence[str | DatasetSource]


@dataclass(frozen=True)
class Asked:
    """What a run says of its data.

    Attributes:
        dataset: File, folder, hub id, or a list (see `modelforge.data.load`); or what to train on
            and what to hold out.
        eval_dataset: Held-out data in the same forms; weights are not used.
        eval_split: Evaluation rows taken from ``dataset`` where that is not given: a share below 1,
            a number, 0 for none; None: 5 %, at least 8, at most 256, none of fewer than 40.
        dataset_split: Split of a hub data set or of a folder, to train on.
        columns: Our name → the file's column, where the format is not recognised.
        max_samples: The most rows to read of each data set, drawn at random.
        streaming: Why no more than ``max_samples`` rows are downloaded of a hub data set; empty
            where all of it is.
        seed: Of the draw, the split and the mixture.
        base_dir: Relative paths are looked up here first, then in the working folder.
        split_by: The key that says what is held out.
    """

    dataset: DatasetSpec | Splits
    eval_dataset: DatasetSpec | None = None
    eval_split: float | int | None = None
    dataset_split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    max_samples: int | None = None
    streaming: str = ""
    seed: int = 0
    base_dir: Path = Path()
    split_by: str = "eval_split"


@dataclass(frozen=True)
class Part:
    """The rows of one data set.

    Attributes:
        tables: Its files.
        columns: Our name → the file's column, where the user named them.
        weight: Its share of the mix; None for none.
        held_out: How many of its rows are held out, as the set itself says; None where it does not.
    """

    tables: list[Table]
    columns: Mapping[str, str]
    weight: float | None = None
    held_out: float | int | None = None


@dataclass(frozen=True)
class Parts:
    """All that is read.

    Attributes:
        train: To train on.
        evaluation: Held out.
        reason: Why these are held out; empty for none.
    """

    train: list[Part]
    evaluation: list[Part]
    reason: str

    @property
    def tables(self) -> list[Table]:
        """All files, those to train on first."""
        return [table for part in (*self.train, *self.evaluation) for table in part.tables]

    @property
    def count(self) -> int:
        """How many parts there are."""
        return len(self.train) + len(self.evaluation)

    @property
    def large(self) -> bool:
        """Whether there are more rows than memory should hold."""
        return any(isinstance(table.rows, Again) for table in self.tables)


@dataclass(frozen=True)
class Found:
    """What the files of one source hold.

    Attributes:
        tables: The rows that were asked for.
        held_out: The rows that a folder itself holds out.
        notes: What was decided about a folder's files.
    """

    tables: list[Table]
    held_out: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_parts(asked: Asked, ledger: Ledger) -> Parts:
    """Read all files that are asked for.

    A folder's own held-out files give way to what the user says of held-out rows.

    Raises:
        DataError: With the problems of all of them.
    """
    named = "eval_dataset"
    if isinstance(asked.dataset, Splits):
        asked, named = without_splits(asked, asked.dataset, ledger)
    assert not isinstance(asked.dataset, Splits)
    train = sources_of(asked.dataset, asked.dataset_split)
    own = [source for source in train if source.eval is not None]
    beside = [s.model_copy(update={"path": s.eval}) for s in own if isinstance(s.eval, str)]
    held_out = [] if asked.eval_dataset is None else sources_of(asked.eval_dataset, None)
    if held_out and own:
        where = f"dataset: eval of {own[0].path}"
        raise DataError(Problem(where, f"{named} is given too", "keep one of the two"))
    # Its split and its limit are those of the set beside it, not of what it holds out.
    held_out += [source.model_copy(update={"split": None}) for source in beside]
    found = read_all(train, held_out, asked, ledger)
    trained, evaluated = found[: len(train)], found[len(train) :]
    parts = [
        Part(
            each.tables,
            asked.columns if source.columns is None else source.columns,
            source.weight,
            None if isinstance(source.eval, str) else source.eval,
        )
        for source, each in zip(train, trained, strict=True)
    ]
    evaluation = [
        Part(each.tables, asked.columns if source.columns is None else source.columns)
        for source, each in zip(held_out, evaluated, strict=True)
    ]
    if evaluation:
        paths = ", ".join(table.path for part in evaluation for table in part.tables)
        return Parts(parts, evaluation, named if not beside else f"eval: {paths}")
    kept = [replace(part, tables=f.held_out) for part, f in zip(parts, trained, strict=True)]
    kept = [part for part in kept if part.tables]
    names = ", ".join(table.path for part in kept for table in part.tables)
    if kept and (asked.eval_split is not None or own):
        ledger.note(f"not read: {names}, since {'eval' if own else asked.split_by} is set")
        kept = []
    return Parts(parts, kept, f"named so: {names}" if kept else "")


def without_splits(asked: Asked, splits: Splits, ledger: Ledger) -> tuple[Asked, str]:
    """The same with a plain ``dataset``, and the name of the key that names held-out data.

    Raises:
        DataError: If held-out data is named twice.
    """
    name = "test" if splits.validation is None else "validation"
    held_out, named = getattr(splits, name), f"dataset: {name}"
    if held_out is not None and asked.eval_dataset is not None:
        raise DataError(Problem(named, "eval_dataset is given too", "keep one of the two"))
    if splits.validation is not None and splits.test is not None:
        ledger.note("not read: test of dataset, since validation is there")
    if held_out is not None and asked.eval_split is not None:
        ledger.note(f"not read: {name} of dataset, since {asked.split_by} is set")
        held_out = None
    if held_out is None:
        return replace(asked, dataset=splits.train), "eval_dataset"
    return replace(asked, dataset=splits.train, eval_dataset=held_out), named


def sources_of(dataset: DatasetSpec, split: str | None) -> list[DatasetSource]:
    """The entries of a mixture; ``split`` where an entry names none."""
    entries = [dataset] if isinstance(dataset, str | Path) else dataset
    sources = [e if isinstance(e, DatasetSource) else DatasetSource(path=str(e)) for e in entries]
    return [s if s.split else s.model_copy(update={"split": split}) for s in sources]


def read_all(
    train: Sequence[DatasetSource], held_out: Sequence[DatasetSource], asked: Asked, ledger: Ledger
) -> list[Found]:
    """The tables of each source, with no more rows than are asked for.

    Raises:
        DataError: With the problems of all of them.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    sources = [*train, *held_out]
    if asked.streaming:
        ledger.note(
            f"streaming: no more than {asked.max_samples} rows of a data set are read: "
            f"{asked.streaming}"
        )
    large = sum(bytes_of(source, asked.base_dir) for source in sources) > LARGE
    for number, source in enumerate(sources):
        try:
            each = read_source(source, asked, held_out=number >= len(train), large=large)
        except DataError as error:
            problems.extend(error.problems)
            continue
        for note in each.notes:
            ledger.note(note)
        most = source.max_samples or asked.max_samples
        tables, others = (
            sample(tables, most, asked.seed, ledger) for tables in (each.tables, each.held_out)
        )
        found.append(replace(each, tables=tables, held_out=others))
    if problems:
        raise DataError(*problems)
    return found


def sample(tables: list[Table], most: int | None, seed: int, ledger: Ledger) -> list[Table]:
    """No more than ``most`` rows, drawn at random and in their order; None takes all."""
    count = sum(len(table.rows) for table in tables)
    if most is None or count <= most:
        return tables
    drawn = set(random.Random(seed).sample(range(count), most))
    ledger.note(
        f"{', '.join(table.path for table in tables)}: {most} of {count} rows, drawn at random "
        f"(max_samples, seed {seed})"
    )
    kept, first = [], 0
    for table in tables:
        if ledger.watched is not None:
            for number, row in enumerate(table.rows, first):
                if number not in drawn:
                    ledger.watched.drop(row.where, "max_samples drew other rows")
        rows = picked(table.rows, drawn, first)
        first += len(table.rows)
        kept.append(replace(table, rows=rows))
    return [table for table in kept if table.rows]


def picked(rows: Sequence[Row], drawn: Collection[int], first: int) -> Sequence[Row]:
    """The rows whose number, counted from ``first``, was drawn."""

    def those() -> Iterator[Row]:
        return (row for number, row in enumerate(rows, first) if number in drawn)

    if isinstance(rows, Again) and len(drawn) > FEW:
        return Again(those, sum(first <= number < first + len(rows) for number in drawn))
    return list(those())


def bytes_of(source: DatasetSource, base_dir: Path) -> int:
    """How large a source's files are, roughly and unpacked; 0 for a hub data set."""
    path = find(source.path, base_dir)
    if path is None:
        return 0
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(
        file.stat().st_size * (PACKED if packing(file.name) or ending(file) in DENSE else 1)
        for file in files
        if file.is_file() and ending(file)
    )


def read_source(
    source: DatasetSource, asked: Asked, *, held_out: bool = False, large: bool = False
) -> Found:
    """A file, the files of a folder, or the split of a hub data set.

    Args:
        source: Where; a relative path is looked up in the config file's folder, then in the
            working folder.
        asked: All that the run says of its data.
        held_out: Whether held-out rows are wanted, not rows to train on.
        large: Whether rows are read from the files again each time, and never all held.

    Raises:
        DataError: With every problem found (the first ten in full).
    """
    path = find(source.path, asked.base_dir)
    if path is None and looks_like_hub_id(source.path):
        from modelforge.data.hub import read_hub

        wanted = source.split or (None if held_out else "train")
        most = (source.max_samples or asked.max_samples) if asked.streaming else None
        return Found(
            [read_hub(source.path, split=wanted, name=source.name, most=most, seed=asked.seed)]
        )
    if path is None:
        raise DataError(missing(source.path, asked.base_dir))
    if source.name or (source.split and not path.is_dir()):
        fix = "remove it, or name the file or folder that holds it"
        what = "name chooses within a hub data set, split also within a folder"
        raise DataError(Problem(source.path, what, fix))
    if not path.is_dir():
        return Found([read_file(path, shown=source.path, large=large)])
    chosen = choose(source.path, path, split=source.split, held_out=held_out)
    return Found(
        read_files(source.path, path, chosen.files, large=large),
        read_files(source.path, path, chosen.held_out, large=large),
        chosen.notes,
    )
