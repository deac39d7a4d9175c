"""Whether a config of another trainer trains LoRA, all weights, or something that is not here.

Each function says it for one project, where its default or its file is another than ours; it raises
`ConfigError` if the file trains in a way that is not here.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelforge.importing.theirs import Theirs, says_something

_FULL = "all weights are trained there"
_LORA = "LoRA, as here"
#: Their names for methods of PEFT that ``lora.peft_type`` has.
_METHODS = {"oft": "OFT", "boft": "BOFT", "vera": "VERA", "ia3": "IA3", "loha": "LOHA",
            "lokr": "LOKR", "hra": "HRA"}  # fmt: skip


def trains_lora(t: Theirs) -> bool:
    """Whether an adapter is trained, and one of LoRA."""
    return t.ours.get("lora_r") != 0 and "peft_type" not in t.ours.get("lora", {})


def _all_weights(t: Theirs, key: str, note: str = "") -> None:
    t.ours["lora_r"] = 0
    t.changed(key, note or _FULL, "lora_r", 0)


def trl(t: Theirs) -> None:
    """TRL trains all weights unless ``use_peft`` says otherwise."""
    key, value = t.find("use_peft")
    if says_something(value):
        t.changed(key, _LORA, "lora_r")
    else:
        _all_weights(t, key or "use_peft", "TRL trains all weights unless use_peft says otherwise")


def llamafactory(t: Theirs) -> None:
    """``finetuning_type`` of version 0, ``peft_config`` of version 1."""
    if not {"stage", "finetuning_type", "model_name_or_path"} & set(t.leaves):
        t.version = "v1"
        key, value = t.find("peft_config.name")
        if not t.find("peft_config")[1]:
            return _all_weights(t, "peft_config", f"no peft_config: {_FULL}")
    else:
        key, value = t.find("finetuning_type")
    return _named(t, key or "finetuning_type", str(value or "lora"))


def axolotl(t: Theirs) -> None:
    """Axolotl trains all weights without an ``adapter``."""
    key, value = t.find("adapter")
    if not value:
        return _all_weights(t, "adapter", f"no adapter: {_FULL}")
    if value == "qlora" and t.get("load_in_4bit") is None and not t.get("gptq"):
        t.ours["use_4bit"] = True
    return _named(t, key, "lora" if value == "qlora" else str(value))


def swift(t: Theirs) -> None:
    """``tuner_type``, and its older names."""
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


def torchtune(t: Theirs) -> None:
    """The model's component is LoRA's, or trains all weights."""
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


def unsloth(t: Theirs) -> None:
    """Unsloth trains LoRA unless ``full_finetuning`` says otherwise."""
    key, value = t.find("full_finetuning")
    if says_something(value):
        _all_weights(t, key)


def sections(t: Theirs) -> None:
    """A switch of LoRA in one of its places."""
    for name in ("use_lora", "use_peft", "lora.enabled", "peft.enabled", "lora.use_lora"):
        key, value = t.find(name)
        if key and value is False:
            return _all_weights(t, key)
        if key:
            t.changed(key, _LORA, "lora_r")
