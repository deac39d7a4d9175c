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

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.progress import track
from modelforge.data.beside import beside, same_weights
from modelforge.data.check import LongRows, tokenise
from modelforge.data.convert import DataKind, Example, Mode
from modelforge.data.dialogue import Message, Skip
from modelforge.data.exports import plain
from modelforge.data.labels import parted
from modelforge.data.ledger import Ledger
from modelforge.data.overlap import Named
from modelforge.data.places import Watched
from modelforge.data.read import Row, Table
from modelforge.data.recognise import recognise, rename
from modelforge.data.rows import Data, Rows
from modelforge.data.sources import Asked, Parts, read_parts
from modelforge.data.special import segments_to_tokens, without_bos
from modelforge.data.template import TemplateChoice
from modelforge.data.tokens import How
from modelforge.data.unused import count, refuse
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w .-]*\}\}")


def read_rows(
    *,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    system_prompt: str | None = None,
    min_rows: int = 1,
    eos_token_ids: Collection[int] = (),
    chat_template: TemplateChoice | None = None,
    how: How | None = None,
    watched: Watched | None = None,
    **source: Any,
) -> Rows:
    """Read, recognise, normalise and tokenise data, each row once; needs no model.

    Args:
        kind: ``demonstration``, ``preference``, ``labelled`` or ``prompt``.
        tokenizer: With the chat template set; without one only raw text can be trained on.
        system_prompt: The system message of rows that have none.
        min_rows: Fewer training rows than this are refused.
        eos_token_ids: Ids that end a reply beside the tokenizer's own.
        chat_template: For the ledger.
        how: How rows are rendered, and what of them is trained on.
        watched: A row to follow.
        source: What is read: the fields of `modelforge.data.sources.Asked`; None leaves one open.

    Raises:
        DataError: With all problems of the files.
    """
    asked = Asked(**{key: value for key, value in source.items() if value is not None})
    ledger = Ledger(kind, chat_template=described(chat_template), watched=watched)
    mode = Mode(kind, conversational=bool(tokenizer.chat_template))
    parts = read_parts(asked, ledger)
    made = convert_all(parts, mode, ledger)
    segments_to_tokens((example for rows in made for _, example in rows), tokenizer)
    unify(made, ledger)
    same_weights([example for rows in made for _, example in rows], ledger)
    weights = [part.weight for part in parts.train]
    own = [part.held_out for part in parts.train]
    reason = parts.reason
    del parts  # from here on the examples are enough
    add_system(made, system_prompt)
    look_for_placeholders(made, ledger)
    take_bos_off(made, tokenizer, ledger)
    how = replace(how or How(), end_ids=end_ids(tokenizer, eos_token_ids))
    return Rows(
        parts=[tokenise(rows, kind, tokenizer=tokenizer, how=how) for rows in made],
        weights=weights,
        own=own,
        eval_split=asked.eval_split,
        held_out=reason,
        decode=lambda ids: str(tokenizer.decode(list(ids))),
        seed=asked.seed,
        min_rows=min_rows,
        end_ids=how.end_ids,
        name=str(asked.dataset) if isinstance(asked.dataset, str | Path) else "dataset",
        reading=ledger,
        template_kwargs=how.template_kwargs,
        prompts_held_out=asked.prompts_held_out,
    )


def plain_rows(asked: Asked) -> list[Named]:
    """The training rows of data sets with their places: prompts with answers, else plain text.

    Raises:
        DataError: With all problems of the files.
    """
    parts = replace(read_parts(asked, Ledger("prompt")), evaluation=[])
    try:
        made = convert_all(parts, Mode("prompt", conversational=True), Ledger("prompt"))
    except DataError:
        ledger = Ledger("demonstration")
        made = convert_all(parts, Mode("demonstration", conversational=True), ledger)
    return [(row.where, example) for rows in made for row, example in rows]


def add_system(made: Sequence[Made], system: str | None) -> None:
    """Begin each conversation that has no system message with this one, in place.

    Raises:
        DataError: If a row is plain text, which has no place for it.
    """
    if system is None:
        return
    first = {"role": "system", "content": system}
    for row, example in (pair for rows in made for pair in rows):
        name = "messages" if "messages" in example else "prompt"
        messages = example.get(name)
        if not isinstance(messages, list):
            what = f"has no place in plain text ({row.where})"
            raise DataError(Problem("system_prompt", what, "set chat_template, or leave it out"))
        if messages[0]["role"] != "system":
            example[name] = [first, *messages]


def look_for_placeholders(made: Sequence[Made], ledger: Ledger) -> None:
    """Count the rows in which a ``{{name}}`` was never filled in."""
    for row, example in (pair for rows in made for pair in rows):
        texts = (value for value in example.values() if isinstance(value, str | list))
        if any(PLACEHOLDER.search(str(text)) for text in texts if "{{" in str(text)):
            ledger.placeholders.add(row.where)


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


Made = list[tuple[Row, Example]]


def convert_all(parts: Parts, mode: Mode, ledger: Ledger) -> list[Made]:
    """The examples of each part, all in one schema.

    Raises:
        DataError: If a file's format is not recognised, or a mapped column is missing.
    """
    made: list[Made] = []
    problems: list[Problem] = []
    for number, part in enumerate([*parts.train, *parts.evaluation]):
        rows: Made = []
        for table in part.tables:
            try:
                role = "train" if number < len(parts.train) else "eval"
                found = convert(table, mode, part.columns, ledger, role)
                rows.extend(track(found, f"converting {table.path}", len(table.rows)))
            except DataError as error:
                problems.extend(error.problems)
        made.append(rows)
    if problems:
        raise DataError(*problems)
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
    if mode.kind == "labelled" and "label" not in form.columns:
        ledger.note(f"{table.path}: each pair gives two answers: the better good, the worse bad")
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
    made = form.convert(match.items(rows), mode, drop)
    for row, example in parted(made) if mode.kind == "labelled" else made:
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
