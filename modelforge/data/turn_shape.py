"""What a chat template writes around messages, read off a few conversations of marks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelforge.data.render import Conversation, Renderer, RenderError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIRST_MARK = 0xF0000  # of a private plane of Unicode, which no text holds


@dataclass(frozen=True)
class Shape:
    """What a template writes around messages.

    Attributes:
        opens: Between a user's words and the assistant's.
        header: The end of it that opens the assistant's turn, whoever spoke before.
        closes: Behind the assistant's words, without the line break that may follow.
        tail: The same at the end of a conversation, as it is.
        opening: What generation writes behind the header that an answer may lack: a thought's mark.
    """

    opens: str = ""
    header: str = ""
    closes: str = ""
    tail: str = ""
    opening: str = ""


def shape_of(renderer: Renderer, end_ids: frozenset[int]) -> Shape:
    """Render a few conversations of marks alone; a template that refuses them has no shape."""
    marks = [chr(FIRST_MARK + i) for i in range(4)]
    talk = [
        {"role": "assistant" if i % 2 else "user", "content": mark} for i, mark in enumerate(marks)
    ]
    try:
        asked, opened, answered, whole = (
            renderer.text(Conversation(talk[:1])),
            renderer.text(Conversation(talk[:1]), generate=True),
            renderer.text(Conversation(talk[:2])),
            renderer.text(Conversation(talk)),
        )
        between = answered.split(marks[0])[1].split(marks[1])[0]
        generated, tail = opened.split(marks[0])[1], answered.split(marks[1])[1]
        behind = whole.split(marks[1])[1].split(marks[2])[0]
        user_end = asked.split(marks[0])[1]
    except (RenderError, IndexError):
        return Shape()
    opens = shared_start(between, generated)
    header = opens[len(user_end) :] if opens.startswith(user_end) else ""
    return Shape(
        opens,
        header.lstrip(),  # a line break before it may be missing at the beginning
        closing(behind, tail, renderer.tokenizer, end_ids),
        tail,
        generated[len(opens) :],
    )


def closing(
    behind: str, tail: str, tokenizer: PreTrainedTokenizerBase | None, end_ids: frozenset[int]
) -> str:
    """What closes the assistant's turn.

    Args:
        behind: From the assistant's words to the user's that follow.
        tail: From the assistant's words to the end.
        tokenizer: Knows the tokens that stand for themselves.
        end_ids: Token ids that end a reply.
    """
    assert tokenizer is not None, "only a template that is trained with is looked at"
    special = sorted(tokenizer.get_added_vocab(), key=len, reverse=True)
    piece = re.compile("(" + "|".join(map(re.escape, special)) + ")") if special else None
    first, last = ((piece.split(text) if piece else [text]) for text in (behind, tail))
    shared: list[str] = []
    for a, b in zip(first, last, strict=False):
        if a != b:
            # Plain words may go on in the next turn's header; a token is one or another.
            if a not in special and b not in special:
                shared.append(shared_start(a, b))
            break
        shared.append(a)
    found = "".join(shared).rstrip()
    token = first[1] if len(first) > 1 and not first[0].strip() else ""
    if found or not token:
        return found
    # Another token than at the end (gpt-oss); or, with none there, the next turn's first, where
    # generation stops at it (GLM-4).
    ends = bool(tail.strip()) or tokenizer.convert_tokens_to_ids(token) in end_ids
    return first[0] + token if ends else ""


def shared_start(a: str, b: str) -> str:
    """The beginning that two texts share."""
    pairs = enumerate(zip(a, b, strict=False))
    return a[: next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))]
