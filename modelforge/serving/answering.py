"""One answer of the engine: text piece by piece, ended by the model, a stop text, or its length."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelforge.serving.asked import Refused
from modelforge.serving.batching import Batch, Draw


@dataclass
class Answer:
    """What there is of an answer.

    Attributes:
        ids: Its tokens, the one that ended it included.
        text: Without special tokens, as far as it is shown.
        finish_reason: ``stop`` or ``length``, once it has ended.
        draw: How it is drawn, with its log probabilities.
    """

    draw: Draw
    ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str | None = None


@dataclass(frozen=True)
class Piece:
    """Text that is new.

    Attributes:
        text: It.
        first: The first token that it came of.
        end: Behind its last token.
    """

    text: str
    first: int
    end: int


class _Words:
    """Text of tokens that come one by one: a character is shown when it is whole."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._before = self._read = 0

    def add(self, ids: Sequence[int], *, last: bool) -> str:
        self._ids += ids
        old = self._text(self._before, self._read)
        new = self._text(self._before, len(self._ids))
        if len(new) <= len(old) or (new.endswith("\ufffd") and not last):
            return ""
        self._before, self._read = self._read, len(self._ids)
        return new[len(old) :]

    def _text(self, begin: int, end: int) -> str:
        text: str = self._tokenizer.decode(self._ids[begin:end], skip_special_tokens=True)
        return text


def _held(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end may begin a stop text."""
    longest = max(map(len, stops), default=0)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(stop.startswith(text[-length:]) for stop in stops):
            return length
    return 0


async def answer(
    batch: Batch,
    tokenizer: Any,
    name: str,
    ids: Sequence[int],
    found: Answer,
    *,
    most: int,
    stops: Sequence[str],
) -> AsyncGenerator[Piece, None]:
    """Have a prompt answered; who leaves early gives the answer up.

    Args:
        batch: Of the model.
        tokenizer: Of the model.
        name: Of the request.
        ids: The prompt.
        found: Is filled as the answer comes.
        most: The longest answer, in tokens.
        stops: Texts that end it, and are not part of it.

    Raises:
        Refused: If the engine fails.
    """
    seen: asyncio.Queue[Any] = asyncio.Queue()
    words, waiting, first, done = _Words(tokenizer), "", 0, False
    batch.ask(name, ids, found.draw, most, seen.put_nowait)
    try:
        while not done:
            state = await seen.get()
            if state.error is not None:
                raise Refused(503, f"the engine failed: {state.error}")
            done = state.is_finished()
            new = state.generated_tokens[len(found.ids) :]
            found.ids += new
            waiting += words.add(new, last=done)
            cut = min((i for s in stops if (i := waiting.find(s)) >= 0), default=None)
            if cut is not None:
                found.finish_reason, waiting = "stop", waiting[:cut]
            elif done:
                ended = bool(found.ids) and found.ids[-1] in batch.ends
                found.finish_reason = "stop" if ended else "length"
            keep = 0 if found.finish_reason else _held(waiting, stops)
            shown, waiting = waiting[: len(waiting) - keep], waiting[len(waiting) - keep :]
            if shown or found.finish_reason:
                found.text += shown
                yield Piece(shown, first, len(found.ids))
                first = len(found.ids)
            if found.finish_reason:
                return
    finally:
        if not done:
            batch.cancel(name)
