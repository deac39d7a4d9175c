"""Feedback on answers that this server gave."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelforge.feedback.store import Given
from modelforge.serving.asked import Refused
from modelforge.serving.relay import Exchange

_KEPT = 10_000  # answers that can be rated
_LETTERS = 64 << 20  # of all their prompts and texts


class Said(BaseModel):
    """A body of ``/v1/feedback``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Annotated[str, Field(min_length=1, max_length=200)]
    choice: Annotated[int, Field(ge=0)] = 0
    rating: Literal["up", "down"] | None = None
    better: Annotated[str, Field(min_length=1, max_length=1 << 20)] | None = None


class Answers:
    """The last answers, in memory: a conversation is on the disk only once it is rated."""

    def __init__(self) -> None:
        self._found: OrderedDict[str, tuple[Exchange, int]] = OrderedDict()
        self._letters = 0

    def add(self, exchange: Exchange) -> None:
        """Remember an answer, and forget the oldest beyond what there is room for."""
        if not exchange.id:
            return
        length = len(str(exchange.body)) + sum(map(len, exchange.texts.values()))
        self._found[exchange.id] = exchange, length
        self._letters += length
        while len(self._found) > _KEPT or (self._letters > _LETTERS and len(self._found) > 1):
            _, (_, gone) = self._found.popitem(last=False)
            self._letters -= gone

    def given(self, body: Any) -> Given:
        """What was said of an answer.

        Raises:
            Refused: If it is nothing, or the answer is not known.
        """
        try:
            said = Said.model_validate(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or None
            raise Refused(400, f"{where or 'the body'}: {first['msg']}", where) from None
        if said.rating is None and said.better is None:
            raise Refused(400, "say a rating (up or down), a better answer, or both")
        if said.id not in self._found or said.choice not in self._found[said.id][0].texts:
            what = "there is no such answer: it was given before the server's start, or long ago"
            raise Refused(404, what, "id")
        exchange = self._found[said.id][0]
        if said.choice in exchange.calling:
            raise Refused(400, "an answer that calls tools cannot be rated", "id")
        answer = exchange.texts[said.choice]
        if said.better is not None and said.better.strip() == answer.strip():
            raise Refused(400, "the better answer is the answer itself", "better")
        kept = ("messages", "tools") if "messages" in exchange.body else ("prompt",)
        prompt = {name: exchange.body[name] for name in kept if exchange.body.get(name)}
        if "messages" not in prompt and not isinstance(prompt.get("prompt"), str):
            raise Refused(400, "only an answer to one prompt in text can be rated", "id")
        return Given(said.id, said.choice, exchange.model, prompt, answer, said.rating, said.better)
