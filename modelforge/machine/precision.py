"""The type of what is trained beside quantised weights."""

from __future__ import annotations

from typing import Any


def train_in_float32(model: Any) -> None:
    """Undo TRL's cast of what a quantised model trains to bfloat16.

    That type has 8 bits of mantissa: a step below a 256th of a weight rounds away, which at the
    rates of DPO and RL is most of them (`benchmarks/adapter_precision.py`). PEFT loads an adapter
    in 32 bits, so that the loaded model is the trained one.
    """
    if not (getattr(model, "is_loaded_in_4bit", 0) or getattr(model, "is_loaded_in_8bit", 0)):
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
