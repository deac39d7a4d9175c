"""The forms in which chat templates take messages that call functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from modelforge.data.calls import as_text


@dataclass(frozen=True)
class CallForm:
    """How a template takes a message that calls functions.

    Attributes:
        empty: What stands as content where there is none.
        text: Whether the arguments are JSON text; else an object.
        ids: Whether each call must have an id of nine letters or digits, as Mistral's must.
    """

    empty: str | None = ""
    text: bool = False
    ids: bool = False


CALL_FORMS = (
    *(CallForm(), CallForm(None), CallForm("", text=True), CallForm(None, text=True)),
    *(CallForm("", ids=True), CallForm(None, ids=True), CallForm("", text=True, ids=True)),
)


def shaped_calls(message: dict[str, Any], form: CallForm) -> dict[str, Any]:
    """A message that calls functions, in a template's form."""
    calls = message["tool_calls"]
    if form.text:
        calls = [
            {**call, "function": {**call["function"], "arguments": as_text(call["function"])}}
            for call in calls
        ]
    return {**message, "content": message["content"] or form.empty, "tool_calls": calls}
