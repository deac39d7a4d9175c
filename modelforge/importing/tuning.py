"""Whether a config of another trainer trains LoRA, all weights, or something that is not here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelforge.importing.theirs import Theirs, says_something

_FULL = "all weights are trained there"
_LORA = "LoRA, as here"
#: Their names for methods of PEFT that ``lora.peft_type`` has.
_METHODS = {"oft": "OFT", "boft": "BOFT", "vera": "VERA", "ia3": "IA3", "loha": "LOHA",
            "lokr": "LOKR", "hra": "HRA"}  # fmt: skip


def tuning_of(t: Theirs, project: str) -> None:
    """Say LoRA or all weights, where the project's default or its file is another than ours.

    Raises:
        ConfigError: If it trains in a way that is not here.
    """
    _TUNINGS[project](t)


def trains_lora(t: Theirs) -> bool:
    """Whether an adapter is trained, and one of LoRA."""
    return t.ours.get("lora_r") != 0 and "peft_type" not in t.ours.get("lora", {})


def _all_weights(t: Theirs, key: str, note: str = "") -> None:
    t.ours["lora_r"] = 0
    t.changed(key, note or _FULL, "lora_r", 0)


def _trl(t: Theirs) -> None:
    key, value = t.find("use_peft")
    if says_something(value):
        t.changed(key, _LORA, "lora_r")
    else:
        _all_weights(t, key or "use_peft", "TRL trains all weights unless use_peft says otherwise")


def _llamafactory(t: Theirs) -> None:
    if not {"stage", "finetuning_type", "model_name_or_path"} & set(t.leaves):
        t.version = "v1"
        key, value = t.find("peft_config.name")
        if not t.find("peft_config")[1]:
            return _all_weights(t, "peft_config", f"no peft_config: {_FULL}")
    else:
        key, value = t.find("finetuning_type")
    return _named(t, key or "finetuning_type", str(value or "lora"))


def _axolotl(t: Theirs) -> None:
    key, value = t.find("adapter")
    if not value:
        return _all_weights(t, "adapter", f"no adapter: {_FULL}")
    if value == "qlora" and t.get("load_in_4bit") is None and not t.get("gptq"):
        t.ours["use_4bit"] = True
    return _named(t, key, "lora" if value == "qlora" else str(value))


def _swift(t: Theirs) -> None:
    key, value = t.find("tuner_type", "train_type", "sft_type")
    _named(t, key or "tuner_type", str(value or "lora"))


def _named(t: Theirs, key: str, value: str) -> None:
    if value == "lora":
        t.changed(key, _LORA, "lora_r")
    elif value == "full":
        _all_weights(t, key)
    elif value in _METHODS:
        t.ours["lora"] = {"peft_type": _METHODS[value]}
        t.changed(key, "", "lora.peft_type", _METHODS[value])
    else:
        fix = "set lora (see docs/strategies.md for PEFT's methods), or lora_r 0 for all weights"
        t.refuse(
            key, f"{value} is no way of training here: LoRA, PEFT's methods or all weights", fix
        )


def _torchtune(t: Theirs) -> None:
    key = "model" if "model" in t.values else "policy_model"
    section = t.values.get(key)
    component = str(section.get("_component_", "")) if isinstance(section, Mapping) else ""
    name = component.rpartition(".")[2]
    if name.startswith(("lora_", "qlora_", "dora_")):
        if name.startswith("qlora_") or t.get("quantize_base"):
            t.ours["use_4bit"] = True
        t.changed(f"{key}._component_", "LoRA; the checkpoint's folder says the model", "lora_r")
    else:
        _all_weights(t, f"{key}._component_" if section else key)


def _unsloth(t: Theirs) -> None:
    key, value = t.find("full_finetuning")
    if says_something(value):
        _all_weights(t, key)


def _sections(t: Theirs) -> None:
    for name in ("use_lora", "use_peft", "lora.enabled", "peft.enabled", "lora.use_lora"):
        key, value = t.find(name)
        if key and value is False:
            return _all_weights(t, key)
        if key:
            t.changed(key, _LORA, "lora_r")
    return None


_TUNINGS: dict[str, Callable[[Theirs], Any]] = {
    "trl": _trl,
    "handbook": _trl,
    "llamafactory": _llamafactory,
    "axolotl": _axolotl,
    "swift": _swift,
    "torchtune": _torchtune,
    "unsloth": _unsloth,
    "sections": _sections,
}
