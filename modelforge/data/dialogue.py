"""Conversations in the forms people store them → lists of ``{"role", "content"}`` messages."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from modelforge.data.cells import written

Message = dict[str, str]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
ROLE_KEYS = ("role", "from", "speaker")
TEXT_KEYS = ("content", "value", "text")
# What is read of a message, and of a part of its content.
READ_KEYS = frozenset((*ROLE_KEYS, *TEXT_KEYS))
READ_PART_KEYS = frozenset(("type", "text", "value"))

# The dialogues of hh-rlhf: "\n\nHuman: …\n\nAssistant: …"
MARK = re.compile(r"(?:^|\n\n)(Human|Assistant):")


class Skip(Exception):
    """This row cannot be used.

    Attributes:
        reason: One of `modelforge.data.ledger.ADVICE`.
        role: The cell at fault, by the format's name for it; may be empty.
    """

    def __init__(self, reason: str, role: str = "") -> None:
        super().__init__(reason)
        self.reason, self.role = reason, role


def is_message(value: Any) -> bool:
    """Whether a value is one message in any of the known spellings."""
    return (
        isinstance(value, dict)
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in TEXT_KEYS)
    )


def is_messages(value: Any) -> bool:
    """Whether a value is a non-empty list of messages, or the JSON text of one (as in CSV)."""
    value = unpacked(value)
    return isinstance(value, Sequence) and bool(value) and all(map(is_message, value))


def unpacked(value: Any) -> Any:
    """The list behind JSON text that holds one; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("[{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def to_messages(value: Any) -> list[Message]:
    """Normalise a list of messages (or one message): roles by synonym, text content only.

    Raises:
        Skip: If it is no such list, a role is unknown, or content is not text.
    """
    value = unpacked(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise Skip("broken messages")
    return [to_message(item) for item in value]


def to_message(item: Any) -> Message:
    """Normalise one message.

    Raises:
        Skip: If its role is unknown or its content is not text.
    """
    if not is_message(item):
        raise Skip("broken messages")
    spoken = next(item[key] for key in ROLE_KEYS if key in item)
    role = ROLES.get(str(spoken).strip().lower())
    if role is None:
        raise Skip(f"broken messages: unknown role {str(spoken)[:30]!r}")
    if item.get("tool_calls"):
        raise Skip("broken messages: tool calls are not trained on")
    content = next(item[key] for key in TEXT_KEYS if key in item)
    if isinstance(content, list):
        parts = [written(part_text(p)) for p in content]
        content = None if None in parts else "".join(map(str, parts))
    words = written(content)
    if words is None:
        raise Skip("broken messages: content that is not text")
    return {"role": role, "content": words}


def part_text(part: Any) -> Any:
    """The text of one part of a message's content; anything else as it is."""
    if not isinstance(part, dict):
        return part
    return part.get("text", part.get("value") if part.get("type") == "text" else None)


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


def split_last_reply(messages: list[Message]) -> tuple[list[Message], str | None]:
    """The conversation before its last assistant message, and that message's text.

    A conversation that ends with another role is all prompt and has no reply.
    """
    if messages[-1]["role"] == "assistant":
        return messages[:-1], messages[-1]["content"]
    return messages, None
