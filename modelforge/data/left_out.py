"""What a chat template cannot render at all: rows that hold it are refused, not read without it."""

from __future__ import annotations

from collections.abc import Sequence

from modelforge.data.convert import Example
from modelforge.data.message import Message
from modelforge.data.render import Renderer, RenderError
from modelforge.data.template import trl_templates
from modelforge.errors import DataError, Problem

# What a row may hold → the ability of a `Renderer` that it needs.
ABILITIES = {
    "functions that may be called": "shows_tools",
    "calls of functions and what they return": "call_form",
    "thoughts in a field of their own": "thought_form",
}


class LeftOut(RenderError):
    """The chat template has no place for something that a row holds.

    Attributes:
        what: One of `ABILITIES`.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, "template leaves out")
        self.what = what


def refused(
    example: Example, messages: Sequence[Message], renderer: Renderer, *, thoughts: bool = True
) -> LeftOut | None:
    """What a row holds beside plain words that the template does not render; None for nothing.

    Args:
        example: With its ``tools``.
        messages: Its messages.
        renderer: The template.
        thoughts: Whether thoughts must be rendered.
    """
    needed = ["functions that may be called"] if example.get("tools") else []
    for message in messages:
        if "tool_calls" in message or message["role"] == "tool":
            needed.append("calls of functions and what they return")
        if thoughts and "reasoning_content" in message:
            needed.append("thoughts in a field of their own")
    for what in dict.fromkeys(needed):
        if not getattr(renderer, ABILITIES[what]):
            return LeftOut(what)
    return None


def refusal(error: LeftOut, where: str) -> DataError:
    """The error of a run whose rows hold it, with the names of templates that have a place.

    Args:
        error: Of the first such row.
        where: That row, as ``file:line``.
    """
    able = [
        name
        for name, text in trl_templates().items()
        if getattr(Renderer(None, template=text), ABILITIES[error.what])
    ]
    fix = "train a model whose template has, or set `chat_template` to one of TRL's: "
    what = f"the row holds {error.what}, for which the chat template has no place"
    fix += ", ".join(able) + "; or name the columns to read without it in `columns`"
    return DataError(Problem(where, what, fix))
