"""Conversations in the forms people store them → lists of ``{"role", "content"}`` messages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from modelforge.data.message import Message, Skip, is_message, read_message

# The dialogues of hh-rlhf: "\n\nHuman: …\n\nAssistant: …"
MARK = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def is_messages(value: Any) -> bool:
    """Whether a value is a non-empty list of messages, or the JSON text of one (as in CSV)."""
    value = unpacked(value)
    return isinstance(value, Sequence) and bool(value) and all(map(is_message, value))


def unpacked(value: Any) -> Any:
    """The list behind JSON text that holds one, or behind lists of roles and of texts.

    Any other value stays as it is.
    """
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, dict) and value:  # as `datasets` stores a sequence of objects
        lists = list(value.values())
        if all(isinstance(each, list) for each in lists) and len({*map(len, lists)}) == 1:
            return [dict(zip(value, each, strict=True)) for each in zip(*lists, strict=True)]
    return value


def to_messages(value: Any) -> list[Message]:
    """Normalise a list of messages (or one message); see `modelforge.data.message`.

    Raises:
        Skip: If it is no such list, or a message is not understood.
    """
    value = unpacked(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Skip("broken messages")
    return joined_calls([message for item in value for message in read_message(item)])


def joined_calls(messages: list[Message]) -> list[Message]:
    """Messages with calls that follow one another, or what was said before them, as one turn."""
    if not any("tool_calls" in message for message in messages):
        return messages
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else None
        more = message["role"] == "assistant" and "tool_calls" in message
        if last and last["role"] == "assistant" and more and not message["content"].strip():
            same = all(last.get(key) == message.get(key) for key in ("train", "weight"))
            if same and "reasoning_content" not in message:
                calls = [*last.get("tool_calls", ()), *message["tool_calls"]]
                joined[-1] = {**last, "tool_calls": calls}
                continue
        joined.append(message)
    return joined


def is_marked(text: Any) -> bool:
    """Whether a text is a dialogue with ``Human:`` and ``Assistant:`` marks."""
    if not isinstance(text, str):
        return False
    mark = MARK.match(text.lstrip())
    return mark is not None and mark[1] == "Human" and len(MARK.findall(text.strip())) > 1


def parse_marked(text: str) -> list[Message]:
    """A marked dialogue as messages; neighbours of one role are joined, an open turn is left out.

    >>> [m["role"] for m in parse_marked("\\n\\nHuman: Hi\\n\\nAssistant: Hello")]
    ['user', 'assistant']
    """
    pieces = MARK.split(text.strip())
    messages: list[Message] = []
    for mark, content in zip(pieces[1::2], pieces[2::2], strict=True):
        role, content = ("user" if mark == "Human" else "assistant"), content.strip()
        if messages and messages[-1]["role"] == role:
            joined = f"{messages[-1]['content']}\n\n{content}".strip()
            messages[-1]["content"] = joined
        else:
            messages.append({"role": role, "content": content})
    if messages and not messages[-1]["content"]:
        messages.pop()
    return messages


def split_common(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """Split two conversations into the prompt they share and their different ends.

    The prompt is the longest common beginning after which both continue with an assistant message.

    Raises:
        Skip: If they are equal, share no prompt, or one has no reply of its own.
    """
    if chosen == rejected:
        raise Skip("chosen equals rejected")
    shared = 0
    for a, b in zip(chosen, rejected, strict=False):
        if a != b:
            break
        shared += 1
    while shared and not (speaks(chosen, shared) and speaks(rejected, shared)):
        shared -= 1
    if not shared:
        raise Skip("no common prompt")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def speaks(messages: list[Message], position: int) -> bool:
    """Whether the assistant speaks at ``position``."""
    return position < len(messages) and messages[position]["role"] == "assistant"


def split_last_reply(messages: list[Message]) -> tuple[list[Message], list[Message] | None]:
    """The conversation before its last assistant message, and that message.

    A conversation that ends with another role is all prompt and has no reply.
    """
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1:]
    return messages, None


def says(message: Message) -> bool:
    """Whether a message holds words, a thought or a call."""
    thought = message.get("reasoning_content") or ""
    return bool(message["content"].strip() or thought.strip() or message.get("tool_calls"))


def answer_of(message: Message) -> str:
    """A reply as a reference for rewards: its words, or else its calls as JSON text."""
    if message["content"].strip() or "tool_calls" not in message:
        return str(message["content"])
    calls = [call["function"] for call in message["tool_calls"]]
    return json.dumps(calls[0] if len(calls) == 1 else calls, ensure_ascii=False)
