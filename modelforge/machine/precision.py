"""The type of what is trained: beside quantised weights, and where all weights are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modelforge.config import Config
from modelforge.errors import Problem

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

# torchao's, which can round up or down by chance, so that the mean of many steps is right.
_STOCHASTIC = ("adamw_torch_8bit", "adamw_torch_4bit")


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


def warnings(config: Config) -> Iterator[str]:
    """What is lost where all weights are trained in 16 bits."""
    settings, optimiser = config.settings, str(config.get("optim"))
    stochastic = "bf16_stochastic_round=true" in str(config.get("optim_args")).lower()
    kept = optimiser == "stable_adamw" or (optimiser in _STOCHASTIC and stochastic)
    if settings.dtype == "bfloat16" and settings.lora_r == 0 and not kept:
        yield (
            "dtype bfloat16: a step below a 512th of a weight is lost when it is rounded. "
            "optim stable_adamw keeps it (Kahan summation; pip install torch-optimi), and so does "
            "adamw_torch_8bit with optim_args bf16_stochastic_round=True (pip install torchao)"
        )


def precision_problems(config: Config) -> Iterator[Problem]:
    """What of a config asks for two 16-bit types at once."""
    other = "bf16 is on too" if config.trl.get("bf16") else ""
    if config.settings.dtype == "bfloat16":
        other = "the weights are bfloat16 (dtype)"
    if config.trl.get("fp16") and other:
        yield Problem(f"{config.name}: fp16", other, "keep one of the two")


def machine_problems(config: Config, hardware: Hardware) -> Iterator[Problem]:
    """The type of the weights, where this card cannot compute in it."""
    if config.settings.dtype == "bfloat16" and hardware.device != "cpu" and not hardware.bf16:
        what = f"{hardware.device_name} does not compute in bfloat16"
        yield Problem(f"{config.name}: dtype", what, "set it to auto or float32")
