"""How long a step takes on a card: what its operators compute and move, and their launches.

The step that is simulated tells of each operator the floating point operations, the unit of the
card that computes them, and the bytes. On a card an operator takes the time of both: of its
operations at a share of that unit's peak, and of its bytes at a share of the memory's bandwidth.
What a kernel without products reads and writes was just made, and will soon be read: it stays in
the card's cache where it is small enough. The processor launches the operators one after the other
while the card works, so a step takes as long as the slower of the two.

The shares and the time of a launch are fitted to published throughput by
`benchmarks/speed_published.py`, which also prints how far off they are for a source left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from modelforge.machine.cards import Card

# What computes: tensor cores, or units of 32 bits; or nothing does, and memory is only moved.
Unit = Literal["tensor cores", "32 bits", "memory"]


class Load(NamedTuple):
    """What an operator asks of a card.

    Attributes:
        unit: What computes it.
        flops: Floating point operations of matrix products and attention.
        nbytes: Read and written.
    """

    unit: Unit
    flops: int
    nbytes: int


# How many operators there are of each load.
Work = Mapping[Load, int]


@dataclass(frozen=True)
class Reached:
    """What programs reach of what a machine can; fitted to published throughput.

    Attributes:
        products: Share of the peak, in matrix products and attention.
        bandwidth: Share of the memory's bandwidth.
        launch: Seconds of the processor for each operator.
    """

    products: float
    bandwidth: float
    launch: float


#: Fitted by `benchmarks/speed_published.py`.
REACHED = Reached(products=0.92, bandwidth=0.55, launch=20e-6)
#: The interval that holds four of five published points of a source: as factors of the time.
FASTER, SLOWER = 0.8, 1.25
# What fits half of the cache is moved this much faster than from memory.
_CACHED = 3.0


def seconds(work: Work, card: Card, reached: Reached = REACHED) -> float:
    """How long these operators take on a card."""
    busy = sum(count * _on_card(load, card, reached) for load, count in work.items())
    return max(busy, reached.launch * sum(work.values()))


def _on_card(load: Load, card: Card, reached: Reached) -> float:
    moving = load.nbytes / (reached.bandwidth * card.bandwidth * 1e9)
    if load.unit == "memory":
        return moving / (_CACHED if load.nbytes < card.cache_mb * 1e6 / 2 else 1.0)
    peak = card.tflops_32 if load.unit == "32 bits" else card.tflops
    return moving + load.flops / (reached.products * peak * 1e12)


# Nothing runs for these, or they read only what they give.
_FREE = ("empty", "_local_scalar_dense", "detach", "lift_fresh", "set_")
_PICKS = ("aten::embedding", "aten::index", "aten::gather", "aten::index_select", "aten::slice")


def load_of(name: str, args: Any, out: Any, *, flops: int, scratch: int) -> Load | None:
    """What an operator asks of a card; None for a view, which runs nothing.

    Args:
        name: Of its schema.
        args: As it was called.
        out: What it gave.
        flops: Its floating point operations.
        scratch: Bytes that it holds while it runs: written and read once.
    """
    moved = bytes_moved(name, args, out)
    if moved is None:
        return None
    if not flops:
        return Load("memory", 0, moved + 2 * scratch)
    unit: Unit = "32 bits" if args[0].dtype == torch.float32 else "tensor cores"
    return Load(unit, flops, moved + 2 * scratch)


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
