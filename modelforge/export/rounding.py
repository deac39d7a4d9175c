"""Rounding of weights: unbiased where an export rounds, and measured for the bound of its proof.

A fine-tuned weight is the base's weight and a small update. The base was saved in 16 bits, so it
lies on the grid of that type, and an update of less than half a step is lost when the sum is
rounded to the nearest: over many weights a part of the training. Rounding up or down at random, the
nearer the likelier, keeps each update on average (Gupta et al. 2015, arXiv:1502.02551, section 2).

How far rounding moves a model's answers depends on the model: a deep one is moved more than a
shallow one, so no constant fits both. The bound of a proof is measured. The trained model is merged
in 32 bits and asked what the proof asks. Then its weights are rounded at random by draws of their
own, the inputs of its products as the format's runtime rounds them, and it is asked again. A right
export diverges about as much. A wrong one gains nothing: none of its weights go into the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

#: Bits of a float32's mantissa that a type has no room for.
_DROPPED = {"bf16": 16, "f16": 13}
_NORMAL, _LEAST = 2.0**-14, 2.0**-24  # of half precision: the least normal value, the least at all
#: Bits of an integer, and how many weights share a scale.
_INTEGERS = {
    "q8_0": (8, 32),
    "q6_k": (6, 16),
    "q5_k_m": (5, 32),
    "q4_k_m": (4, 32),
    "int8": (8, 32),
    "int4": (4, 32),
}


@dataclass(frozen=True)
class Rounding:
    """What a format rounds.

    Attributes:
        weights: The type of its weights.
        inputs: The type that its runtime rounds the inputs of products to; None for 32 bits.
        products: Whether it rounds the weights of products alone, and not those of embeddings.
    """

    weights: str
    inputs: str | None = None
    products: bool = False


def at_random(values: torch.Tensor, kind: str, drawn: torch.Generator) -> torch.Tensor:
    """Float32 values as a type holds them, up or down at random, the nearer the likelier.

    Args:
        values: Any shape; in blocks along the last dimension where the type has blocks.
        kind: The type.
        drawn: What draws.

    Returns:
        The same shape in float32. What the type holds exactly stays.
    """
    import torch

    if kind in _DROPPED:
        step = 1 << _DROPPED[kind]
        whole = values.contiguous().view(torch.int32)
        lifted = whole + torch.randint(step, whole.shape, generator=drawn, dtype=torch.int32)
        found = (lifted & -step).view(torch.float32)
        if kind == "bf16":
            return found
        # Small values lie on a grid of one step: half precision has few exponents.
        whole = (values / _LEAST + torch.rand(values.shape, generator=drawn)).floor() * _LEAST
        return torch.where(values.abs() < _NORMAL, whole, found)
    bits, block = _INTEGERS[kind]
    if values.shape[-1] % block:
        return values
    parts, least = values.reshape(-1, block), -(1 << (bits - 1))
    scale = parts.gather(1, parts.abs().argmax(1, keepdim=True)) / least
    whole = parts / torch.where(scale == 0, 1, scale)
    whole = (whole + torch.rand(whole.shape, generator=drawn)).floor().clamp(least, -least - 1)
    return (whole * scale).reshape(values.shape)


def move(model: Any, rounding: Rounding, seed: int) -> None:
    """Round the weights of a model in 32 bits, in place, at random."""
    import torch

    drawn = torch.Generator().manual_seed(seed)
    if rounding.products:
        weights = {id(each.weight): each.weight for each in _products(model)}
    else:
        weights = {id(each): each for each in model.parameters()}
    with torch.no_grad():
        for weight in weights.values():
            if weight.ndim > 1 or rounding.weights in _DROPPED:  # blocks are of matrices
                weight.copy_(at_random(weight, rounding.weights, drawn))


@contextmanager
def inputs_rounded(model: Any, kind: str | None) -> Iterator[None]:
    """Within it, the inputs of products are rounded."""
    import torch

    drawn = torch.Generator().manual_seed(0)

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> Any:
        return None if kind is None else (at_random(inputs[0], kind, drawn), *inputs[1:])

    held = [each.register_forward_pre_hook(hook) for each in _products(model)]
    try:
        yield
    finally:
        for each in held:
            each.remove()


def _products(model: Any) -> list[Any]:
    import torch

    return [each for each in model.modules() if isinstance(each, torch.nn.Linear)]
