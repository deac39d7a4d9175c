"""Mixtures of experts: what "4-bit" leaves in 16 bits, and what LoRA on the experts costs.

transformers keeps the experts of a layer as one tensor. bitsandbytes quantises plain linear layers
and passes that tensor over. PEFT puts LoRA on it, of the rank that was asked for in each expert.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from modelforge.common.console import warn
from modelforge.config import Choice, Config

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from modelforge.plan.model import Unquantised

# Of the weights between embedding and head: below, what stays in 16 bits is hardly seen.
_MUCH = 0.2


def with_experts_said(config: Config, architecture: PretrainedConfig) -> Config:
    """The config with LoRA on experts as a choice that is said; and a warning of what stays wide.

    Nothing is downloaded by then, so whoever counted on 4 bits can think again.

    Args:
        config: With every value that model and machine decide.
        architecture: The model's config.
    """
    from modelforge.plan.model import unquantised

    settings = config.settings
    bits = 4 if settings.use_4bit else 8 if settings.use_8bit else 16
    mixture = any("experts" in name for name in vars(architecture.get_text_config()))
    if bits == 16 and not mixture:
        return config
    try:
        wide = unquantised(architecture)
    except Exception:  # a model that transformers cannot make by its config alone
        return config
    if bits < 16 and wide.share > _MUCH:
        warn(_stays_wide(wide, bits))
    if not (wide.experts and settings.lora_r and settings.lora_target_modules == "all-linear"):
        return config
    try:
        count, nbytes = _lora_on_experts(config, architecture)
    except Exception:  # what PEFT cannot attach, it says when it is to train
        return config
    if not count:
        return config
    why = (
        f"the experts too: {count / 1e6:.0f} million weights of LoRA, {nbytes / 1e9:.1f} GB and "
        'three times that to train them; ["q_proj", "k_proj", "v_proj", "o_proj"] leaves them out'
    )
    return config.with_choices({"lora_target_modules": Choice("all-linear", "default", why)})


def _stays_wide(wide: Unquantised, bits: int) -> str:
    size = wide.weights * 2 / 2**30
    what = "its own kind of linear layers"
    if wide.experts > wide.weights / 2:
        what = "its experts, which transformers keeps as one tensor a layer"
    return (
        f"use_{bits}bit quantises {1 - wide.share:.0%} of this model: bitsandbytes passes over "
        f"{what}, so {size:.1f} GiB stay in 16 bits; a dense model of that size is smaller"
    )


def _lora_on_experts(config: Config, architecture: PretrainedConfig) -> tuple[int, int]:
    """Weights and bytes of LoRA beside experts, as PEFT attaches it."""
    import torch
    from peft import get_peft_model

    from modelforge.models.lora import lora_config
    from modelforge.plan.model import meta_model

    model: Any = meta_model(
        copy.deepcopy(architecture), config.settings, head="causal-lm", dtype=torch.bfloat16
    )
    adapter: Any = lora_config(config.settings, head="causal-lm", model=model)
    with torch.device("meta"):
        model = get_peft_model(model, adapter)
    beside = [p for n, p in model.named_parameters() if "lora_" in n and "experts" in n]
    count = sum(p.numel() for p in beside)
    return count, sum(p.numel() * p.element_size() for p in beside)
