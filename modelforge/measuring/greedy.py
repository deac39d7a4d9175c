"""The likeliest answer to a prompt, beside those that are sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from modelforge.measuring.rows import GREEDY_REWARD, HeldOutRow

GREEDY = 32  # held-out prompts whose likeliest answer is looked at, in each evaluation


@contextmanager
def likeliest(trainer: Any) -> Iterator[None]:
    """Within it, a trainer of TRL evaluates one answer to a prompt, each token the likeliest.

    Only one token is left to draw from. Sampling itself stays on: switched off, transformers would
    warn of a temperature that has no effect. The reference is not asked: TRL does that before it
    scores an answer, and no reward needs it.
    """
    places = [getattr(trainer, name, None) for name in ("generation_config", "vllm_generation")]
    kept = [(place, place.top_k) for place in places if place is not None]
    answers = trainer.num_generations_eval
    beta = getattr(trainer, "beta", None)
    trainer.num_generations_eval, trainer.beta = 1, 0.0
    for place, _ in kept:
        place.top_k = 1
    try:
        yield
    finally:
        trainer.num_generations_eval, trainer.beta = answers, beta
        for place, top_k in kept:
            place.top_k = top_k


def beside(rows: Sequence[HeldOutRow], rewards: Sequence[float]) -> list[HeldOutRow]:
    """The rows in the order of the data, the first of them with the reward of a greedy answer."""
    found = list(rows)
    for i, reward in enumerate(rewards):
        found[i] = replace(found[i], figures={**found[i].figures, GREEDY_REWARD: reward})
    return found
