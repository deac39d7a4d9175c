"""Requests handed on to an engine, and its answers handed back as they come."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from modelforge.serving.asked import Refused
from modelforge.serving.engines import Engine
from modelforge.serving.filtering import Filter, decided
from modelforge.serving.hangup import unless_hung_up
from modelforge.serving.metrics import Metrics

MOST_BYTES = 8 << 20  # of a request's body
_GONE = 499  # the client has hung up; nobody reads this status but the metrics
_AGAIN = "1"  # seconds, of Retry-After
_IDLE = 1.0  # seconds until a connection to an engine is dropped, before the engine's 5 are over


@dataclass
class Exchange:
    """One request and what was answered.

    Attributes:
        id: That the answer is called by.
        model: As clients call it.
        body: The request.
        texts: Each choice's text.
        calling: The choices that call tools.
        used: The engine's count of tokens.
    """

    model: str
    body: Mapping[str, Any]
    id: str = ""
    texts: dict[int, str] = field(default_factory=dict)
    calling: set[int] = field(default_factory=set)
    used: Any = None

    def see(self, answer: Mapping[str, Any]) -> bool:
        """Note what a body or an event says; whether it holds new text."""
        self.id = str(answer.get("id") or self.id)
        self.used = answer.get("usage") or self.used
        new = False
        for choice in answer.get("choices") or ():
            said = choice.get("message") or choice.get("delta") or {}
            text = said.get("content") or choice.get("text") or ""
            index = choice.get("index", 0)
            self.texts[index] = self.texts.get(index, "") + text
            if said.get("tool_calls"):
                self.calling.add(index)
            new = new or bool(text or said.get("tool_calls"))
        return new


class Relay:
    """Between clients and engines.

    Args:
        engines: All of them; each model is one engine's.
        metrics: Of the app.
        limit: How many requests are taken up at once.
        timeout: Seconds that a whole answer may take, or a stream until its next event.
        done: Is given each exchange that was answered.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        metrics: Metrics,
        *,
        limit: int,
        timeout: float,
        done: Callable[[Exchange], None],
    ) -> None:
        self.of = {name: engine for engine in engines for name in engine.models}
        self.metrics, self.limit, self.timeout, self._done = metrics, limit, timeout, done
        limits = httpx.Limits(max_connections=None, keepalive_expiry=_IDLE)
        self._http = httpx.AsyncClient(timeout=httpx.Timeout(timeout, connect=5), limits=limits)

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def __call__(self, request: Request) -> Response:
        """Answer one request, or say why not."""
        model = "unknown"
        try:
            body = await read_body(request)
            model = self._model(body)
            if self.metrics.active >= self.limit:
                raise Refused(429, f"{self.limit} requests are in work; ask again later")
            engine = self.of[model]
            if not engine.ready:
                raise Refused(503, f"the engine of {model} is not ready; ask again later")
            return await self._hand_on(request, engine, Exchange(model, {**body, "model": model}))
        except Refused as error:
            self.metrics.requests.labels(model, error.status).inc()
            again = {"Retry-After": _AGAIN} if error.status in (429, 503) else None
            return JSONResponse(error.body(), error.status, again)

    def _model(self, body: Mapping[str, Any]) -> str:
        said = body.get("model", next(iter(self.of)))
        if not isinstance(said, str) or said not in self.of:
            names = ", ".join(self.of)
            raise Refused(404, f"there is no model {said!r} here: use {names}", "model")
        return said

    async def _hand_on(self, request: Request, engine: Engine, exchange: Exchange) -> Response:
        self.metrics.active += 1
        handed = False
        try:
            held = await self._held(request, engine, exchange)
            if held is not None and held.blocked is not None:
                return self._refusal(held, exchange)
            answer = await self._asked(request, engine, exchange, held)
            handed = isinstance(answer, StreamingResponse)
            return answer
        finally:
            if not handed:
                self.metrics.active -= 1

    async def _held(self, request: Request, engine: Engine, exchange: Exchange) -> Filter | None:
        """The constraints of a request, and what the engine may see of it.

        Raises:
            Refused: If it cannot be held to them.
        """
        constraints = engine.constraints.get(exchange.model)
        if not constraints:
            return None
        held = Filter(
            constraints, request.url.path.endswith("/chat/completions"), {**exchange.body}
        )
        await decided(held.ask)
        exchange.body = held.body
        return held

    def _refusal(self, held: Filter, exchange: Exchange) -> Response:
        """The answer to a request that a constraint blocks; no engine sees it."""
        self._broken(held, exchange)
        self.metrics.requests.labels(exchange.model, 200).inc()
        if exchange.body.get("stream") is not True:
            return JSONResponse(held.refusal(exchange.model))
        events = [
            json.dumps(each, ensure_ascii=False) for each in held.refused_events(exchange.model)
        ]
        text = "".join(f"data: {each}\n\n" for each in [*events, "[DONE]"])
        return Response(text, media_type="text/event-stream")

    def _broken(self, held: Filter | None, exchange: Exchange) -> None:
        if held is not None:
            held.tell()
            self.metrics.broken(exchange.model, held.violations)

    async def _asked(
        self, request: Request, engine: Engine, exchange: Exchange, held: Filter | None
    ) -> Response:
        body = {**exchange.body, "model": engine.models[exchange.model]}
        stream = body.get("stream") is True
        counted = True
        if stream:
            options = body.get("stream_options")
            counted = isinstance(options, dict) and options.get("include_usage") is True
            if options is None or isinstance(options, dict):
                body["stream_options"] = {**(options or {}), "include_usage": True}
        clock = time.monotonic()
        answer = await self._sent(request, engine, body, stream)
        if answer is None:
            raise Refused(_GONE, "the client has hung up")
        if stream and answer.status_code == 200:
            events = self._events(answer, exchange, clock, held, counted=counted)
            return StreamingResponse(events, media_type="text/event-stream")
        content = await self._whole(answer)
        if held is not None and answer.status_code == 200:
            content = await decided(held.whole, content)
            self._broken(held, exchange)
        self.metrics.requests.labels(exchange.model, answer.status_code).inc()
        if answer.status_code == 200:
            content["model"] = exchange.model
            exchange.see(content)
            self._finish(exchange, clock, None)
        return JSONResponse(content, answer.status_code)

    async def _sent(
        self, request: Request, engine: Engine, body: Mapping[str, Any], stream: bool
    ) -> httpx.Response | None:
        headers = {"authorization": f"Bearer {engine.key}", "content-type": "application/json"}
        url = engine.url + request.url.path
        content = json.dumps(body).encode()
        asked = self._http.build_request("POST", url, content=content, headers=headers)
        try:
            async with asyncio.timeout(self.timeout):
                return await unless_hung_up(request, self._http.send(asked, stream=stream))
        except (TimeoutError, httpx.TimeoutException):
            raise Refused(504, f"no answer within {self.timeout:g} seconds") from None
        except httpx.HTTPError as error:
            what = f"the engine is gone ({type(error).__name__}); ask again later"
            raise Refused(503, what) from None

    async def _whole(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            found = json.loads(await answer.aread())
        except (ValueError, httpx.HTTPError):
            raise Refused(502, "the engine said what is no JSON") from None
        finally:
            await answer.aclose()
        if not isinstance(found, dict):
            raise Refused(502, "the engine said what is no JSON object")
        return found

    async def _events(
        self,
        answer: httpx.Response,
        exchange: Exchange,
        clock: float,
        held: Filter | None,
        *,
        counted: bool,
    ) -> AsyncIterator[str]:
        first, code = None, _GONE
        try:
            async for found in _shown(answer, held):
                if found is None:
                    code = 200
                    yield "data: [DONE]\n\n"
                    continue
                if exchange.see(found) and first is None:
                    first = time.monotonic() - clock
                if "error" in found:
                    code = 502
                elif not found.get("choices") and not counted:
                    continue  # the count that the client did not ask for
                else:
                    found["model"] = exchange.model
                yield f"data: {json.dumps(found, ensure_ascii=False)}\n\n"
            if code == _GONE:
                code = 502
                yield _broken("the engine ended in the middle of an answer")
        except Refused as error:
            code = error.status
            yield _broken(error.message)
        except (httpx.HTTPError, ValueError) as error:
            code = 504 if isinstance(error, httpx.TimeoutException) else 502
            yield _broken(f"the engine's answer broke off ({type(error).__name__})")
        finally:  # also when the client has hung up: closing upstream is what stops the work
            self.metrics.active -= 1
            self.metrics.requests.labels(exchange.model, code).inc()
            if code == 200:
                self._broken(held, exchange)
                self._finish(exchange, clock, first)
            await asyncio.shield(answer.aclose())

    def _finish(self, exchange: Exchange, clock: float, first: float | None) -> None:
        self.metrics.answered(exchange.model, time.monotonic() - clock, first, exchange.used)
        self._done(exchange)


async def _shown(
    answer: httpx.Response, held: Filter | None
) -> AsyncIterator[dict[str, Any] | None]:
    """An engine's events as they may be shown; None where it is done.

    Raises:
        Refused: If a constraint cannot be decided.
    """
    async for line in answer.aiter_lines():
        if not line.startswith("data:"):
            continue
        said = line.removeprefix("data:").strip()
        if held is None:
            yield None if said == "[DONE]" else json.loads(said)
            continue
        done = said == "[DONE]"
        work = held.close if done else partial(held.event, json.loads(said))
        for event in await decided(work):
            yield event
        if done or held.done:  # what the engine would still write is not shown: let it stop
            yield None
            return


def _broken(message: str) -> str:
    return f"data: {json.dumps(Refused(502, message).body())}\n\n"


async def read_body(request: Request) -> dict[str, Any]:
    """The JSON object of a request.

    Raises:
        Refused: If it is none, or too long. What is not called JSON is refused too, so that no page
            of another site can have a browser send it.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "the content type must be application/json")
    read = bytearray()
    async for part in request.stream():
        read += part
        if len(read) > MOST_BYTES:
            raise Refused(413, f"the body is longer than {MOST_BYTES >> 20} MiB")
    try:
        found = json.loads(read)
        json.dumps(found, ensure_ascii=False).encode()  # half a character can be read, not said
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "the body is no JSON object")
    return found
