"""Conversations that are told by their order or by marks in a text, not as messages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from modelforge.data.cells import is_empty, written
from modelforge.data.convert import Cells, Example, Mode, part, read_messages, system_of
from modelforge.data.message import Message, Skip
from modelforge.data.turns import earlier_turns, from_json

# Baize: "[|Human|] … [|AI|] …"; Glaive: "USER: … ASSISTANT: … FUNCTION RESPONSE: …"
MARKS = re.compile(r"(?:\A|\n)[ \t]*(?:\[\|(Human|AI)\|\]|(USER|ASSISTANT|FUNCTION RESPONSE):)")
SPEAKERS = {
    "Human": "user",
    "USER": "user",
    "AI": "assistant",
    "ASSISTANT": "assistant",
    "FUNCTION RESPONSE": "tool",
}
END = "<|endoftext|>"
# Glaive's call: the arguments are JSON between single quotation marks.
CALL = re.compile(r'<functioncall>\s*\{"name":\s*"([^"]+)",\s*"arguments":\s*\'(.*)\'\s*\}', re.S)


def is_alternating(value: Any) -> bool:
    """Whether a cell is a list of two or more texts, or the JSON text of one."""
    value = from_json(value)
    return isinstance(value, list) and len(value) > 1 and all(isinstance(v, str) for v in value)


def read_alternating(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Texts of which the user says the first, the assistant the second, and so on."""
    said = from_json(cells.get("messages"))
    if not is_alternating(said):
        raise Skip("turns not understood", "messages")
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": words} for n, words in enumerate(said)]
    yield from read_messages({**cells, "messages": messages}, mode)


def is_spoken(value: Any) -> bool:
    """Whether a text is a dialogue with marks of both sides."""
    if not isinstance(value, str):
        return False
    sides = {SPEAKERS[a or b] for a, b in MARKS.findall(value)}
    return {"user", "assistant"} <= sides


def read_spoken(cells: Cells, mode: Mode) -> Iterator[Example]:
    """A text with a mark before each turn; what stands before the first is the system's."""
    words = cells.get("messages")
    if not isinstance(words, str) or not is_spoken(words):
        raise Skip("turns not understood", "messages")
    before, *pieces = MARKS.split(words)
    turns = zip(pieces[::3], pieces[1::3], pieces[2::3], strict=True)
    messages = [turn(SPEAKERS[a or b], said) for a, b, said in turns]
    if not messages[-1]["content"] and "tool_calls" not in messages[-1]:
        messages.pop()  # an open turn
    told = (said.strip().removeprefix("SYSTEM:").strip() for said in (system_of(cells), before))
    system = "\n\n".join(filter(None, told))
    yield from read_messages({**cells, "messages": messages, "system": system}, mode)


def turn(role: str, said: str) -> Message:
    """One turn, its call as a call.

    Raises:
        Skip: If the call is not understood.
    """
    said = said.strip().removesuffix(END).strip()
    if role != "assistant" or "<functioncall>" not in said:
        return {"role": role, "content": said}
    words, _, called = said.partition("<functioncall>")
    match = CALL.fullmatch(f"<functioncall>{called}")
    try:
        call = (
            {"name": match[1], "arguments": json.loads(match[2])} if match else json.loads(called)
        )
    except ValueError:
        raise Skip("broken messages: a call that is not understood") from None
    return {"role": role, "content": words.strip(), "tool_calls": [call]}


NUMBERED = re.compile(r"turn_?(\d+)")
# MOSS: "<|Human|>: … <eoh>"; what it thinks, does and finds is None in a plain turn.
MOSS = re.compile(r"\A\s*<\|[^|]+\|>:|<eo[a-z]>\s*\Z")
ASIDE = ("Inner Thoughts", "Commands", "Tool Responses")


def is_numbered(value: Any) -> bool:
    """Whether a cell is an object of turns, each with what both sides say."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(NUMBERED.fullmatch(str(name)) for name in value)
        and all(
            isinstance(each, Mapping) and {"Human", "MOSS"} <= each.keys()
            for each in value.values()
        )
    )


def read_numbered(cells: Cells, mode: Mode) -> Iterator[Example]:
    """The turns of MOSS, by their numbers."""
    turns: Any = cells.get("messages")
    if not is_numbered(turns):
        raise Skip("turns not understood", "messages")
    messages: list[Message] = []
    for _, each in sorted(turns.items(), key=lambda item: int(item[0].strip("turn_"))):
        if any(plain_turn(each.get(name)) not in ("", "None") for name in ASIDE):
            raise Skip("broken messages: a call that is not understood")
        messages.append({"role": "user", "content": plain_turn(each["Human"])})
        messages.append({"role": "assistant", "content": plain_turn(each["MOSS"])})
    yield from read_messages({**cells, "messages": messages}, mode)


def plain_turn(value: Any) -> str:
    """What is said in a turn of MOSS, without its marks."""
    return MOSS.sub("", str(value or "")).strip()


def is_texts(value: Any) -> bool:
    """Whether a cell is a list of texts."""
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def read_questions(cells: Cells, mode: Mode) -> Iterator[Example]:
    """CoQA, QuAC: a text and questions on it, each answered before the next one is asked."""
    asked, found = cells.get("questions"), cells.get("answers")
    if isinstance(found, Mapping):
        found = next((found[key] for key in ("input_text", "texts", "text") if key in found), None)
    if not isinstance(asked, list) or not isinstance(found, list) or len(asked) != len(found):
        raise Skip("turns not understood", "answers")
    answers = [each[0] if isinstance(each, list) and each else each for each in found]
    pairs = [list(pair) for pair in zip(asked, answers, strict=True)]
    about = part(cells, "context")
    if pairs and about and not is_empty(written(pairs[0][0])):
        pairs[0][0] = f"{about}\n\n{pairs[0][0]}"
    messages = earlier_turns(pairs, "answers")
    if not messages:
        raise Skip("turns not understood", "questions")
    yield from read_messages({**cells, "messages": messages}, mode)
