"""Trained models served: a gateway of ours before well-kept engines."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from modelforge.errors import Problem, RunError
from modelforge.machine.versions import install

if TYPE_CHECKING:
    from fastapi import FastAPI

_NEEDED = ("fastapi", "httpx", "prometheus_client", "uvicorn")


def require_installed() -> None:
    """See that the packages of the extra `serve` are here.

    Raises:
        RunError: If one is not.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        what = f"{', '.join(missing)} is not installed"
        raise RunError(Problem("modelforge serve", what, install("serve")))


def create_app(
    model_path: str | Path | Sequence[str | Path],
    max_batch_size: int = 32,
    max_concurrent_requests: int = 100,
    *,
    timeout: float = 600.0,
    feedback: str | Path = "feedback.sqlite",
    api_key: str | None = None,
    constraints: str | Path | None = None,
    hosts: Sequence[str] | None = None,
    reward_model: str | Path | None = None,
    reward_share: float | None = None,
    failed: Callable[[str], None] = lambda said: None,
) -> FastAPI:
    """An app for uvicorn that answers for one or several models, in OpenAI's words.

    Args:
        model_path: A finished run, a model's, an adapter's or an export's folder, a GGUF file, a
            hub id, or the address of an engine that runs elsewhere; or several of them. Adapters
            on one base share it. ``NAME=PATH`` gives a model another name than its folder's.
        max_batch_size: The most requests that an engine works on at once; further ones wait.
        max_concurrent_requests: The most requests that are taken up; further ones are told 429.
        timeout: Seconds for a whole answer, or for the next event of a stream.
        feedback: The SQLite file that `/v1/feedback` writes.
        api_key: That clients have to name; None for none.
        constraints: A file of what prompts and answers are held to, or ``none``; by default each
            run to those that it was trained with.
        hosts: The host names that clients may use; None for all.
        reward_model: A reward model's run or folder, which scores a share of the answers for
            ``/metrics``; None for none.
        reward_share: The share that it scores, drawn at random; by default 0.05.
        failed: Is told what an engine's log said, if it never came to answer.

    Raises:
        UserError: If something is not installed, or a model is not there.
    """
    require_installed()
    wrong = _wrong(max_batch_size, max_concurrent_requests, timeout)
    said = [model_path] if isinstance(model_path, str | Path) else list(model_path)
    if not said:
        wrong.append(Problem("model_path", "names no model", "name a finished run"))
    if wrong:
        raise RunError(*wrong)
    from modelforge.serving.app import build
    from modelforge.serving.found import engines_of
    from modelforge.serving.rewarded import load

    held = None if constraints is None else str(constraints)
    engines = engines_of([str(each) for each in said], max_batch_size, held)
    return build(
        engines,
        reward=load(reward_model, reward_share),
        size=max_batch_size,
        limit=max_concurrent_requests,
        timeout=timeout,
        feedback=Path(feedback),
        api_key=api_key,
        hosts=hosts,
        failed=failed,
    )


def _wrong(max_batch_size: int, max_concurrent_requests: int, timeout: float) -> list[Problem]:
    """What is wrong with the numbers."""
    numbers = {"max_batch_size": max_batch_size, "max_concurrent_requests": max_concurrent_requests}
    wrong = [Problem(name, f"is {n}", "set 1 or more") for name, n in numbers.items() if n < 1]
    if not (math.isfinite(timeout) and timeout > 0):
        wrong.append(Problem("timeout", f"is {timeout}", "set a number of seconds above 0"))
    return wrong
