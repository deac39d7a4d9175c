"""Checked rows → a data set of one schema, the columns that TRL's trainers take, or a file."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.data.carried import CARRIED, carrying
from modelforge.data.check import Tokenised
from modelforge.data.convert import DataKind
from modelforge.data.encoded import Encoded
from modelforge.data.ledger import Ledger
from modelforge.data.picked import Chosen
from modelforge.data.spool import in_batches, scratch_folder, written
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset

# Columns of a prompt file that would collide with what TRL passes to reward functions, or that
# make it take the row for another kind. Their content is in ``prompt`` and ``answer``.
RESERVED = frozenset(
    {
        *("prompt", "prompts", "completion", "completions", "completion_ids"),
        *("chosen", "rejected", "messages", "image", "images"),
        *("trainer_state", "log_extra", "log_metric", "environments"),
    }
)


def extra_columns(rows: Iterable[Tokenised]) -> list[str]:
    """The columns of prompt files that reward functions receive.

    Raises:
        DataError: If Arrow cannot hold a column of that name.
    """
    names: dict[str, str] = {}
    for item in rows:
        for name in item.row.cells:
            if name not in RESERVED:
                names.setdefault(name, item.row.path)
    # Arrow would cut the name there, and take two columns for one.
    broken = [path for name, path in names.items() if "\0" in name]
    if broken:
        raise DataError(Problem(broken[0], "a column's name holds a NUL character", "rename it"))
    return list(names)


def to_dataset(rows: Chosen, extra: Sequence[str], ledger: Ledger) -> Dataset:
    """Rows as a data set with one schema."""
    from datasets import Dataset

    if not rows.held:
        return to_large_dataset(rows, extra, ledger)
    columns: dict[str, list[Any]] = {
        name: [item.example[name] for item in rows] for name in rows[0].example
    }
    if ledger.kind == "prompt":
        given = {name: columns.pop(name) for name in CARRIED if name in columns}
        for i, prompt in enumerate(columns["prompt"] if given else ()):
            row = {name: values[i] for name, values in given.items()}
            columns["prompt"][i] = carrying(prompt, row)
        if "answer" in extra or all(answer is None for answer in columns["answer"]):
            del columns["answer"]
        else:
            columns["answer"] = uniform(columns["answer"], "answer", ledger)
        for name in extra:
            columns[name] = uniform([item.row.cells.get(name) for item in rows], name, ledger)
    # Arrow would give every call the arguments of all others, empty.
    mixed = any(map(is_nested, columns.values()))
    return Dataset.from_dict(columns, on_mixed_types="use_json" if mixed else None)


def to_large_dataset(rows: Chosen, extra: Sequence[str], ledger: Ledger) -> Dataset:
    """Rows as a data set in a file; all but plain text, numbers and truth values is JSON in it."""
    from datasets import Dataset, Features, Json, Value

    prompts = ledger.kind == "prompt"
    names = [*rows[0].example, *extra]
    if prompts:
        unanswered = "answer" in extra or all(row.example["answer"] is None for row in rows)
        left_out = {*CARRIED, *(["answer"] if unanswered else [])}
        names = [*(name for name in rows[0].example if name not in left_out), *extra]
    plain = {"text": Value("string"), "margin": Value("float64"), "label": Value("bool")}
    features = Features({name: plain.get(name, Json()) for name in names})

    def values(name: str, batch: Sequence[Tokenised]) -> list[Any]:
        if prompts and name == "prompt":
            return [carrying(row.example[name], row.example) for row in batch]
        if name in extra:
            return [row.row.cells.get(name) for row in batch]
        return [row.example[name] for row in batch]

    def tables() -> Iterator[Any]:
        for batch in in_batches(track(rows, "writing the rows", len(rows))):
            columns = {name: values(name, batch) for name in names}
            yield Dataset.from_dict(columns, features=features).data.table.combine_chunks()

    return mapped_dataset(tables(), features.arrow_schema)


def mapped_dataset(tables: Iterable[Any], schema: Any) -> Dataset:
    """A data set of tables that lie one after the other in a file of this process."""
    import pyarrow
    from datasets import Dataset

    folder = scratch_folder()
    path = str(folder / "rows.arrow")
    with (
        written(folder),
        pyarrow.OSFile(path, "wb") as file,
        pyarrow.ipc.new_stream(file, schema) as writer,
    ):
        for table in tables:
            writer.write_table(table)
    return Dataset.from_file(path)


NESTED = frozenset({"tool_calls", "function", *CARRIED})


def is_nested(column: Sequence[Any]) -> bool:
    """Whether cells hold objects of their own keys: functions, their calls, keyword arguments.

    Or messages some of which are left out whole and others in part, by a truth value and a list.
    """
    marks: set[type] = set()
    for cell in column:
        if isinstance(cell, Mapping):
            return True
        for each in cell if isinstance(cell, list) else ():
            if isinstance(each, Mapping):
                if not NESTED.isdisjoint(each):
                    return True
                if "train" in each:
                    marks.add(type(each["train"]))
    return len(marks) > 1


# Levels of lists and objects in a cell. datasets takes twice as long for each one more.
DEEPEST = 12


def uniform(values: list[Any], name: str, ledger: Ledger) -> list[Any]:
    """A column of one type: as it is where Arrow holds it, else lists of text, else JSON text."""
    import pyarrow

    try:
        if any(deeper(value, DEEPEST) for value in values):
            raise ValueError
        pyarrow.array(values)
    except (pyarrow.ArrowException, OverflowError, TypeError, ValueError):
        if any(isinstance(value, list) for value in values) and all(map(is_plain, values)):
            what = f"column {name} holds single values and lists, or lists of several types"
            ledger.note(f"{what}; all are passed on as lists of text")
            return [text_list(value) for value in values]
        what = f"column {name} holds values of several types, or nested deeply"
        ledger.note(f"{what}; they are passed on as JSON text")
        return [
            value if value is None or isinstance(value, str) else json.dumps(value, default=str)
            for value in values
        ]
    return values


def is_plain(value: Any) -> bool:
    """Whether a cell is empty, one value, or a list of such."""
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, str | int | float) for item in items)


def text_list(value: Any) -> list[str] | None:
    """A cell that `is_plain` as a list of text."""
    items = value if isinstance(value, list) else [value]
    whole = (int(i) if isinstance(i, float) and i.is_integer() else i for i in items)
    return None if value is None else [str(item) for item in whole if item is not None]


def deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects lie more than so many levels deep in each other."""
    if not isinstance(value, list | dict):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return not levels or any(deeper(each, levels - 1) for each in inner)


def token_columns(
    tokens: Sequence[Encoded],
    rows: Dataset,
    *,
    kind: DataKind,
    max_length: int | None,
    prompt_apart: bool = False,
) -> Dataset:
    """Rows in tokens → the columns TRL's trainers take as already prepared.

    Args:
        tokens: At least one row.
        rows: The same in normal form; pairs may have a margin there.
        kind: ``demonstration`` (for SFTTrainer), ``preference`` (for RewardTrainer) or
            ``labelled`` (for KTOTrainer).
        max_length: Demonstrations are cut at this many tokens, and rows without a supervised
            token left are dropped; longer pairs are dropped. None: no limit.
        prompt_apart: Whether pairs give their prompt in a column of its own, for DPOTrainer.

    Returns:
        ``input_ids`` and ``labels``; or ``chosen_ids``, ``rejected_ids`` and ``margin`` if there,
        with ``prompt_ids`` where it is apart; or ``completion_ids``, ``prompt_ids`` and ``label``.
    """
    import pyarrow
    from datasets import Dataset

    names = ["chosen_ids", "rejected_ids"] if kind == "preference" else ["input_ids", "labels"]
    if kind == "labelled":
        names, prompt_apart = ["completion_ids"], True
    names += ["prompt_ids"] * prompt_apart
    ids = pyarrow.list_(pyarrow.int64() if isinstance(tokens, list) else pyarrow.int32())
    schema = pyarrow.schema([(name, ids) for name in names])
    beside = {
        name: (its_type, rows[name][:])
        for name, its_type in (("margin", pyarrow.float64()), ("label", pyarrow.bool_()))
        if name in rows.column_names
    }
    for name, (its_type, _) in beside.items():
        schema = schema.append(pyarrow.field(name, its_type))

    def tables() -> Iterator[Any]:
        # Batch by batch: lists of Python's numbers take nine times the memory of the tokens.
        for batch in in_batches(enumerate(track(tokens, "writing the tokens", len(tokens)))):
            kept = [(i, row) for i, row in batch if not is_left_out(row, kind, max_length)]
            cells = [
                answers_and_prompt(row) if prompt_apart else token_cells(row, kind, max_length)
                for _, row in kept
            ]
            columns = [listed(column, ids) for column in zip(*cells, strict=True)]
            for its_type, values in beside.values():
                columns.append(pyarrow.array([values[i] for i, _ in kept], its_type))
            if kept:
                yield pyarrow.table(columns, schema=schema)

    if not isinstance(tokens, list):
        return mapped_dataset(tables(), schema)
    return Dataset(pyarrow.concat_tables([schema.empty_table(), *tables()]))


def listed(column: Sequence[array[int]], its_type: Any) -> Any:
    """Numbers of four bytes as an Arrow column of lists."""
    import numpy
    import pyarrow

    numbers = numpy.frombuffer(b"".join(column), numpy.int32)
    ends = numpy.cumsum([0, *map(len, column)], dtype=numpy.int32)
    values = pyarrow.array(numbers).cast(its_type.value_type)
    return pyarrow.ListArray.from_arrays(ends, values)


def is_left_out(row: Encoded, kind: DataKind, max_length: int | None) -> bool:
    """Whether nothing of a demonstration is supervised within the limit, or a pair is longer."""
    if kind == "demonstration":
        return not row.supervised(max_length)
    return max_length is not None and max(map(len, row.ids)) > max_length


def token_cells(
    row: Encoded, kind: DataKind, max_length: int | None
) -> tuple[array[int], array[int]]:
    """The ids and labels of a demonstration, cut; or both sides of a pair."""
    if kind == "demonstration":
        return row.ids[0][:max_length], row.labels(max_length)
    chosen, rejected = row.ids
    return chosen, rejected


def answers_and_prompt(row: Encoded) -> list[array[int]]:
    """Both replies of a pair, or the labelled answer, and the prompt before them."""
    prompt = row.ids[0][: row.start]
    return [*(ids[row.start :] for ids in row.ids), prompt]


def write_normal_form(rows: Dataset | Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write rows in normal form as JSON lines.

    Returns:
        The number of rows written.

    Raises:
        DataError: If the file cannot be written.
    """
    count = 0
    try:
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False, default=str) + "\n")
                count += 1
    except OSError as error:
        raise DataError(Problem(str(path), f"cannot be written: {error.strerror}")) from None
    return count
