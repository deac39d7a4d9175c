"""What of the assistant's turns is trained on, in characters and then in tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.data.again import ByPlace
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


class Offsets(ByPlace[Span]):
    """Where each token of a text stands in it, asked of few: lists of all would take longer.

    Args:
        encoding: Of the library tokenizers.
    """

    def __init__(self, encoding: Any) -> None:
        self.encoding = encoding

    def __len__(self) -> int:
        return len(self.encoding)

    def item(self, at: int) -> Span:
        """The characters of one token."""
        span: Span = self.encoding.token_to_chars(at)
        return span


def token_spans(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """Spans of characters → where the tokens that hold them begin and end, flat.

    A token across a border belongs to the span, as where TRL's sequences part.
    """
    flat: list[int] = []
    for begin, end in spans:
        first = bisect_right(offsets, begin, key=lambda offset: max(offset[1], offset[0] + 1))
        behind = bisect_left(offsets, end, key=lambda offset: offset[0])
        if first >= behind:
            continue
        if flat and first <= flat[-1]:
            flat[-1] = behind
        else:
            flat += (first, behind)
    return flat
