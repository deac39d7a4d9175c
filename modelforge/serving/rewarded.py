"""A reward model's scores of a share of the answers, beside the traffic and never in its way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from random import Random
from threading import BoundedSemaphore
from typing import Any

from modelforge.common.console import warn
from modelforge.errors import Problem, RunError
from modelforge.serving.asked import ChatAsked, CompletionAsked
from modelforge.serving.metrics import Metrics
from modelforge.serving.relay import Exchange

SHARE = 0.05  # of the answers; one in twenty shows a drift, and leaves the machine to the engine
_WAITING = 64  # answers that wait for their scores; further ones are left out

Reward = Callable[..., list[float]]


def load(name: str | Path | None, share: float | None) -> tuple[Reward, float] | None:
    """The reward model of a run, a folder or a hub id, and the share; None for none.

    Raises:
        UserError: If it is none, or the share is not one.
    """
    if name is None:
        if share is None:
            return None
        fix = "name a reward model too, or leave it out"
        raise RunError(Problem("reward_share", "has no effect without a reward model", fix))
    if not str(name):
        raise RunError(Problem("reward_model", "is empty", "name a run of the strategy reward"))
    share = SHARE if share is None else share
    if not 0 < share <= 1:
        raise RunError(Problem("reward_share", f"is {share:g}", "set more than 0, and 1 at most"))
    from modelforge.rewards.model import RewardModel

    found = RewardModel.load(str(name), batch_size=1)
    context = getattr(found.model.config.get_text_config(), "max_position_embeddings", None)
    found.max_length = context
    return found, share


class Scored:
    """Scores a share of the answers in a thread of its own, and notes them.

    Args:
        reward: A reward model, called as TRL calls a reward function.
        share: How many of the answers, drawn at random: more than 0, 1 at most.
        metrics: Where the scores are noted, and what was left out.
    """

    def __init__(self, reward: Reward, share: float, metrics: Metrics) -> None:
        self._reward, self._share, self._metrics = reward, share, metrics
        self._draw, self._room = Random(), BoundedSemaphore(_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reward")
        self._told = False

    def add(self, exchange: Exchange) -> None:
        """Have an answer scored, if it is drawn and there is room; returns at once."""
        if self._draw.random() >= self._share:
            return
        if not self._room.acquire(blocking=False):
            self._metrics.unscored.labels(exchange.model, "busy").inc()
            return
        self._thread.submit(self._score, exchange).add_done_callback(
            lambda done: self._end(exchange.model, done)
        )

    def close(self) -> None:
        """Leave out what still waits."""
        self._thread.shutdown(cancel_futures=True)

    def _score(self, exchange: Exchange) -> None:
        asked = [_prompts(exchange.body)] if "messages" in exchange.body else _texts(exchange.body)
        number = len(exchange.texts) // len(asked) or 1
        for index, text in sorted(exchange.texts.items()):
            if index in exchange.calling:
                continue
            prompt = asked[index // number]
            said: Any = text
            if not isinstance(prompt, str):
                said = [{"role": "assistant", "content": text}]
            (score,) = self._reward(prompts=[prompt], completions=[said])
            self._metrics.scored(exchange.model, score)

    def _end(self, model: str, done: Future[None]) -> None:
        self._room.release()
        if done.cancelled() or (error := done.exception()) is None:
            return
        self._metrics.unscored.labels(model, "failed").inc()
        if not self._told:
            warn(f"the reward model could not score an answer of {model}: {error}")
            self._told = True


def _prompts(body: Any) -> list[dict[str, Any]]:
    """A chat as templates take it."""
    return [message.plain() for message in ChatAsked.model_validate(body).messages]


def _texts(body: Any) -> list[str]:
    """The prompts of a completion.

    Raises:
        ValueError: If they are tokens, which another model's reward cannot read.
    """
    found = CompletionAsked.model_validate(body).prompts
    texts = [prompt for prompt in found if isinstance(prompt, str)]
    if len(texts) < len(found):
        raise ValueError("its prompt is tokens")
    return texts
