"""Sampled answers that depend on seed, prompt and answer number, and not on their batch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor


def draws_of(prompts: Sequence[Sequence[int]], *, seed: int, group: int, length: int) -> Tensor:
    """Uniform numbers (B, length), a row for each answer.

    Args:
        prompts: The token ids of the prompt of each answer; the answers to one stand together.
        seed: Of the run.
        group: Answers to a prompt.
        length: The longest answer, in tokens.
    """
    rows = []
    for i, ids in enumerate(prompts):
        text = json.dumps([seed, i % group, [int(token) for token in ids]])
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        # On the CPU, whose numbers no card changes. torch takes 63 bits.
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        rows.append(torch.rand(length, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


@contextmanager
def sampled_with(model: Any, draws: Tensor) -> Iterator[None]:
    """Within it, ``generate`` samples answer i by the numbers in ``draws[i]``.

    Args:
        model: A causal language model, or a PEFT model around one.
        draws: As `draws_of` makes them.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    made = base._get_logits_processor

    def with_draws(generation_config: Any, *args: Any, **kwargs: Any) -> Any:
        processors = made(generation_config, *args, **kwargs)
        if generation_config.do_sample and generation_config.num_beams == 1:
            processors.append(_ByDraws(draws))  # behind temperature, top_k and top_p
        return processors

    base._get_logits_processor = with_draws
    try:
        yield
    finally:
        del base._get_logits_processor


class _ByDraws(LogitsProcessor):
    """Leaves one token: the one at which the cumulated probability passes the row's number."""

    def __init__(self, draws: Tensor) -> None:
        self.draws = draws
        self.begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.begin = input_ids.shape[1] if self.begin is None else self.begin
        step = input_ids.shape[1] - self.begin
        total = scores.double().softmax(-1).cumsum(-1)
        wanted = self.draws[:, step, None].to(total.device) * total[:, -1:]
        token = torch.searchsorted(total, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, token, 0.0)
