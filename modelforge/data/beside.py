"""What rows hold beside their words: functions, arguments of the chat template, weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from modelforge.data.calls import parsed, tools_of
from modelforge.data.cells import is_empty, written
from modelforge.data.convert import Cells, Example
from modelforge.data.ledger import Ledger
from modelforge.data.message import Message, Skip
from modelforge.errors import DataError, Problem

TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def beside(cells: Cells, columns: Mapping[str, str], example: Example) -> Example:
    """``tools`` and ``chat_template_kwargs`` of a row, for its example; those it has.

    Args:
        cells: The row's.
        columns: Role → column.
        example: In normal form.

    Raises:
        Skip: If they are not understood, or there is no conversation to give them to.
    """
    given = {role: cells.get(columns[role]) for role in ROLES if role in columns}
    # Not by "" where there is none: a table that pandas wrote has a column of that name.
    prompt = cells[columns["prompt"]] if columns.get("prompt") in cells else None
    if isinstance(prompt, Mapping) and "tools" in prompt:
        given = {"tools": prompt["tools"], **given}  # {"messages": [...], "tools": [...]}
    found: Example = {}
    if not given and "thought" not in columns:
        return found
    try:
        tools = tools_of(given.get("tools"))
    except ValueError:
        raise Skip("tools not understood", "tools") from None
    if tools is not None:
        found["tools"] = tools
    kwargs = parsed(given.get("chat_template_kwargs"))
    if is_empty(kwargs):
        kwargs = {}
    if not isinstance(kwargs, Mapping):
        raise Skip("not an object", "chat_template_kwargs")
    thinks = given.get("enable_thinking")
    if not is_empty(thinks):
        truth = TRUTH.get(str(thinks).strip().lower().removesuffix(".0"))
        if truth is None:
            raise Skip("label not understood", "enable_thinking")
        kwargs = {"enable_thinking": truth, **kwargs}
    if kwargs:
        found["chat_template_kwargs"] = {k: v for k, v in kwargs.items() if v is not None}
    thought = cells[columns["thought"]] if columns.get("thought") in cells else None
    if not is_empty(thought):
        found["completion"] = with_thought(example, thought)
    if found and "messages" not in example and not isinstance(example.get("prompt"), list):
        raise Skip("needs a chat template")
    return found


def with_thought(example: Example, thought: Any) -> Sequence[Message]:
    """The reply of an example with the thought that stands in a column of its own.

    Raises:
        Skip: If there is no message to put it into, or it is no text.
    """
    words, reply = written(thought), example.get("completion", ())
    if words is None:
        raise Skip("not text", "thought")
    if isinstance(reply, str) or len(reply) != 1:
        raise Skip("needs a chat template")
    return [{"reasoning_content": words, **reply[0]}]


ROLES = ("tools", "chat_template_kwargs", "enable_thinking")


def same_weights(weights: Collection[float], ledger: Ledger) -> bool:
    """Whether the weights of messages say nothing, since all are the same: the loss is a mean.

    Args:
        weights: Of all messages that are trained on.
        ledger: Is told of it.

    Raises:
        DataError: If they differ, which TRL's trainers cannot follow.
    """
    if ledger.kind == "demonstration" and len(weights) > 1:
        shown = ", ".join(f"{weight:g}" for weight in sorted(weights)[:5])
        what = f"assistant messages weigh {shown}: TRL trains on a token or leaves it out"
        fix = "write 0 for messages to leave out, and one same weight for all others"
        raise DataError(Problem("dataset", what, fix))
    if set(weights) <= {1}:
        return False
    if ledger.kind == "demonstration":
        ledger.note(f"all messages weigh {min(weights):g}, which is the same as 1")
    return True


def drop_weights(example: Example) -> None:
    """Take the weights off an example's messages, in place."""
    for message in replies_of(example):
        message.pop("weight", None)


def replies_of(example: Example) -> Sequence[Message]:
    """The assistant messages of an example that may carry a weight."""
    names = ("messages", "completion", "chosen", "rejected")
    lists = (example[name] for name in names if isinstance(example.get(name), list))
    return [message for each in lists for message in each if message["role"] == "assistant"]
