"""Files → clean rows in one normal form and in tokens: `read_rows`, top to bottom.

``dataset`` is a file, a folder, a hub id, or a list of `DatasetSource`. Without weights a list is
joined end to end. With weights (1 where left out) training rows are drawn from part i with
probability weight_i / sum of weights, each part in its own order and again from its beginning where
it runs out, until every row of every part was drawn at least once: the shares hold, and small parts
with large weights are repeated. Evaluation rows are taken out before.

Pairs also serve as demonstrations (their chosen side), and both serve as prompts: a prompt row has
``prompt``, the columns of its file as they are, and the reference in ``answer`` unless the file has
a column of that name. All rows are held in memory (measured: about eight times a text file's size
while loading); there is no streaming.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.config import DatasetSource
from modelforge.data.beside import beside, same_weights
from modelforge.data.check import LongRows, tokenise
from modelforge.data.convert import DataKind, Example, Mode
from modelforge.data.dialogue import Message, Skip
from modelforge.data.exports import plain
from modelforge.data.files import (
    find,
    looks_like_hub_id,
    missing,
    read_file,
    read_files,
)
from modelforge.data.folder import choose
from modelforge.data.ledger import Ledger
from modelforge.data.read import Row, Table
from modelforge.data.recognise import recognise, rename
from modelforge.data.rows import Data, Rows
from modelforge.data.special import without_bos
from modelforge.data.template import TemplateChoice
from modelforge.data.tokens import How
from modelforge.data.unused import count, refuse
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


DatasetSpec = str | Path | Sequence[DatasetSource]


def load_data(*, max_length: int | None, long_rows: LongRows = "cut", **source: Any) -> Data:
    """Read data and hold it against one length: `read_rows` and `Rows.within` in one.

    Args:
        max_length: Tokens a row may have; None: any number.
        long_rows: What becomes of longer rows.
        source: What `read_rows` takes.

    Raises:
        DataError: With all problems of the files; or if too few rows can be used.
    """
    return read_rows(**source).within(max_length, long_rows=long_rows)


def read_rows(
    *,
    dataset: DatasetSpec,
    eval_dataset: DatasetSpec | None = None,
    eval_split: float | int | None = None,
    dataset_split: str | None = None,
    columns: Mapping[str, str] | None = None,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    base_dir: Path | None = None,
    min_rows: int = 1,
    eos_token_ids: Collection[int] = (),
    chat_template: TemplateChoice | None = None,
    how: How | None = None,
) -> Rows:
    """Read, recognise, normalise and tokenise data, each row once; needs no model.

    Args:
        dataset: File, folder, hub id, or a list (see the module).
        eval_dataset: Held-out data in the same forms; weights are not used.
        eval_split: Evaluation rows taken from ``dataset`` where that is not given: a share below 1,
            a number, 0 for none; None: 5 %, at least 8, at most 256, none of fewer than 40.
        dataset_split: Split of a hub data set.
        columns: Our name → the file's column, where the format is not recognised.
        kind: ``demonstration``, ``preference`` or ``prompt``.
        tokenizer: With the chat template set; without one only raw text can be trained on.
        seed: Of the split and the mixture.
        base_dir: Relative paths are looked up here first, then in the working folder.
        min_rows: Fewer training rows than this are refused.
        eos_token_ids: Ids that end a reply beside the tokenizer's own.
        chat_template: For the ledger.
        how: How rows are rendered, and what of them is trained on.

    Raises:
        DataError: With all problems of the files.
    """
    ledger = Ledger(kind, chat_template=described(chat_template))
    sources = sources_of(dataset, dataset_split)
    eval_sources = [] if eval_dataset is None else sources_of(eval_dataset, None)
    mode = Mode(kind, conversational=bool(tokenizer.chat_template))
    found = read_all(sources, eval_sources, base_dir or Path())
    tables, held_out, reason = arrange(found, len(sources), eval_split, ledger)
    made = convert_all([*tables, *held_out], mode, columns or {}, ledger, eval_from=len(sources))
    del found, tables, held_out  # from here on the examples are enough
    take_bos_off(made, tokenizer, ledger)
    how = replace(how or How(), end_ids=end_ids(tokenizer, eos_token_ids))
    return Rows(
        parts=[tokenise(rows, kind, tokenizer=tokenizer, how=how) for rows in made],
        weights=[source.weight for source in sources],
        eval_split=eval_split,
        held_out=reason,
        decode=lambda ids: str(tokenizer.decode(list(ids))),
        seed=seed,
        min_rows=min_rows,
        end_ids=how.end_ids,
        name=str(dataset) if isinstance(dataset, str | Path) else "dataset",
        reading=ledger,
        template_kwargs=how.template_kwargs,
    )


def take_bos_off(made: Sequence[Made], tokenizer: PreTrainedTokenizerBase, ledger: Ledger) -> None:
    """Take the BOS off that is written in plain text, in place, where the tokenizer adds one."""
    doubled = without_bos((example for rows in made for _, example in rows), tokenizer)
    if doubled:
        what = f"{doubled} rows begin with the text {tokenizer.bos_token}"
        ledger.note(f"{what}, which the tokenizer adds: it is taken off")


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


def sources_of(dataset: DatasetSpec, split: str | None) -> list[DatasetSource]:
    """The entries of a mixture; ``split`` where an entry names none."""
    if isinstance(dataset, str | Path):
        return [DatasetSource(path=str(dataset), split=split)]
    return [
        source if source.split else source.model_copy(update={"split": split}) for source in dataset
    ]


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


def read_all(
    sources: Sequence[DatasetSource], eval_sources: Sequence[DatasetSource], base_dir: Path
) -> list[Found]:
    """The tables of each source.

    Raises:
        DataError: With the problems of all of them.
    """
    found: list[Found] = []
    problems: list[Problem] = []
    for number, source in enumerate([*sources, *eval_sources]):
        try:
            found.append(read_source(source, base_dir, held_out=number >= len(sources)))
        except DataError as error:
            problems.extend(error.problems)
    if problems:
        raise DataError(*problems)
    return found


def read_source(source: DatasetSource, base_dir: Path, *, held_out: bool = False) -> Found:
    """A file, the files of a folder, or the split of a hub data set.

    Args:
        source: Where; a relative path is looked up in ``base_dir``, then in the working folder.
        base_dir: The config file's folder.
        held_out: Whether held-out rows are wanted, not rows to train on.

    Raises:
        DataError: With every problem found (the first ten in full).
    """
    path = find(source.path, base_dir)
    if path is None and looks_like_hub_id(source.path):
        from modelforge.data.hub import read_hub

        wanted = source.split or (None if held_out else "train")
        return Found([read_hub(source.path, split=wanted, name=source.name)])
    if path is None:
        raise DataError(missing(source.path, base_dir))
    if source.name or (source.split and not path.is_dir()):
        fix = "remove it, or name the file or folder that holds it"
        what = "name chooses within a hub data set, split also within a folder"
        raise DataError(Problem(source.path, what, fix))
    if not path.is_dir():
        return Found([read_file(path, shown=source.path)])
    chosen = choose(source.path, path, split=source.split, held_out=held_out)
    return Found(
        read_files(source.path, path, chosen.files),
        read_files(source.path, path, chosen.held_out),
        chosen.notes,
    )


def arrange(
    found: Sequence[Found], train_parts: int, eval_split: float | int | None, ledger: Ledger
) -> tuple[list[list[Table]], list[list[Table]], str]:
    """The tables to train on, those held out, and why these; the reason is empty for none.

    A folder's own held-out files give way to ``eval_dataset`` and to ``eval_split``.
    """
    train, evaluation = found[:train_parts], found[train_parts:]
    for each in found:
        for note in each.notes:
            ledger.note(note)
    tables = [each.tables for each in train]
    if evaluation:
        return tables, [each.tables for each in evaluation], "eval_dataset"
    kept = [table for each in train for table in each.held_out]
    names = ", ".join(table.path for table in kept)
    if kept and eval_split is not None:
        ledger.note(f"not read: {names}, since eval_split is set")
        kept = []
    return tables, [kept] if kept else [], f"named so: {names}" if kept else ""


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
                found = convert(table, mode, columns, ledger, role)
                rows.extend(track(found, f"converting {table.path}", len(table.rows)))
            except DataError as error:
                problems.extend(error.problems)
        made.append(rows)
    if problems:
        raise DataError(*problems)
    unify(made, ledger)
    same_weights([example for rows in made for _, example in rows], ledger)
    return made


def convert(
    table: Table, mode: Mode, columns: Mapping[str, str], ledger: Ledger, role: str
) -> Iterator[tuple[Row, Example]]:
    """The examples of one file, whose format goes into the ledger."""
    for note in table.notes:
        ledger.note(note)
    rows, tool = plain(table.rows)
    if tool:
        ledger.note(f"{table.path}: an export of {tool}, of which the first answer is read")
    rows = rename(rows, columns, mode.kind) if columns else rows
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
    scores = [match.columns.get(role) for role in ("chosen_score", "rejected_score")]
    if mode.kind == "preference" and all(scores):
        ledger.note(
            f"{table.path}: {' and '.join(map(str, scores))} are no margin, and nothing is trained "
            "on them; a margin for `reward` needs a column named margin"
        )

    def drop(skip: Skip, row: Row) -> None:
        column = match.columns.get(skip.role, skip.role)
        ledger.drop(f"{skip.reason}: {column}" if skip.role else skip.reason, row.where)

    used = set(match.columns.values())
    rows = list(refuse(rows, used, mode.kind, by_hand=bool(columns), drop=drop))
    count(rows, used, mode.kind, ledger)
    for row, example in form.convert(match.items(rows), mode, drop):
        try:
            example |= beside(row.cells, match.columns, example)
        except Skip as skip:
            drop(skip, row)
            continue
        # Only prompt rows hand their other cells on.
        yield row if mode.kind == "prompt" else Row({}, row.path, row.line), example


def unify(made: Sequence[Made], ledger: Ledger) -> None:
    """Bring all examples into one schema, in place; what becomes of margins goes into the ledger.

    Raises:
        DataError: If plain text or tokens are mixed with prompts and replies.
    """
    forms: dict[str, str] = {}
    for rows in made:
        for row, example in rows:
            for name in ("text", "input_ids", "messages", "completion"):
                if name in example:
                    forms.setdefault(name, row.where)
    for name, called in (("text", "plain text"), ("input_ids", "tokens")):
        if name in forms and len(forms) > 1:
            other = next(where for form, where in forms.items() if form != name)
            fix = "train on them one after the other, or give the text a prompt column"
            what = f"{called} cannot be mixed with prompts and replies ({other})"
            raise DataError(Problem(forms[name], what, fix))
    examples = [example for rows in made for _, example in rows]
    if "messages" in forms:
        for example in examples:
            if "completion" in example:
                # Of a prompt nothing is trained on, in whatever form its row is.
                before = [unspoken(message) for message in example.pop("prompt")]
                example["messages"] = before + example.pop("completion")
    margins = [example["margin"] for example in examples if "margin" in example]
    if margins and len(margins) < len(examples):
        few = f"{len(margins)} of {len(examples)} pairs have a margin"
        ledger.note(f"{few}, so that none is used")
        for example in examples:
            example.pop("margin", None)
    elif margins:
        mean = sum(margins) / len(margins)
        ledger.note(
            f"the column margin says how far apart `reward` is to score the two sides of a pair: "
            f"{min(margins):g} to {max(margins):g}, {mean:.3g} on average; `dpo` does not use it"
        )
    for name in ("tools", "chat_template_kwargs"):
        if any(name in example for example in examples):
            for example in examples:
                example.setdefault(name, None)


def unspoken(message: Message) -> Message:
    """A message of a prompt: nothing of it is trained on."""
    return {**message, "train": False} if message["role"] == "assistant" else message
