"""Rows that are single messages → a row for each conversation that they make.

OpenAssistant's trees name the message that each one answers; logs of chats name the conversation.
Of a tree, each way from its root to a leaf is a conversation. What two of them share is trained on
in the first alone, and of ranked answers the best one is taken.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from modelforge.data.cells import is_empty
from modelforge.data.layout import is_number
from modelforge.data.message import ROLES
from modelforge.data.read import Row
from modelforge.data.recognise import LOOKED_AT, by_canonical
from modelforge.errors import DataError, Problem

# What a column of a message is called.
NAMES: dict[str, list[str]] = json.loads(
    files("modelforge.configs").joinpath("layouts/single_messages.json").read_text(encoding="utf-8")
)


def joined(path: str, rows: Sequence[Row], *, pairs: bool) -> tuple[Sequence[Row], str]:
    """Conversations as ``messages``, and what was done; rows that are no messages as they are.

    Args:
        path: Of the file, for messages.
        rows: Of one file.
        pairs: Whether answers are compared: then ranked ones to one message become pairs.

    Raises:
        DataError: If each row is one message, and nothing says how they belong together.
    """
    head = rows[:LOOKED_AT]
    if head and all(_is_tree(row.cells.get("prompt")) for row in head):
        rows = [each for row in rows for each in _flat(row)]
        head = rows[:LOOKED_AT]
    names = by_canonical({name: None for row in head for name in row.cells})
    own = {role: _first(names, NAMES[role]) for role in NAMES}
    speaker, said = own["speaker"], own["said"]
    if not speaker or not said or _first(names, NAMES["whole"]):
        return rows, ""
    known = sum(_role(row.cells.get(speaker)) is not None for row in head)
    belongs = own["parent"] if own["parent"] and own["message"] else own["conversation"]
    if 2 * known < len(head) or not belongs:
        if known or (belongs and speaker != "from"):
            raise DataError(_alone(path, speaker, said, belongs))
        return rows, ""
    messages = [Row(_message(row.cells, speaker, said), row.path, row.line) for row in rows]
    if belongs == own["parent"]:
        assert own["message"] is not None
        if pairs and own["rank"]:
            made = _pairs(messages, own["message"], belongs, own["rank"])
            told = f"{path}: {len(rows)} rows, a message each, make {len(made)} pairs of ranked "
            return made, told + "answers: the best and the worst to each message"
        made, left = _ways(messages, own["message"], belongs, own["rank"])
    else:
        members = [row for row in messages if not is_empty(row.cells.get(belongs))]
        if not members:
            raise DataError(_alone(path, speaker, said, None))
        made, strays = _groups(members, belongs, own["order"]), len(messages) - len(members)
        left = {f"messages are left out: no {belongs}": strays} if strays else {}
    told = f"{path}: {len(rows)} rows, a message each, make {len(made)} conversations by {belongs}"
    return made, told + "".join(f"; {count} {reason}" for reason, count in left.items())


def _first(names: Mapping[str, str], wanted: Iterable[str]) -> str | None:
    return next((names[name] for name in wanted if name in names), None)


def _role(value: Any) -> str | None:
    return ROLES.get(str(value).strip().lower().replace("-", "_"))


def _alone(path: str, speaker: str, said: str, belongs: str | None) -> Problem:
    """The problem of messages of which nobody can tell who speaks or where they belong."""
    what = f"each row is one message of a conversation ({speaker}, {said})"
    text = json.dumps({"text": said})
    plain = f"to train on each alone, as plain text, set `columns` to {text}"
    if belongs:
        fix = f"write user, assistant, system or tool into {speaker}"
    else:
        fix = "name the conversation of each in a column conversation_id"
    return Problem(path, f"{what}, and cannot be put together", f"{fix}; {plain}")


def _message(cells: Mapping[str, Any], speaker: str, said: str) -> dict[str, Any]:
    """A row as a message; its other cells stay beside it, so that the ledger names them."""
    rest = {name: value for name, value in cells.items() if name not in (speaker, said)}
    return {**rest, "role": cells.get(speaker), "content": cells.get(said)}


def _groups(messages: Sequence[Row], belongs: str, order: str | None) -> list[Row]:
    """Messages by their conversation, in the order that they say or else the file's."""
    groups: dict[str, list[Row]] = {}
    for row in messages:
        groups.setdefault(str(row.cells.get(belongs)), []).append(row)
    if order is not None:
        for group in groups.values():
            values = [row.cells.get(order) for row in group]
            if all(map(is_number, values)):
                group.sort(key=lambda row: float(row.cells[order]))
            elif all(isinstance(value, str) for value in values):
                group.sort(key=lambda row: str(row.cells[order]))
    read = (belongs, order)
    return [
        _conversation(group[0], (row.cells for row in group), read) for group in groups.values()
    ]


def _ways(
    messages: Sequence[Row], own: str, parent: str, rank: str | None
) -> tuple[list[Row], dict[str, int]]:
    """The ways through trees of messages, and how many messages are on none, by the reason."""
    rows = {str(row.cells.get(own)): row for row in messages}
    children: dict[str, list[str]] = {}
    roots: list[str] = []
    left: dict[str, int] = {}
    for name, row in rows.items():
        above = row.cells.get(parent)
        if not is_empty(above) and str(above) in rows:
            children.setdefault(str(above), []).append(name)
        elif is_empty(above) or _role(row.cells["role"]) != "assistant":
            roots.append(name)
    made: list[Row] = []
    spoken: set[str] = set()
    visited = 0
    ways = [[root] for root in reversed(roots)]
    while ways:
        way = ways.pop()
        visited += 1
        answers = _best([(name, rows[name].cells) for name in children.get(way[-1], ())], rank)
        if not answers:
            made.append(_conversation(rows[way[0]], _told(way, rows, spoken), (own, parent, rank)))
            spoken.update(way)
        ways += [[*way, name] for name in reversed(answers)]
    if visited < len(messages):
        left["messages are left out: ranked below another, or what they answer is not there"] = (
            len(messages) - visited
        )
    return made, left


def _is_tree(value: Any) -> bool:
    """Whether a cell is a message that holds the replies to it (OpenAssistant)."""
    return isinstance(value, Mapping) and isinstance(value.get("replies"), list)


def _flat(row: Row) -> Iterator[Row]:
    """The messages of a tree, each with the one that it answers."""
    todo: list[tuple[Any, str | None]] = [(row.cells.get("prompt"), None)]
    while todo:
        node, parent = todo.pop(0)
        if not isinstance(node, Mapping):
            continue
        cells = {name: value for name, value in node.items() if name != "replies"}
        yield Row({**cells, "parent_id": parent}, row.path, row.line)
        name = str(node.get("message_id"))
        todo = [*((each, name) for each in node.get("replies") or ()), *todo]


def _pairs(messages: Sequence[Row], own: str, parent: str, rank: str) -> list[Row]:
    """The best and the worst of the ranked answers to each message, with all that stands before."""
    rows = {str(row.cells.get(own)): row for row in messages}
    answers: dict[str, list[Row]] = {}
    for row in rows.values():
        above, place = str(row.cells.get(parent)), row.cells.get(rank)
        if above in rows and is_number(place) and _role(row.cells["role"]) == "assistant":
            answers.setdefault(above, []).append(row)
    read = (own, parent, rank)
    made: list[Row] = []
    for asked, group in answers.items():
        group.sort(key=lambda row: float(row.cells[rank]))
        if float(group[0].cells[rank]) == float(group[-1].cells[rank]):
            continue
        way = [asked]
        while (above := str(rows[way[0]].cells.get(parent))) in rows and above not in way:
            way.insert(0, above)
        said = {
            "prompt": [rows[name].cells for name in way],
            "chosen": [group[0].cells],
            "rejected": [group[-1].cells],
        }
        cells = {
            name: _conversation(group[0], messages, read).cells["messages"]
            for name, messages in said.items()
        }
        made.append(Row(cells, group[0].path, group[0].line))
    return made


def _best(answers: Sequence[tuple[str, Mapping[str, Any]]], rank: str | None) -> list[str]:
    """Of the answers to one message those to be read: all, or the best where they have ranks."""
    ranks = [cells.get(rank) if rank else None for _, cells in answers]
    if not any(map(is_number, ranks)):
        return [name for name, _ in answers]
    best = min(float(value) for value in ranks if value is not None and is_number(value))
    return [
        name
        for (name, _), value in zip(answers, ranks, strict=True)
        if is_number(value) and value is not None and float(value) == best
    ]


def _told(
    way: Sequence[str], rows: Mapping[str, Row], spoken: Collection[str]
) -> list[dict[str, Any]]:
    """The messages on a way; those of an earlier way are only read."""
    return [{**rows[n].cells, **({"train": False} if n in spoken else {})} for n in way]


def _conversation(
    first: Row, messages: Iterable[Mapping[str, Any]], read: Collection[str | None]
) -> Row:
    """A row of messages, at the place of the first; what joined them is no part of them."""
    kept = [{k: v for k, v in message.items() if k not in read} for message in messages]
    return Row({"messages": kept}, first.path, first.line)
