"""Answers in OpenAI's words: whole, and as a stream of events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

from modelforge.rewards.calls import make_readable
from modelforge.serving.answering import Answer, Piece
from modelforge.serving.asked import Kind

_PREFIX = {"chat": "chatcmpl", "completion": "cmpl"}


class Reply:
    """Of one request: an id, and the form of everything that is said to it.

    Args:
        kind: Of the request.
        model: As the client calls it.
        tokenizer: Of the model.
        ends: The tokens that end an answer, which are not shown.
    """

    def __init__(self, kind: Kind, model: str, tokenizer: Any, ends: Sequence[int]) -> None:
        self.id = f"{_PREFIX[kind]}-{uuid.uuid4().hex}"
        self._kind, self._model, self._created = kind, model, int(time.time())
        self._tokenizer, self._ends = tokenizer, ends

    def whole(self, answers: Sequence[Answer], prompt_tokens: int) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        object = "chat.completion" if self._kind == "chat" else "text_completion"
        choices = []
        for index, found in enumerate(answers):
            choice: dict[str, Any] = {"index": index, "finish_reason": found.finish_reason}
            if self._kind == "chat":
                choice["message"] = {"role": "assistant", "content": found.text}
            else:
                choice["text"] = found.text
            choice["logprobs"] = self._logprobs(found, 0, len(found.ids))
            choices.append(choice)
        body = self._frame(object) | {"choices": choices}
        return body | {"usage": usage(answers, prompt_tokens)}

    def begin(self, index: int) -> dict[str, Any]:
        """The first event of a choice of a chat."""
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}}
        return self._chunk(choice | {"finish_reason": None})

    def piece(self, index: int, found: Answer, piece: Piece) -> dict[str, Any]:
        """An event with new text."""
        shown = {"content": piece.text} if self._kind == "chat" else piece.text
        where = "delta" if self._kind == "chat" else "text"
        choice: dict[str, Any] = {"index": index, where: shown}
        choice["logprobs"] = self._logprobs(found, piece.first, piece.end)
        return self._chunk(choice | {"finish_reason": None})

    def whole_piece(self, index: int, found: Answer) -> dict[str, Any]:
        """An event with all of the text."""
        return self.piece(index, found, Piece(found.text, 0, len(found.ids)))

    def called(self, index: int, message: dict[str, Any]) -> dict[str, Any]:
        """An event with a whole message that calls tools."""
        calls = [{"index": i, **call} for i, call in enumerate(message["tool_calls"])]
        choice = {"index": index, "delta": {**message, "tool_calls": calls}}
        return self._chunk(choice | {"finish_reason": None})

    def end(self, index: int, reason: str | None) -> dict[str, Any]:
        """The last event of a choice."""
        shown: dict[str, Any] = {"delta": {}} if self._kind == "chat" else {"text": ""}
        return self._chunk({"index": index, **shown, "finish_reason": reason})

    def took(self, answers: Sequence[Answer], prompt_tokens: int) -> dict[str, Any]:
        """The event that says how many tokens there were."""
        return self._chunk(None) | {"usage": usage(answers, prompt_tokens)}

    def _chunk(self, choice: dict[str, Any] | None) -> dict[str, Any]:
        object = "chat.completion.chunk" if self._kind == "chat" else "text_completion"
        return self._frame(object) | {"choices": [] if choice is None else [choice]}

    def _frame(self, object: str) -> dict[str, Any]:
        return {"id": self.id, "object": object, "created": self._created, "model": self._model}

    def _logprobs(self, found: Answer, first: int, end: int) -> dict[str, Any] | None:
        if found.draw.tops is None:
            return None
        shown = [i for i in range(first, end) if found.ids[i] not in self._ends]
        if self._kind == "chat":
            places = []
            for i in shown:
                logp, tops = found.draw.logps[i]
                others = [self._token(token, value) for token, value in tops]
                places.append(self._token(found.ids[i], logp) | {"top_logprobs": others})
            return {"content": places}
        texts = [self._text(found.ids[i]) for i in shown]
        return {
            "tokens": texts,
            "token_logprobs": [found.draw.logps[i][0] for i in shown],
            "top_logprobs": [
                {self._text(token): value for token, value in found.draw.logps[i][1]} for i in shown
            ],
            "text_offset": [len(self._decoded(found.ids[:i])) for i in shown],
        }

    def _token(self, token: int, logp: float) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": max(logp, -9999.0), "bytes": list(text.encode())}

    def _text(self, token: int) -> str:
        text: str = self._tokenizer.decode([token])
        return text

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


def usage(answers: Sequence[Answer], prompt_tokens: int) -> dict[str, int]:
    """How many tokens there were."""
    said = sum(len(found.ids) for found in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": said,
        "total_tokens": prompt_tokens + said,
    }


def make_calls_readable(tokenizer: Any, where: str) -> None:
    """Have the tokenizer read the calls of tools that its chat template writes.

    Raises:
        ConfigError: If the template has no place for them, or nothing can read them.
    """
    from trl.chat_template_utils import add_response_schema

    make_readable(tokenizer, where, {})
    if not any(getattr(tokenizer, f"response_{name}", None) for name in ("template", "schema")):
        add_response_schema(tokenizer)  # of a template that TRL ships


def calling(
    tokenizer: Any, name: str, prompt: list[int], ids: list[int], tools: list[Any]
) -> dict[str, Any] | None:
    """An answer that calls tools, as a message; None for one that calls none.

    Args:
        tokenizer: That reads the calls of its template.
        name: What the calls' own names begin with.
        prompt: In tokens.
        ids: The answer's tokens.
        tools: That were offered.
    """
    from trl.chat_template_utils import parse_response

    found = parse_response(tokenizer, ids, prefix=prompt, tools=tools)
    calls = []
    for number, call in enumerate(found.get("tool_calls") or ()):
        function = dict(call["function"])
        if not isinstance(function["arguments"], str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
        calls.append({"id": f"{name}-{number}", "type": "function", "function": function})
    if not calls:
        return None
    return {"role": "assistant", "content": found.get("content"), "tool_calls": calls}


def event(value: dict[str, Any]) -> str:
    """One event of a stream."""
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


DONE = "data: [DONE]\n\n"
