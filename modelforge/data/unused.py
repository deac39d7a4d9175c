"""What of a file's rows no format reads: it is counted by name, or costs the row.

A column or a key of a message may hold what changes the meaning of a row: a picture beside its
caption, earlier turns of a conversation, the mark that a row is not to be trained on. Such a row is
dropped with the reason. Everything else that was not read stands in the ledger by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from modelforge.data.cells import is_empty
from modelforge.data.compare import ANSWER_KEYS, RANK_KEYS, SCORE_KEYS
from modelforge.data.convert import DataKind
from modelforge.data.dialogue import is_messages, unpacked
from modelforge.data.ledger import Ledger, Tally
from modelforge.data.message import (
    READ_KEYS,
    READ_PART_KEYS,
    ROLE_KEYS,
    TEXT_KEYS,
    THOUGHT_KEYS,
    Skip,
    is_message,
    is_plain,
)
from modelforge.data.read import Row
from modelforge.data.recognise import canonical

MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# Columns that change what a row says; never passed over where they are filled.
MEANING = {
    **dict.fromkeys(MEDIA, "holds what is no text"),
    "history": "column with a meaning of its own",
    "parent_id": "column with a meaning of its own",
    "critiques": "column with a meaning of its own",
    "critique": "column with a meaning of its own",
    "corrected": "column with a meaning of its own",
    "revision": "column with a meaning of its own",
}
NAMES = ("name", "tool_call_id")  # of messages; what is no text is not read
# Of demonstrations: whether, or how much, the row is to be trained on.
FLAGS = ("train", "loss", "loss_weight", "loss_scale", "weight")


def refuse(
    rows: Iterable[Row],
    used: Collection[str],
    kind: DataKind,
    *,
    by_hand: bool,
    drop: Callable[[Skip, Row], None],
) -> Iterator[Row]:
    """The rows of which nothing is passed over that changes what they say.

    Args:
        rows: Of one file.
        used: The columns that its format reads.
        kind: What the rows are to serve.
        by_hand: Whether the user named the columns: then only what is no text is looked for.
        drop: Takes the others.
    """
    for row in rows:
        skip = next(_reasons(row.cells, used, kind, by_hand), None)
        if skip is None:
            yield row
        else:
            drop(skip, row)


def _reasons(
    cells: Mapping[str, Any], used: Collection[str], kind: DataKind, by_hand: bool
) -> Iterator[Skip]:
    for name, value in cells.items():
        if name in used or is_empty(value):
            continue
        known = canonical(name)
        if known == "parent_id" and _is_whole(cells, used):
            continue
        if known in MEANING and (known in MEDIA or not by_hand):
            yield Skip(MEANING[known], name)
        if kind == "demonstration" and known in FLAGS and not by_hand and _is_off(value):
            yield Skip("marked not to be trained on", name)


def _is_whole(cells: Mapping[str, Any], used: Collection[str]) -> bool:
    """Whether a row says what it answers, or is a conversation: then its parent is but an id."""
    return len(used) > 1 or any(is_messages(cells.get(name)) for name in used)


def _is_off(value: Any) -> bool:
    """Whether a flag or a weight says that a row is not to be trained on."""
    return str(value).strip().lower() in ("false", "0", "0.0", "no")


def count(
    rows: Iterable[Row],
    used: Collection[str],
    kind: DataKind,
    ledger: Ledger,
    *,
    answers: str | None = None,
) -> None:
    """Count the filled columns, and the keys of messages and answers, that are not read.

    Rows of prompts hand their other columns on to reward functions.

    Args:
        rows: Of one file.
        used: The columns that are read.
        kind: What the rows are to serve.
        ledger: Is told of it.
        answers: The column of several answers.
    """
    columns = ledger.passed_on if kind == "prompt" else ledger.unused
    for row in rows:
        for name, value in row.cells.items():
            if name not in used and not is_empty(value):
                columns.setdefault(str(name), Tally()).add(row.where)
            elif name in used:
                for key in _keys_of_answers(value) if name == answers else _keys(value):
                    ledger.unused.setdefault(f"{name}[].{key}", Tally()).add(row.where)


def _keys(value: Any) -> set[str]:
    """The keys of messages, and of the parts of their content, that are not read."""
    found: set[str] = set()
    if isinstance(value, list) and all(map(is_plain, value)):
        return found
    for message in _messages(value):
        if is_plain(message):
            continue
        found.update(k for k, v in message.items() if k not in READ_KEYS and not is_empty(v))
        for keys in (ROLE_KEYS, TEXT_KEYS, THOUGHT_KEYS):  # of several, the first is read
            filled = [key for key in keys if not is_empty(message.get(key))]
            found.update(key for key in filled[1:] if message[key] != message[filled[0]])
        found.update(k for k in NAMES if k in message and not is_name(message[k]))
        content = next((message[key] for key in TEXT_KEYS if key in message), None)
        for part in content if isinstance(content, list) else ():
            if isinstance(part, Mapping):
                found.update(f"content[].{key}" for key in part if key not in READ_PART_KEYS)
    return found


def is_name(value: Any) -> bool:
    """Whether a message's ``name`` or ``tool_call_id`` is read, or says nothing."""
    return isinstance(value, str) or is_empty(value)


def _keys_of_answers(value: Any) -> set[str]:
    """The keys of several answers that are not read: of the first answers and scores one is."""
    found: set[str] = set()
    for each in value if isinstance(value, list) else ():
        if isinstance(each, Mapping):
            filled = [key for key, item in each.items() if not is_empty(item)]
            groups = (ANSWER_KEYS, (*SCORE_KEYS, *RANK_KEYS))
            read = {next((k for k in group if k in filled), "") for group in groups}
            found.update(key for key in filled if key not in read)
    return found


def _messages(value: Any) -> Iterable[Mapping[str, Any]]:
    if is_message(value):
        return [value]
    value = unpacked(value)
    return value if is_messages(value) else ()
