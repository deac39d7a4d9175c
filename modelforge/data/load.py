"""Files → clean rows in one normal form, with the ledger: `load_data`, top to bottom.

``dataset`` is a file, a folder, a hub id, or a list of these and of ``{"path", "split", "name",
"weight"}``. Without weights a list is joined end to end. With weights (1 where left out) training
rows are drawn from part i with probability weight_i / sum of weights, each part in its own order
and again from its beginning where it runs out, until every row of every part was drawn at least
once: the shares hold, and small parts with large weights are repeated. Evaluation rows are taken
out before.

Pairs also serve as demonstrations (their chosen side), and both serve as prompts: a prompt row has
``prompt``, the columns of its file as they are, and the reference in ``answer`` unless the file has
a column of that name. All rows are held in memory (measured: about eight times a text file's size
while loading); there is no streaming.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.data.check import (
    Limits,
    account,
    account_training,
    check,
)
from modelforge.data.convert import DataKind, Example, Mode
from modelforge.data.dialogue import Skip
from modelforge.data.divide import divide, mixture
from modelforge.data.ledger import Ledger
from modelforge.data.output import extra_columns, to_dataset
from modelforge.data.read import Row, Table, find, looks_like_hub_id, read_path
from modelforge.data.recognise import recognise, rename
from modelforge.data.template import TemplateChoice
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass
class Data:
    """Rows ready for a strategy.

    Attributes:
        train: Training rows in normal form (see `modelforge.data.convert`).
        eval: Evaluation rows in the same form, or None.
        ledger: What happened to every row.
    """

    train: Dataset
    eval: Dataset | None
    ledger: Ledger


@dataclass(frozen=True)
class Part:
    """One entry of a mixture: a source and its share of the training rows."""

    path: str
    split: str | None = None
    name: str | None = None
    weight: float | None = None


DatasetSpec = str | Path | Sequence[Mapping[str, Any] | str]


def load_data(
    *,
    dataset: DatasetSpec,
    eval_dataset: DatasetSpec | None = None,
    eval_split: float | int | None = None,
    dataset_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    seed: int,
    base_dir: Path | None = None,
    min_rows: int = 1,
    drop_long: bool = False,
    eos_token_ids: Collection[int] = (),
    chat_template: TemplateChoice | None = None,
) -> Data:
    """Read, recognise, normalise, check and split data; needs the tokenizer, no model.

    Args:
        dataset: File, folder, hub id, or a list (see the module).
        eval_dataset: Held-out data in the same forms; weights are not used.
        eval_split: Evaluation rows taken from ``dataset`` where that is not given: a share below 1,
            a number, 0 for none; None: 5 %, at least 8, at most 256, none of fewer than 40.
        dataset_split: Split of a hub data set.
        columns: Our name → the file's column, where the format is not recognised.
        kind: ``demonstration``, ``preference`` or ``prompt``.
        tokenizer: With the chat template set; without one only raw text can be trained on.
        max_length: Tokens a row may have; None: any number.
        seed: Of the split and the mixture.
        base_dir: Relative paths are looked up here first, then in the working folder.
        min_rows: Fewer training rows than this are refused.
        drop_long: Drop longer pairs, as RewardTrainer does; else DPOTrainer cuts them.
        eos_token_ids: Ids that end a reply beside the tokenizer's own.
        chat_template: For the ledger.

    Raises:
        DataError: With all problems of the files; or if too few rows can be used.
    """
    ledger = Ledger(kind, chat_template=described(chat_template))
    parts = parts_of(dataset, dataset_split)
    eval_parts = [] if eval_dataset is None else parts_of(eval_dataset, dataset_split)
    mode = Mode(kind, conversational=bool(tokenizer.chat_template))
    tables = read_all([*parts, *eval_parts], base_dir or Path())
    made = convert_all(tables, mode, columns or {}, ledger, eval_from=len(parts))
    del tables  # from here on the examples are enough
    limits = Limits(kind, max_length, drop_long, end_ids(tokenizer, eos_token_ids))
    kept = [check(rows, limits, tokenizer=tokenizer, ledger=ledger) for rows in made]
    ledger.refuse_if_too_few(named(dataset), sum(map(len, kept[: len(parts)])), min_rows)
    account([item for rows in kept for item in rows], ledger, limits)
    train, evaluation = divide(kept, len(parts), eval_split, seed, min_rows, ledger)
    order = mixture(train, [part.weight for part in parts], seed, ledger)
    flat = [item for rows in train for item in rows]
    account_training(flat, order, evaluation, ledger)
    names = extra_columns(flat + evaluation) if kind == "prompt" else []
    return Data(
        to_dataset([flat[i] for i in order], names, ledger),
        to_dataset(evaluation, names, ledger) if evaluation else None,
        ledger,
    )


def described(choice: TemplateChoice | None) -> dict[str, str]:
    """A template choice for the ledger."""
    return {} if choice is None else {"name": choice.name, "reason": choice.reason}


def end_ids(tokenizer: PreTrainedTokenizerBase, extra: Collection[int]) -> frozenset[int]:
    """The token ids that end a reply.

    Raises:
        DataError: If raw text cannot be closed because the tokenizer has no EOS.
    """
    if tokenizer.eos_token_id is not None:
        return frozenset((tokenizer.eos_token_id, *extra))
    if not tokenizer.chat_template:
        what = "the tokenizer has no end-of-sequence token to close raw text with"
        raise DataError(Problem("tokenizer", what, "set eos_token in tokenizer_config.json"))
    return frozenset(extra)


def named(dataset: DatasetSpec) -> str:
    """How a message calls the data."""
    return str(dataset) if isinstance(dataset, str | Path) else "dataset"


def parts_of(dataset: DatasetSpec, split: str | None) -> list[Part]:
    """The entries of a mixture.

    Raises:
        DataError: If an entry has no path, an unknown key or a weight that is not above 0.
    """
    if isinstance(dataset, str | Path):
        return [Part(str(dataset), split)]
    parts: list[Part] = []
    problems: list[Problem] = []
    for number, entry in enumerate(dataset):
        where = f"dataset[{number}]"
        fields = {"path": entry} if isinstance(entry, str | Path) else dict(entry)
        unknown = set(fields) - {"path", "split", "name", "weight"}
        weight = fields.get("weight")
        if unknown:
            what = f"unknown keys {', '.join(sorted(map(str, unknown)))}"
            problems.append(Problem(where, what, "known: path, split, name, weight"))
        elif not isinstance(fields.get("path"), str | Path):
            problems.append(Problem(where, "has no path", "give a file, a folder or a hub id"))
        elif weight is not None and not (isinstance(weight, int | float) and weight > 0):
            problems.append(Problem(where, f"weight {weight!r} is not above 0"))
        else:
            hub_split = fields.get("split") or split
            parts.append(Part(str(fields["path"]), hub_split, fields.get("name"), weight))
    if not dataset:
        problems.append(Problem("dataset", "is an empty list", "give at least one source"))
    if problems:
        raise DataError(*problems)
    return parts


def read_all(parts: Sequence[Part], base_dir: Path) -> list[list[Table]]:
    """The tables of each part.

    Raises:
        DataError: With the problems of all of them.
    """
    tables: list[list[Table]] = []
    problems: list[Problem] = []
    for part in parts:
        try:
            tables.append(read_part(part, base_dir))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(*problems)
    return tables


def read_part(part: Part, base_dir: Path) -> list[Table]:
    """The files of a path, or the split of a hub data set.

    Raises:
        DataError: With every problem found (the first ten in full).
    """
    if find(part.path, base_dir) is None and looks_like_hub_id(part.path):
        from modelforge.data.hub import read_hub

        return [read_hub(part.path, split=part.split or "train", name=part.name)]
    tables = read_path(part.path, base_dir=base_dir)
    if part.split or part.name:
        fix = "remove it, or name the file that holds the split"
        raise DataError(Problem(part.path, "split and name choose within a hub data set", fix))
    return tables


Made = list[tuple[Row, Example]]


def convert_all(
    tables: Sequence[Sequence[Table]],
    mode: Mode,
    columns: Mapping[str, str],
    ledger: Ledger,
    *,
    eval_from: int,
) -> list[Made]:
    """The examples of each part, all in one schema.

    Raises:
        DataError: If a file's format is not recognised, or a mapped column is missing.
    """
    made: list[Made] = []
    problems: list[Problem] = []
    for number, part in enumerate(tables):
        rows: Made = []
        for table in part:
            try:
                role = "train" if number < eval_from else "eval"
                rows.extend(convert(table, mode, columns, ledger, role))
            except DataError as error:
                problems.extend(error.problems)
        made.append(rows)
    if problems:
        raise DataError(*problems)
    unify(made)
    return made


def convert(
    table: Table, mode: Mode, columns: Mapping[str, str], ledger: Ledger, role: str
) -> Iterator[tuple[Row, Example]]:
    """The examples of one file, whose format goes into the ledger."""
    rows = rename(table.rows, columns, mode.kind) if columns else table.rows
    match = recognise(rows, mode.kind, tuple(columns))
    form = match.format
    ledger.sources.append(
        {
            "path": table.path,
            "role": role,
            "format": form.name,
            "columns": dict(match.columns),
            "rows": len(rows),
            "kept": 0,
            "sha256": table.sha256,
            "revision": table.revision,
        }
    )
    if mode.kind == "demonstration" and "preference" in form.serves:
        ledger.note(
            f"{table.path}: of answers compared or rated only the chosen (preferred, best, good) "
            "ones are demonstrations"
        )

    def drop(skip: Skip, row: Row) -> None:
        column = match.columns.get(skip.role, skip.role)
        ledger.drop(f"{skip.reason}: {column}" if skip.role else skip.reason, row.where)

    for row, example in form.convert(match.items(rows), mode, drop):
        # Only prompt rows hand their other cells on.
        yield row if mode.kind == "prompt" else Row({}, row.path, row.line), example


def unify(made: Sequence[Made]) -> None:
    """Bring all examples into one schema, in place.

    Raises:
        DataError: If plain text is mixed with prompts and replies.
    """
    forms: dict[str, str] = {}
    for rows in made:
        for row, example in rows:
            for name in ("text", "messages", "completion"):
                if name in example:
                    forms.setdefault(name, row.where)
    if "text" in forms and len(forms) > 1:
        other = next(where for name, where in forms.items() if name != "text")
        fix = "train on them one after the other, or give the text a prompt column"
        what = f"plain text cannot be mixed with prompts and replies ({other})"
        raise DataError(Problem(forms["text"], what, fix))
    examples = [example for rows in made for _, example in rows]
    if "messages" in forms:
        for example in examples:
            if "completion" in example:
                example["messages"] = example.pop("prompt") + example.pop("completion")
    if not all("margin" in example for example in examples):
        for example in examples:
            example.pop("margin", None)
