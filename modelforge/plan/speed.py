"""How long a step takes on a card: each operator as long as its slower part.

The step that is simulated tells the floating point operations and the bytes of each operator. On a
card an operator takes the longest of three: its operations at a share of the card's peak, its bytes
at a share of the memory's bandwidth, or the time that launching it takes (the roofline of Williams,
Waterman and Patterson, 2009). The share is fitted to published throughput by
`benchmarks/speed_published.py`, which also prints how far off it is for a source left out.

Sampling is one pass over the weights and the cache for each token, at the bandwidth's share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from modelforge.machine.cards import Card

# (operations, bytes) → how many operators had so many.
Work = Mapping[tuple[int, int], int]

# Seconds until the next operator runs, where the processor cannot keep the card busy.
LAUNCH = 8e-6
#: The share of its peak and of its bandwidth that a card reaches; see the module.
REACHED = 0.69
#: The interval that holds four of five published points: as factors of the time.
FASTER, SLOWER = 0.6, 1.4
# Operators of one decoded token in each layer, at least: most wait for their launch.
_DECODED = 60


@dataclass(frozen=True)
class Rollout:
    """What a step samples on one card.

    Attributes:
        passes: Tokens sampled one after the other, over all rollouts of the step.
        weights: Bytes of the model.
        cache: Bytes of the cache at its middle length.
        layers: Of the model.
    """

    passes: float
    weights: int
    cache: int
    layers: int


def seconds(work: Work, card: Card, *, share: float = REACHED) -> float:
    """How long these operators take on a card that reaches this share of what it can."""
    operations, moved = share * card.tflops * 1e12, share * card.bandwidth * 1e9
    return sum(
        count * max(flops / operations, nbytes / moved, LAUNCH)
        for (flops, nbytes), count in work.items()
    )


def sampling_seconds(rollout: Rollout, card: Card) -> float:
    """How long sampling takes, at one pass over weights and cache a token."""
    read = (rollout.weights + rollout.cache) / (REACHED * card.bandwidth * 1e9)
    return rollout.passes * max(read, rollout.layers * _DECODED * LAUNCH)


# Nothing runs for these, or they read only what they give.
_FREE = ("empty", "_local_scalar_dense", "detach", "lift_fresh", "set_")
_PICKS = ("aten::embedding", "aten::index", "aten::gather", "aten::index_select", "aten::slice")


def bytes_moved(name: str, args: Any, out: Any) -> int | None:
    """What an operator reads and writes; None for a view, which runs nothing.

    Args:
        name: Of its schema.
        args: As it was called.
        out: What it gave.
    """
    if any(free in name for free in _FREE):
        return None
    taken, given = list(_tensors(args)), list(_tensors(out))
    held = {t.untyped_storage()._cdata for t in taken}
    new = [t for t in given if t.untyped_storage()._cdata not in held]
    if not new and not name.endswith("_"):
        return None
    if name in _PICKS:
        return 2 * sum(map(_size, new))
    return sum(map(_size, taken)) + sum(map(_size, new))


def _tensors(values: Any) -> Any:
    for value in values if isinstance(values, list | tuple) else (values,):
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _size(tensor: torch.Tensor) -> int:
    """A tensor's own bytes; those of its storage where it is expanded."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
