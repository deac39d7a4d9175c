"""The server as a process: it listens, says where, and answers all it took before it ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from modelforge.common.console import say
from modelforge.errors import Problem, RunError, UserError
from modelforge.serving import create_app

KEY = "MODELFORGE_API_KEY"  # an environment variable
_LOOPBACK = ("127.0.0.1", "localhost")
# Seconds until an idle connection is closed, as in nginx. At uvicorn's 5, a client that drops it
# after 5 too, such as OpenAI's, may ask on one that is just being closed, and loses the answer.
_IDLE = 75


def run(
    models: Sequence[str],
    *,
    host: str,
    port: int,
    size: int,
    limit: int,
    timeout: float,
    feedback: Path,
    constraints: str | None = None,
    reward_model: str | None = None,
    reward_share: float | None = None,
) -> None:
    """Serve until a signal says to end.

    Args:
        models: Runs, folders, GGUF files or addresses.
        host: Where to listen; another than loopback needs a key.
        port: 0 takes a free one.
        size: Requests that an engine works on at once.
        limit: Requests that are taken up at once.
        timeout: Seconds for an answer.
        feedback: The file for what users say.
        constraints: A file of those that all models are held to, or ``none``; None: each run's own.
        reward_model: Scores a share of the answers; None for none.
        reward_share: The share; None: as `create_app` has it.

    Raises:
        UserError: If it cannot be served here, or an engine never answers.
    """
    key, inside = _key(host), host in _LOOPBACK
    failures: list[str] = []

    def failed(said: str) -> None:
        failures.append(said)
        server.should_exit = True

    with _listening(host, port) as listening, _flags_named():  # before a file is written
        app = create_app(
            list(models),
            size,
            limit,
            timeout=timeout,
            feedback=feedback,
            api_key=key,
            constraints=constraints,
            reward_model=reward_model,
            reward_share=reward_share,
            # A page of another site cannot reach a server of this machine under its own name.
            hosts=_LOOPBACK if inside else None,
            failed=failed,
        )
        server = uvicorn.Server(_config(app, timeout))
        shown = f"[{host}]" if ":" in host else host
        at = f"http://{shown}:{listening.getsockname()[1]}"
        say(f"{at}/v1 answers for the OpenAI client; {at}/metrics holds figures")
        server.run(sockets=[listening])
    if failures:
        fix = "serve another model, or make room"
        raise RunError(Problem("the engine", f"did not start:\n{failures[0]}", fix))


@contextmanager
def _flags_named() -> Iterator[None]:
    """Within it, an error names the command's flag in place of an argument of `create_app`."""
    try:
        yield
    except UserError as error:
        names = ("timeout", "reward_model", "reward_share")
        flags = {name: f"--{name.replace('_', '-')}" for name in names}
        named = [replace(p, where=flags.get(p.where, p.where)) for p in error.problems]
        raise RunError(*named) from None


def _key(host: str) -> str | None:
    """What clients have to name.

    Raises:
        RunError: If it is None, and others can reach the host.
    """
    key = os.environ.get(KEY) or None
    if host not in _LOOPBACK and key is None:
        fix = f"set {KEY} to a long random word, or leave --host out"
        raise RunError(Problem(f"--host {host}", "is open to others, without a key", fix))
    return key


def _config(app: FastAPI, timeout: float) -> uvicorn.Config:
    rest = int(timeout) + 1  # seconds for what was taken, once a signal says to end
    return uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=rest, timeout_keep_alive=_IDLE
    )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        what = f"cannot be listened on: {error.strerror}"
        fix = "name another --port or --host, or end what listens there"
        raise RunError(Problem(f"{host}, port {port}", what, fix)) from None
