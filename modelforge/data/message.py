"""One message of a conversation, in the forms people store it → its normal form.

A message in normal form has ``role`` (system, user, assistant or tool) and ``content`` (text), and
where they are known:

=====================  ==========================================================================
``reasoning_content``  the thought before the answer
``tool_calls``         calls of functions, in OpenAI's form (see `modelforge.data.calls`)
``name``               of who speaks, or of the function that returned the content
``tool_call_id``       of the call that it answers
``train``              False: the message is only read. A list of pairs: these parts of its content
                       are only read, as begin and end in characters
``weight``             what its tokens count in the loss, where that is not 1
=====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelforge.data.calls import Call, calls_of
from modelforge.data.cells import is_empty, written, written_out

Message = dict[str, Any]

ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatbot": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_response": "tool",
}
# Roles whose content is a call.
CALLING = ("function_call", "tool_call", "tool_calls")
SPEAKING = {name: role for name, role in ROLES.items() if name not in CALLING}
ROLE_KEYS = ("role", "from", "speaker", "author")
TEXT_KEYS = ("content", "value", "text", "parts", "message", "utterance")
CALL_KEYS = ("tool_calls", "function_call")
THOUGHT_KEYS = ("reasoning_content", "thinking", "reasoning")
WEIGHT_KEYS = ("train", "loss", "weight", "loss_weight", "loss_scale")
DETAIL = "train_detail"
# What is read of a message, and of a part of its content.
READ_KEYS = frozenset(
    {
        *(*ROLE_KEYS, *TEXT_KEYS, *CALL_KEYS, *THOUGHT_KEYS, *WEIGHT_KEYS),
        *(DETAIL, "name", "tool_call_id"),
    }
)
READ_PART_KEYS = frozenset(
    {
        *("type", *TEXT_KEYS, *THOUGHT_KEYS, *WEIGHT_KEYS),
        *("id", "name", "input", "tool_use_id", "tool_call", "tool_calls"),
    }
)
CALL_PARTS = ("tool_use", "tool_call", "tool_calls", "function_call")
RESULT_PARTS = ("tool_result", "tool_response")


class Skip(Exception):
    """This row cannot be used.

    Attributes:
        reason: One of `modelforge.data.advice.ADVICE`.
        role: The cell at fault, by the format's name for it; may be empty.
    """

    def __init__(self, reason: str, role: str = "") -> None:
        super().__init__(reason)
        self.reason, self.role = reason, role


def is_plain(value: Any) -> bool:
    """Whether a value is a message of a role and a text alone, as most are."""
    if not isinstance(value, dict) or len(value) != 2:
        return False
    if "role" in value:
        return isinstance(value["role"], str) and isinstance(value.get("content"), str)
    return isinstance(value.get("from"), str) and isinstance(value.get("value"), str)


def is_bare(message: Message) -> bool:
    """Whether a message in normal form is a role and words alone, without a tag among them."""
    return len(message) == 2 and "<" not in message["content"]


def is_message(value: Any) -> bool:
    """Whether a value is one message in any of the known spellings."""
    return is_plain(value) or (
        isinstance(value, dict)
        and any(key in value for key in ROLE_KEYS)
        and any(key in value for key in (*TEXT_KEYS, *CALL_KEYS))
    )


@dataclass
class Content:
    """What the content of a message holds.

    Attributes:
        text: Its words.
        thought: The thought, if it is a part of its own.
        calls: Calls of functions.
        results: What functions returned, as messages.
        unread: Parts of the text that are not to be trained on, as begin and end.
    """

    text: str = ""
    thought: str = ""
    calls: list[Call] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)
    unread: list[list[int]] = field(default_factory=list)


def read_message(item: Any) -> list[Message]:
    """Normalise one message; a user's parts may be what several functions returned.

    Raises:
        Skip: If its role is unknown or its content is not understood.
    """
    if is_plain(item):  # most are, and are spelt so
        said = ("role", "content") if "role" in item else ("from", "value")
        if known := SPEAKING.get(item[said[0]]):
            return [{"role": known, "content": item[said[1]]}]
    if not is_message(item):
        raise Skip("broken messages")
    spoken = next(item[key] for key in ROLE_KEYS if key in item)
    name = str(spoken).strip().lower().replace("-", "_")
    role = ROLES.get(name)
    if role is None:
        raise Skip(f"broken messages: unknown role {str(spoken)[:30]!r}")
    if is_plain(item) and name not in CALLING:
        words = item["content"] if "content" in item else item["value"]
        return [{"role": role, "content": words}]
    raw = next((item[key] for key in TEXT_KEYS if key in item), None)
    content = content_of(raw, role, calling=name in CALLING)
    for key in CALL_KEYS:
        if not is_empty(item.get(key)):
            content.calls += understood(calls_of(item[key]))
    if raw is None and not content.calls:
        raise Skip("broken messages: content that is not text")
    message: Message = {"role": role, "content": content.text}
    thought = content.thought or next(
        (str(item[key]) for key in THOUGHT_KEYS if not is_empty(item.get(key))), ""
    )
    if thought:
        message["reasoning_content"] = thought
    if content.calls:
        message["tool_calls"] = content.calls
    message |= {k: item[k] for k in ("name", "tool_call_id") if isinstance(item.get(k), str)}
    weigh(message, item, content)
    says = content.text.strip() or not content.results
    return [*content.results, *([message] if says else ())]


def understood(calls: list[Call] | None) -> list[Call]:
    """Calls that could be read.

    Raises:
        Skip: If they could not.
    """
    if calls is None:
        raise Skip("broken messages: a call that is not understood")
    return calls


def content_of(raw: Any, role: str, *, calling: bool) -> Content:
    """Text, parts, a call, or what a function returned.

    Raises:
        Skip: If it is none of them.
    """
    if raw is None:
        return Content()
    if isinstance(raw, list) and (calling or role != "tool" or all(map(is_part, raw))):
        if calling and not all(map(is_part, raw)):
            return Content(calls=understood(calls_of(raw)))
        content = Content()
        for part in raw:
            add_part(content, part)
    elif isinstance(raw, list | dict):
        words = written_out(raw) if role == "tool" else None
        calls = calls_of(raw) if calling else None
        if words is None and calls is None:
            raise Skip("broken messages: content that is not text")
        content = Content(words or "", calls=calls or [])
    else:
        words = written(raw)
        if words is None:
            raise Skip("broken messages: content that is not text")
        content = Content(words)
    if calling and content.text.strip():
        before, _, after = content.text.rpartition("</think>")
        content.calls += understood(calls_of(after))
        content.thought = before.replace("<think>", "").strip() or content.thought
        content.text = ""
    return content


def is_part(value: Any) -> bool:
    """Whether a value is a part of a message's content: text, or an object with a type."""
    return isinstance(value, str) or (isinstance(value, dict) and "type" in value)


def add_part(content: Content, part: Any) -> None:
    """Add one part to what a content holds.

    Raises:
        Skip: If it is not understood, such as a picture.
    """
    if not isinstance(part, dict):
        part = {"type": "text", "text": written(part)}
    kind = part.get("type", "text")
    value = next((part[key] for key in ("text", "value", "content") if key in part), None)
    if kind == "text" and written(value) is not None:
        begin = len(content.text)
        content.text += str(written(value))
        if weight_of(part) == 0:
            content.unread.append([begin, len(content.text)])
        elif weight_of(part) not in (None, 1):
            raise Skip("weight of a part")
    elif kind in ("reasoning", "thinking", "think"):
        thought = next((part[key] for key in THOUGHT_KEYS if key in part), value)
        content.thought += str(thought or "")
    elif kind in CALL_PARTS:
        nested = next((part[key] for key in CALL_PARTS if key in part), None)
        content.calls += understood(
            calls_of(part if value is None and nested is None else value or nested)
        )
    elif kind in RESULT_PARTS:
        returned = content_of(part.get("content", value), "tool", calling=False)
        result: Message = {"role": "tool", "content": returned.text}
        if isinstance(part.get("tool_use_id"), str):
            result["tool_call_id"] = part["tool_use_id"]
        content.results.append(result)
    else:
        raise Skip(f"broken messages: content that is not text ({str(kind)[:20]})")


# --- weights -----------------------------------------------------------------------------------


def weight_of(item: Mapping[str, Any]) -> float | None:
    """What a message or a part says that it counts: 0 for not at all; None if it says nothing.

    Raises:
        Skip: If it is no number and no truth value.
    """
    found = None
    for key in WEIGHT_KEYS:
        value = item.get(key)
        if is_empty(value):
            continue
        word = str(value).strip().lower()
        known = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}.get(word)
        try:
            weight = float(word) if known is None else known
        except ValueError:
            raise Skip(f"weight not understood: {word[:20]}") from None
        if not 0 <= weight < float("inf"):
            raise Skip(f"weight not understood: {word[:20]}")
        # One that says no is not overruled by another that says yes.
        found = weight if found is None else found * weight
    return found


def weigh(message: Message, item: Mapping[str, Any], content: Content) -> None:
    """Write what is to be trained on of a message into it.

    Raises:
        Skip: If it is not understood.
    """
    weight = weight_of(item)
    unread = [*content.unread, *unread_details(item.get(DETAIL), len(content.text))]
    if weight == 0:
        message["train"] = False
    elif unread:
        message["train"] = unread
    if weight not in (None, 0, 1) and message["role"] == "assistant":
        message["weight"] = weight


def unread_details(value: Any, length: int) -> list[list[int]]:
    """The parts that Axolotl's ``train_detail`` leaves out; its ends belong to the parts.

    Raises:
        Skip: If it is not understood.
    """
    if is_empty(value):
        return []
    try:
        return [
            [int(detail["begin_offset"]), min(int(detail["end_offset"]) + 1, length)]
            for detail in value
            if weight_of(detail) == 0
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Skip("weight not understood: train_detail") from None
