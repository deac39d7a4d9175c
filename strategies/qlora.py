"""Supervised fine-tuning in 4-bit: the memory-lean preset of sft."""

from __future__ import annotations

from modelforge.strategies.sft import SFT


class QLoRA(SFT):
    """QLoRA (Dettmers et al. 2023): LoRA on a frozen 4-bit base."""

    name = "qlora"
    summary = "supervised fine-tuning on a frozen 4-bit base (LoRA, the leanest)"
    unsloth = (True, "as sft, on its own 4-bit base (nf4, double quantisation)")
    defaults = {
        **SFT.defaults,
        "use_4bit": (True, "QLoRA trains on a frozen 4-bit base, a quarter of its 16-bit size"),
        "bnb_4bit_quant_type": (
            "nf4",
            "QLoRA uses this type, which is made for normally distributed weights",
        ),
        "use_double_quant": (True, "it saves 0.4 bit a weight"),
        "optim": ("paged_adamw_8bit", "its 8-bit states move to RAM when the card is full"),
        "gradient_checkpointing": (True, "it recomputes activations instead of storing them"),
    }
