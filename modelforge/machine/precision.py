"""The type of what is trained beside quantised weights."""

from __future__ import annotations

from typing import Any


def train_in_float32(model: Any) -> None:
    """Undo TRL's cast of what a quantised model trains to bfloat16.

    That type has 8 significant bits: a step below a 512th of a weight rounds away. PEFT begins the
    A of LoRA within ±1/sqrt(width), some 0.016 for a width of 4096, and a step of Adam is about as
    large as the rate. So at 1e-5 most steps of A would be lost. PEFT loads an adapter in 32 bits:
    trained in them, the loaded model is the trained one.
    """
    if not (getattr(model, "is_loaded_in_4bit", 0) or getattr(model, "is_loaded_in_8bit", 0)):
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
