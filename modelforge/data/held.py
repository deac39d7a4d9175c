"""The words of a message that its rendering must hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelforge.data.message import Message

THOUGHT = re.compile(r"(</?think>)")


def words_of(message: Message) -> Iterator[tuple[str, str]]:
    """The texts of a message that its rendering must hold, each with what it is.

    The content is split at the marks of a thought, for templates write those anew.
    """
    thought = (message.get("reasoning_content") or "").strip()
    if thought:
        yield "thought", thought
    what = "text"
    for part in THOUGHT.split(message["content"]):
        if part == "<think>":
            what = "thought"
        elif part == "</think>":
            what = "text"
        elif part.strip():
            yield what, part.strip()
    for call in message.get("tool_calls", ()):
        yield "call", call["function"]["name"]
        yield from (("call", words) for words in leaves(call["function"]["arguments"]))


def leaves(value: Any) -> Iterator[str]:
    """The texts in a structure."""
    if isinstance(value, str) and value.strip():
        yield value.strip()
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from leaves(each)
    elif isinstance(value, list):
        for each in value:
            yield from leaves(each)


def holds(text: str, words: str) -> bool:
    """Whether a rendering holds a text, white space and the escapes of JSON aside."""
    if words in text:
        return True
    return as_json(words) in text or "".join(words.split()) in "".join(text.split())


def as_json(words: str) -> str:
    """A text with the escapes that it has within JSON."""
    return json.dumps(words, ensure_ascii=False)[1:-1]
