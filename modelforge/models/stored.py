"""A base whose weights are stored quantised: by bitsandbytes, GPTQ, AWQ or another method."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from modelforge.config import Choice, Config
from modelforge.errors import Problem

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_KEYS = ("use_4bit", "use_8bit")
_INSTEAD = "the model before it was quantised"


def stored_as(architecture: PretrainedConfig) -> Mapping[str, Any] | None:
    """What a model's config says of its quantisation; None where it is not quantised."""
    found = getattr(architecture, "quantization_config", None)
    if found is None or isinstance(found, Mapping):
        return found or None
    return found.to_dict() if hasattr(found, "to_dict") else {"quant_method": str(found)}


def stored_problems(
    config: Config, architecture: PretrainedConfig, *, here: bool
) -> Iterator[Problem]:
    """Why a quantised base cannot be trained as the config asks, or not on this machine.

    Args:
        config: As loaded.
        architecture: transformers' config of the base.
        here: Whether it is to be loaded on this machine.
    """
    stored = stored_as(architecture)
    if stored is None:
        return
    kind, where = _kind(stored), config.name
    for key in _KEYS:
        said = config.said.get(key)
        if said is not None and said != _bits(stored)[key]:
            what = f"is {str(said).lower()}, and the weights of the model are stored in {kind}"
            yield Problem(f"{where}: {key}", what, f"remove it, or set model_name to {_INSTEAD}")
    if config.settings.lora_r == 0:
        what = f"0 trains all weights, and those of the model are quantised ({kind})"
        fix = f"set lora_r to 8 or more, or model_name to {_INSTEAD}"
        yield Problem(f"{where}: lora_r", what, fix)
    elif here:
        what = _missing(stored)
        if what:
            at = f"{where}: model_name"
            yield Problem(at, f"its weights are stored in {kind}: {what}", f"set {_INSTEAD}")


def stored_choices(architecture: PretrainedConfig) -> dict[str, Choice]:
    """The keys of quantisation as the base is stored, which none of them can change."""
    stored = stored_as(architecture)
    if stored is None:
        return {}
    why = f"the weights of the model are stored in {_kind(stored)}"
    values: dict[str, Any] = dict(_bits(stored))
    if values["use_4bit"]:
        values["bnb_4bit_quant_type"] = stored.get("bnb_4bit_quant_type", "fp4")
        values["use_double_quant"] = bool(stored.get("bnb_4bit_use_double_quant"))
    return {key: Choice(value, "model", why) for key, value in values.items()}


def _bits(stored: Mapping[str, Any]) -> dict[str, bool]:
    """What the keys would be: only bitsandbytes has them."""
    ours = stored.get("quant_method") in (None, "bitsandbytes")
    loaded = (bool(stored.get("load_in_4bit")), bool(stored.get("load_in_8bit")))
    return dict(zip(_KEYS, (ours and loaded[0], ours and loaded[1]), strict=True))


def _kind(stored: Mapping[str, Any]) -> str:
    bits = _bits(stored)
    if any(bits.values()):
        return "4-bit (bitsandbytes)" if bits["use_4bit"] else "8-bit (bitsandbytes)"
    return str(stored.get("quant_method") or "a form without a name")


def _missing(stored: Mapping[str, Any]) -> str:
    """Why transformers could not load it here, or not train it; empty where it can."""
    from transformers.quantizers import AutoHfQuantizer

    try:
        quantizer: Any = AutoHfQuantizer.from_config(dict(stored), pre_quantized=True)
        quantizer.validate_environment(device_map=None, weights_only=True)
        # Where a kernel is missing it makes plain weights of them.
        plain = getattr(quantizer.quantization_config, "dequantize", False)
        trains = plain or quantizer.is_trainable
    except Exception as error:  # each method raises what it likes
        return " ".join(str(error).split())[:300] or type(error).__name__
    return "" if trains else "transformers cannot train an adapter on it"
