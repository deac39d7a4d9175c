"""The gateway: what clients see, before engines that only it can reach."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from modelforge.common.console import warn
from modelforge.errors import DataError
from modelforge.feedback.store import Store
from modelforge.serving.asked import Refused
from modelforge.serving.described import describe
from modelforge.serving.engines import Engine
from modelforge.serving.heard import Answers
from modelforge.serving.metrics import Metrics
from modelforge.serving.relay import Exchange, Relay, read_body
from modelforge.serving.rewarded import Reward, Scored
from modelforge.web.page import render, script

_OPEN = ("/", "/chat.js", "/health", "/ready")  # without a key
_STRICT = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def build(
    engines: Sequence[Engine],
    *,
    size: int,
    limit: int,
    timeout: float,
    feedback: Path,
    api_key: str | None,
    hosts: Sequence[str] | None,
    failed: Callable[[str], None],
    reward: tuple[Reward, float] | None = None,
) -> FastAPI:
    """The app before these engines; it starts them, and ends them when it is shut down.

    Args:
        engines: None is started yet.
        size: How many requests an engine works on at once.
        limit: How many requests are taken up at once.
        timeout: Seconds for a whole answer, or for a stream's next event.
        feedback: The file for what users say of answers.
        api_key: That clients have to name; None for none.
        hosts: The host names that clients may use; None for all.
        failed: Is told of an engine that never answered.
        reward: A reward model, and the share of the answers that it scores; None for none.
    """
    metrics, answers, store = Metrics(size), Answers(), Store(feedback)
    scored = None if reward is None else Scored(*reward, metrics)

    def done(exchange: Exchange) -> None:
        answers.add(exchange)
        if scored is not None:
            scored.add(exchange)

    relay = Relay(engines, metrics, limit=limit, timeout=timeout, done=done)

    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        for engine in engines:
            engine.start(failed)
        yield  # every accepted request is answered by now: only then may the engines go
        await asyncio.gather(*(engine.stop() for engine in engines))
        await relay.close()
        if scored is not None:
            await asyncio.to_thread(scored.close)
        store.close()

    app = FastAPI(lifespan=alive, title="ModelForge", docs_url=None, redoc_url=None)
    app.state.engines, app.state.metrics = engines, metrics
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    if api_key is not None:
        app.add_middleware(_WithKey, key=api_key)

    _add_routes(app, relay, answers, store)
    _add_figures(app, engines, metrics)
    _add_page(app, list(relay.of), locked=api_key is not None)
    describe(app, list(relay.of), locked=api_key is not None)
    return app


class _WithKey:
    """Answers only who names the key."""

    def __init__(self, app: Any, key: str) -> None:
        self._app, self._right = app, f"Bearer {key}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = self._app
        if scope["type"] == "http" and scope["path"] not in _OPEN:
            said = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(said, self._right):
                error = Refused(401, "say the server's key: Authorization: Bearer KEY")
                answer = JSONResponse(error.body(), 401, {"WWW-Authenticate": "Bearer"})
        await answer(scope, receive, send)


def _add_routes(app: FastAPI, relay: Relay, answers: Answers, store: Store) -> None:
    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        found = Refused(error.status_code, str(error.detail))
        return JSONResponse(found.body(), error.status_code, error.headers)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await relay(request)

    @app.post("/v1/completions")
    async def completion(request: Request) -> Response:
        return await relay(request)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        data = [{"id": name, "object": "model", "owned_by": "modelforge"} for name in relay.of]
        return {"object": "list", "data": data}

    @app.post("/v1/feedback")
    async def say(request: Request) -> Response:
        try:
            given = answers.given(await read_body(request))
            await asyncio.to_thread(store.keep, given)
        except Refused as error:
            return JSONResponse(error.body(), error.status)
        except DataError as error:
            warn(str(error.problems[0]))
            lost = Refused(503, "the server could not write the feedback down; say it again later")
            return JSONResponse(lost.body(), lost.status)
        relay.metrics.feedback.labels(given.model, given.rating or "better").inc()
        return JSONResponse({"ok": True})


def _add_figures(app: FastAPI, engines: Sequence[Engine], metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", responses={503: {"description": "An engine does not answer yet"}})
    async def ready() -> Response:
        found = {name: engine.ready for engine in engines for name in engine.models}
        return JSONResponse({"ready": found}, 200 if all(found.values()) else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def text() -> Response:
        for number, engine in enumerate(engines):
            metrics.ready.labels(f"{engine.kind}-{number}").set(engine.ready)
            metrics.restarts.labels(f"{engine.kind}-{number}").set(engine.restarts)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/figures")
    async def figures() -> dict[str, Any]:
        return metrics.figures()


def _add_page(app: FastAPI, models: Sequence[str], *, locked: bool) -> None:
    """The page at ``/``; what models say cannot become a script of it."""
    title = f"{', '.join(models)} · ModelForge"
    page = render("serve.html", title=title, models=models, locked=locked)
    words = script("chat.js")

    @app.get("/", response_class=HTMLResponse)
    async def shown() -> Response:
        return Response(page, media_type="text/html; charset=utf-8", headers=_STRICT)

    @app.get("/chat.js", include_in_schema=False)
    async def acting() -> Response:
        return Response(words, media_type="text/javascript; charset=utf-8", headers=_STRICT)
