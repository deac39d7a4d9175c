"""What stands around a question in columns of its own: earlier turns, and choices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.data.cells import is_empty, written
from modelforge.data.dialogue import Message, Skip, is_messages, to_messages

# An exchange as one object: what the user says, and what the assistant answers.
ASKED_KEYS = ("human", "user", "prompt", "instruction", "question", "query", "input")
ANSWERED_KEYS = ("assistant", "gpt", "bot", "completion", "response", "output", "answer")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def exchange(item: Any) -> tuple[Any, Any] | None:
    """What is asked and answered in ``[asked, answered]`` or an object of both; None for none."""
    if isinstance(item, Mapping):
        asked = next((item[key] for key in ASKED_KEYS if key in item), None)
        answered = next((item[key] for key in ANSWERED_KEYS if key in item), None)
        return None if asked is None or answered is None else (asked, answered)
    if isinstance(item, Sequence) and not isinstance(item, str | bytes) and len(item) == 2:
        return item[0], item[1]
    return None


def is_exchanges(value: Any) -> bool:
    """Whether a cell is a list of exchanges, or the JSON text of one."""
    value = from_json(value)
    return (
        isinstance(value, list)
        and bool(value)
        and not is_messages(value)
        and all(exchange(item) is not None for item in value)
    )


def from_json(value: Any) -> Any:
    """The list behind JSON text that holds one; any other value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def earlier_turns(value: Any, role: str = "history") -> list[Message]:
    """The messages of earlier turns: exchanges or messages; none for an empty cell.

    Raises:
        Skip: If it is something else.
    """
    value = from_json(value)
    if is_empty(value):
        return []
    if is_messages(value):
        return to_messages(value)
    if not is_exchanges(value):
        raise Skip("turns not understood", role)
    messages: list[Message] = []
    for item in value:
        for speaker, said in zip(("user", "assistant"), exchange(item) or (), strict=True):
            words = written(said)
            if words is None:
                raise Skip("turns not understood", role)
            messages.append({"role": speaker, "content": words})
    return messages


def choices_of(value: Any) -> list[tuple[str, str]]:
    """The choices of a question, each with its label (A, B, … where it has none).

    Raises:
        Skip: If the cell is no list of texts.
    """
    value = from_json(value)
    if is_empty(value):
        return []
    labels: Any = None
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value, labels = value["text"], value.get("label")  # ARC's {"text": [...], "label": [...]}
    elif isinstance(value, Mapping):
        value, labels = list(value.values()), list(value)
    if not isinstance(value, list):
        raise Skip("choices not understood", "choices")
    texts = [written(item) for item in value]
    if not isinstance(labels, list) or len(labels) != len(texts):
        labels = list(LETTERS)
    if None in texts or len(texts) > len(labels):
        raise Skip("choices not understood", "choices")
    return [(str(label), str(text)) for label, text in zip(labels, texts, strict=False)]


def chosen_label(choices: Sequence[tuple[str, str]], reply: Any) -> Any:
    """The label that a reply means which is the number of a choice; any other reply as it is."""
    named = {name for choice in choices for name in choice}
    word = written(reply)
    if word is None or word.strip() in named or not word.strip().isdigit():
        return reply
    number = int(word)
    return choices[number][0] if number < len(choices) else reply
