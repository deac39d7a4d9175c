"""Prompts whose first message carries what their row gives the chat template, and their tokens.

What samples from prompts, or scores them, is given the messages alone. So in normal form a prompt's
first message holds ``tools`` and ``chat_template_kwargs`` of its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.data.message import Message
from modelforge.data.render import Conversation, Renderer

CARRIED = ("tools", "chat_template_kwargs")


def carrying(messages: Sequence[Message], row: Mapping[str, Any]) -> list[Message]:
    """Messages of which the first carries what their row gives the template."""
    given = {name: row[name] for name in CARRIED if row.get(name)}
    first, *rest = messages
    return [{**first, **given}, *rest] if given else list(messages)


def is_special(prompt: Any) -> bool:
    """Whether a prompt holds more than messages of plain words."""
    if isinstance(prompt, str):
        return False
    return any(isinstance(value, list | dict) for message in prompt for value in message.values())


def chat_ids(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    kwargs: Mapping[str, Any] | None = None,
    *,
    generate: bool = False,
) -> list[int]:
    """Token ids of a conversation whose first message carries what its row gives the template.

    Args:
        tokenizer: With its chat template.
        messages: At least one.
        kwargs: For the template; those of the row come over them.
        generate: Open the assistant's turn at its end.
    """
    renderer = Renderer(tokenizer, kwargs=kwargs)
    text = renderer.text(carried(messages), generate=generate)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def carried(messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """Messages as a template is given them."""
    given = [{k: v for k, v in message.items() if v is not None} for message in messages]
    tools = given[0].pop("tools", None)
    kwargs = given[0].pop("chat_template_kwargs", None)
    return Conversation(given, tools, kwargs or {})
