"""What of the assistant's turns is trained on, in characters and then in tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from modelforge.data.message import Message
from modelforge.data.render import Span
from modelforge.data.spans import Found


def is_trained(message: Message) -> bool:
    """Whether a turn may be trained on: nothing in its row forbids it."""
    return message.get("train") is not False


def kept_parts(found: Found, message: Message, i: int) -> list[Span]:
    """A turn's spans without the parts of its content that are not to be trained on."""
    spans = found.turns[i]
    for begin, end in message.get("train") or ():
        words = message["content"][begin:end].strip()
        at = found.text.find(words, spans[0][0], spans[-1][1]) if words else -1
        if at >= 0:
            spans = without(spans, (at, at + len(words)))
    return spans


def without(spans: Sequence[Span], hole: Span) -> list[Span]:
    """Spans less one stretch."""
    pieces = [
        piece
        for begin, end in spans
        for piece in ((begin, min(end, hole[0])), (max(begin, hole[1]), end))
    ]
    return [(begin, end) for begin, end in pieces if begin < end]


def dropped(messages: Sequence[Message], i: int, cut: Mapping[int, str]) -> tuple[str, str]:
    """The detail and the reason of a row whose message the template cuts."""
    return f"{cut[i]} of the {messages[i]['role']}", "template drops text"


def token_spans(encoding: Any, spans: Sequence[Span]) -> list[int]:
    """Spans of characters → where the tokens that hold them begin and end, flat.

    A token across a border belongs to the span, as where TRL's sequences part.

    Args:
        encoding: A text in tokens, of the library tokenizers. Few of its tokens are asked where
            they stand: lists of all would take longer.
        spans: Of the text.
    """
    place, at, count = encoding.token_to_chars, encoding.char_to_token, len(encoding)
    flat: list[int] = []
    for begin, end in spans:
        first = first_where(partial(_reaches, place, begin), count, at(begin))
        behind = first_where(partial(_begins, place, end), count, at(end))
        if first >= behind:
            continue
        if flat and first <= flat[-1]:
            flat[-1] = behind
        else:
            flat += (first, behind)
    return flat


def _reaches(place: Callable[[int], Span], begin: int, token: int) -> bool:
    first, behind = place(token)
    return max(behind, first + 1) > begin


def _begins(place: Callable[[int], Span], end: int, token: int) -> bool:
    return place(token)[0] >= end


def first_where(holds: Callable[[int], bool], count: int, near: int | None) -> int:
    """The first of so many tokens from which on something holds; ``count`` for none.

    Args:
        holds: Whether it does.
        count: How many tokens there are.
        near: A token that is likely it, or the one before; None for the end.
    """
    for guess in (count,) if near is None else (near, near + 1):
        if (guess == count or holds(guess)) and (guess == 0 or not holds(guess - 1)):
            return guess
    return bisect_left(range(count), True, key=holds)
