"""PPO's adapters on the one base: the policy's, the reference as a frozen copy, the critic's.

The reference is the base with its adapters off, or a copy of the policy as it began. The value
reads the policy's trunk, or has an adapter of its own.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from modelforge.models.adapters import adapter_parameters

POLICY, REFERENCE, CRITIC = "default", "reference", "critic"


def copy_policy(model: Any, adapter: str) -> None:
    """Make ``adapter`` a frozen copy of the policy's weights as they are now."""
    if adapter not in model.peft_config:
        model.add_adapter(adapter, model.peft_config[POLICY])
        for module in model.modules():  # dropout that comes with a new adapter
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    originals = adapter_parameters(model, POLICY)
    copies = adapter_parameters(model, adapter)
    for original, copy in zip(originals.values(), copies.values(), strict=True):
        copy.data = original.detach().clone()
        copy.requires_grad_(False)


def finish_adapters(policy: Any, *, disable_dropout: bool) -> None:
    """Train in float32 and without dropout, adapters included that came after TRL's own set-up.

    TRL casts what a 4-bit model trains to bfloat16, in which the small steps of PPO round away.
    """
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if disable_dropout:
        for module in policy.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
