"""What a client may ask, in OpenAI's words, and what becomes of it."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from modelforge.errors import UserError

_BUSY, _KEY = 429, 401
_KINDS = {_BUSY: "rate_limit_error", _KEY: "authentication_error"}


class Refused(Exception):
    """A request that is not answered.

    Attributes:
        status: Of HTTP.
        message: What is wrong.
        param: Which field, where it is one.
    """

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param

    def body(self) -> dict[str, Any]:
        """As OpenAI's client reads it."""
        kind = _KINDS.get(self.status)
        kind = kind or ("invalid_request_error" if self.status < 500 else "server_error")
        found = {"message": self.message, "type": kind, "param": self.param, "code": self.status}
        return {"error": found}


class _Words(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _StreamOptions(_Words):
    include_usage: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=1000)]
Share = Annotated[float, Field(ge=0, le=1)]


class Asked(_Words):
    """What both kinds of request have."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=16)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def usage(self) -> bool:
        """Whether a stream ends with what it took."""
        return self.stream_options is not None and self.stream_options.include_usage

    def unmet(self) -> str | None:
        """A field that would change the answer, and that this engine does not follow."""
        for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
            if getattr(self, name):
                return name
        return None


class Message(_Words):
    """One message of a chat."""

    role: Annotated[str, Field(min_length=1, examples=["user", "assistant", "system", "tool"])]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[dict[str, Any]] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def plain(self) -> dict[str, Any]:
        """As chat templates take it: text, and arguments as objects.

        Raises:
            Refused: If it holds more than text.
        """
        found: dict[str, Any] = {"role": self.role, "content": _text(self.content)}
        if self.tool_calls:
            found["tool_calls"] = [_call(each) for each in self.tool_calls]
        for name in ("tool_call_id", "name"):
            if getattr(self, name) is not None:
                found[name] = getattr(self, name)
        return found


def _text(content: str | list[dict[str, Any]] | None) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    texts = [part.get("text") for part in content if part.get("type") == "text"]
    if len(texts) < len(content) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, "a part of a message is no text", "messages")
    return "".join(map(str, texts))


def _call(said: dict[str, Any]) -> dict[str, Any]:
    try:
        function = dict(said["function"])
        arguments = function["arguments"]
        if isinstance(arguments, str):
            function["arguments"] = json.loads(arguments)
    except (KeyError, TypeError, ValueError):
        what = "a tool call has no function with a name and JSON arguments"
        raise Refused(400, what, "messages") from None
    return {**said, "function": function}


class ChatAsked(Asked):
    """A body of ``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def unmet(self) -> str | None:
        """A field that would change the answer, and that this engine does not follow."""
        if self.response_format and self.response_format.get("type") != "text":
            return "response_format"
        if self.tool_choice not in (None, "auto", "none"):
            return "tool_choice"
        return super().unmet()

    @property
    def most(self) -> int | None:
        """The longest answer, in tokens."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def tops(self) -> int | None:
        """How many likely tokens are shown at each place; None shows no probability."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def offered(self) -> list[dict[str, Any]] | None:
        """The tools that the model may call."""
        return None if self.tool_choice == "none" else self.tools or None


Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Texts = Annotated[list[str], Field(min_length=1, max_length=128)]


class CompletionAsked(Asked):
    """A body of ``/v1/completions``."""

    prompt: str | Texts | Ids | Annotated[list[Ids], Field(min_length=1, max_length=128)]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def unmet(self) -> str | None:
        """A field that would change the answer, and that this engine does not follow."""
        for name in ("echo", "suffix"):
            if getattr(self, name):
                return name
        if self.best_of not in (None, self.n or 1):
            return "best_of"
        return super().unmet()

    @property
    def most(self) -> int:
        """The longest answer, in tokens; OpenAI's default is 16."""
        return self.max_tokens or 16

    @property
    def tops(self) -> int | None:
        """How many likely tokens are shown at each place; None shows no probability."""
        return self.logprobs

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as tokens."""
        said: Any = self.prompt
        single = isinstance(said, str) or isinstance(said[0], int)
        return [said] if single else list(said)


Kind = Literal["chat", "completion"]


def read(kind: Kind, body: Any) -> ChatAsked | CompletionAsked:
    """A body as it was asked.

    Raises:
        Refused: With the first field that is wrong.
    """
    form: Any = ChatAsked if kind == "chat" else CompletionAsked
    try:
        found: ChatAsked | CompletionAsked = form.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        raise Refused(400, f"{where or 'the body'}: {first['msg']}", where) from None
    if (name := found.unmet()) is not None:
        raise Refused(400, f"{name} is not supported by the transformers engine", name)
    return found


def refused_by(error: UserError) -> Refused:
    """A user's mistake as a refusal; where the model lies on this machine is not for clients."""
    return Refused(400, "; ".join(problem.what for problem in error.problems))
