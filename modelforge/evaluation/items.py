"""A data file's rows as `modelforge evaluate` scores them: prompt, answers in tokens, columns."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelforge.data.encoded import MASKED
from modelforge.data.load import read_rows
from modelforge.errors import DataError
from modelforge.evaluation.samples import prompt_and_reference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.data import Data, DataKind
    from modelforge.data.encoded import Encoded


@dataclass(frozen=True)
class Answer:
    """An answer of the data behind its prompt.

    Attributes:
        ids: Prompt and answer, in tokens.
        labels: The same, with -100 where nothing is scored.
        size: Bytes of the scored text, in UTF-8.
        text: That text.
    """

    ids: list[int]
    labels: list[int]
    size: int
    text: str


@dataclass(frozen=True)
class Item:
    """One row.

    Attributes:
        doc_id: Its number among the rows that are used, from 0.
        place: Where it stands, ``file:line``.
        prompt: Messages or text; None where the row has none.
        prompt_ids: The prompt as the model is asked, in tokens.
        reference: The answer that the data gives, as text.
        sides: The data's answer; chosen and rejected of a pair; none of a prompt.
        columns: The file's own columns, for rewards and slices.
    """

    doc_id: int
    place: str
    prompt: Any
    prompt_ids: list[int]
    reference: str
    sides: tuple[Answer, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Of its longest sequence."""
        return max([len(self.prompt_ids), *(len(side.ids) for side in self.sides)])


def read_items(
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None,
    limit: int | None = None,
    **source: Any,
) -> list[Item]:
    """Read a data set as pairs, else as prompts with answers, else as prompts.

    Args:
        tokenizer: With its chat template.
        max_length: Where a row is cut, in tokens.
        limit: The most rows.
        source: What `modelforge.data.load.read_rows` takes.

    Raises:
        DataError: With all problems, if it is none of them.
    """

    def read(kind: DataKind) -> Data:
        rows = read_rows(kind=kind, tokenizer=tokenizer, eval_split=0, **source)
        return rows.within(max_length)

    told = None
    for kind in ("preference", "demonstration", "prompt"):
        try:
            scored = read(kind)
            break
        except DataError as error:
            told = told if told is not None and kind != "demonstration" else error
    else:
        assert told is not None
        raise told
    try:
        asked = scored if kind == "prompt" else read("prompt")
    except DataError:  # plain text asks nothing
        asked = None
    beside = _by_place(asked)
    rows = zip(scored.train, scored.train_tokens, scored.train_places, strict=True)
    return [
        _item(i, place, _next(beside, place), row, _sides(tokenizer, tokens, kind, max_length))
        for i, (row, tokens, place) in enumerate(itertools.islice(rows, limit))
    ]


def _item(
    number: int,
    place: str,
    asked: tuple[dict[str, Any] | None, list[int]],
    row: dict[str, Any],
    sides: tuple[Answer, ...],
) -> Item:
    """A row with what it asks, if it asks something."""
    other, prompt_ids = asked
    prompt, reference = prompt_and_reference(row if other is None else other)
    columns = {} if other is None else {k: v for k, v in other.items() if k != "prompt"}
    shown = None if other is None else prompt
    return Item(number, place, shown, prompt_ids, reference, sides, columns)


def _by_place(asked: Data | None) -> dict[str, list[tuple[dict[str, Any], list[int]]]]:
    """The prompts of each place of the file, in order."""
    found: dict[str, list[tuple[dict[str, Any], list[int]]]] = {}
    if asked is not None:
        rows = zip(asked.train, asked.train_tokens, asked.train_places, strict=True)
        for row, tokens, place in rows:
            found.setdefault(place, []).append((row, tokens.ids[0].tolist()))
    return found


def _next(
    beside: dict[str, list[tuple[dict[str, Any], list[int]]]], place: str
) -> tuple[dict[str, Any] | None, list[int]]:
    rows = beside.get(place)
    if not rows:
        return None, []
    return rows.pop(0) if len(rows) > 1 else rows[0]


def _sides(
    tokenizer: PreTrainedTokenizerBase, tokens: Any, kind: str, limit: int | None
) -> tuple[Answer, ...]:
    if kind == "prompt":
        return ()
    found = []
    for ids, labels in sequences(tokens, limit):
        text = _text(tokenizer, ids, labels)
        found.append(Answer(ids, labels, len(text.encode()), text))
    return tuple(found)


def sequences(tokens: Encoded, limit: int | None = None) -> list[tuple[list[int], list[int]]]:
    """Of each sequence of a row its ids and labels, cut at a limit.

    Args:
        tokens: A demonstration, or the two sides of a pair.
        limit: In tokens; None for no cut.
    """
    found = []
    for ids in tokens.ids:
        part = ids[:limit].tolist()
        if tokens.spans is not None:
            labels = list(tokens.labels(limit))
        else:
            labels = [MASKED] * min(tokens.start, len(part)) + part[tokens.start :]
        found.append((part, labels))
    return found


def _text(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], labels: Sequence[int]) -> str:
    """What is scored of a row, as text."""
    scored = [token for token, label in zip(ids, labels, strict=True) if label != MASKED]
    return str(tokenizer.decode(scored, skip_special_tokens=True))
