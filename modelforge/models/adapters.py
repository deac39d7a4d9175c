"""One base in several roles: which LoRA adapter is on decides which model it is.

Policy: adapter ``default``. Reference: adapters off, or a frozen copy of the policy as it began.
Reward: the adapter and score head that TRL's ``RewardTrainer`` saved. Value: the policy's trunk, or
an adapter of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def using(model: Any, adapter: str | None) -> Iterator[None]:
    """Switch to one adapter (None: all off) and back, leaving every ``requires_grad`` alone.

    PEFT's own switching freezes the adapters it leaves, so that one used inside a loss would
    silently get no gradient.
    """
    flags = [(p, p.requires_grad) for p in model.parameters()]
    previous = model.active_adapter

    def restore() -> None:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)

    try:
        if adapter is None:
            with model.disable_adapter():
                restore()
                yield
        else:
            model.set_adapter(adapter)
            restore()
            yield
    finally:
        model.set_adapter(previous)
        restore()


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """No gradients and eval mode, in which transformers' checkpointing layers are plain ones."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def backbone(model: Any) -> nn.Module:
    """The base without its language-model head."""
    return model.get_base_model().base_model


def adapter_parameters(model: Any, adapter: str) -> dict[str, nn.Parameter]:
    """The weights of one adapter, its heads included, by name; in the order of the model."""
    return {n: p for n, p in model.named_parameters() if adapter in n.split(".")}
