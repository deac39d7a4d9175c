"""The section ``lora``: the fields of PEFT's own config classes, and which cannot stand together.

Its schema is built from those classes, as a strategy's is from TRL's. Checking it needs no PEFT.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from modelforge.config import OUT_OF_BASE, Config, Settings, of_whole_weights
from modelforge.errors import Problem

LORA = "LORA"
#: PEFT's methods that train under TRL's trainers, start as the base, and load as they were saved.
KINDS = (LORA, "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "HRA", "MISS", "RANDLORA")

# Keys that train rows of the embedding.
_TOKENS = ("train_tokens", "add_tokens", "add_special_tokens")

# Others of PEFT's methods, and why they are refused.
_VIRTUAL = "puts virtual tokens before each row: no figure, plan or merge here knows of them"
_OTHERS = {
    "ADALORA": "moves ranks in a call after each step, which TRL's trainers do not make",
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"), _VIRTUAL),
    "MULTITASK_PROMPT_TUNING": _VIRTUAL,
    **dict.fromkeys(("XLORA", "POLY"), "mixes adapters that were trained before"),
    "ADAPTION_PROMPT": "is for a few architectures alone, and cannot be merged",
    "TRAINABLE_TOKENS": "is a field of LoRA: set lora.trainable_token_indices",
}

# Fields that PEFT, the model or the run fills.
_FILLED = frozenset(
    (
        *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "runtime_config", "megatron_config", "megatron_core"),
    )
)
_FIRST_PASS = "needs a pass over data before training, which TRL's trainers do not make"
_UNTRIED = "is not tried with TRL's trainers"
# Fields of LoRA that are refused, and why.
_REFUSED = {
    "eva_config": _FIRST_PASS,
    "corda_config": _FIRST_PASS,
    "lora_ga_config": _FIRST_PASS,
    "layer_replication": "makes another model of the base: save that model first, and train it",
    **dict.fromkeys(
        (
            *("velora_config", "alora_invocation_tokens", "use_qalora", "qalora_group_size"),
            *("monteclora_config", "use_bdlora", "arrow_config", "kasa_config", "loftq_config"),
        ),
        _UNTRIED,
    ),
}
# Ways to begin that are refused, and why.
_BEGINNINGS = {
    "eva": _FIRST_PASS,
    "corda": _FIRST_PASS,
    "lora_ga": _FIRST_PASS,
    "mica": _UNTRIED,
    "loftq": "changes the base by the weights' rounding; use_4bit trains on the rounded base",
    "False": "starts LoRA at random, so that the model does not start as itself",
    "pissa_niter": "draws at random, so that the saved adapter fits no base that is loaded again; "
    "set pissa",
}


def same_key(section: Mapping[str, Any]) -> dict[str, str]:
    """Fields of LoRA that are keys of their own: the field → the key."""
    names = {"r": "lora_r", "target_modules": "lora_target_modules"}
    for name in ("lora_alpha", "lora_dropout", "lora_modules_to_save"):
        if name in Settings.model_fields:
            names[name.replace("lora_modules", "modules")] = name
    return names if section.get("peft_type", LORA) == LORA else {}


def keys_of_their_own(values: dict[str, Any], *, where: str) -> Iterator[Problem]:
    """Move ``lora.r`` to ``lora_r``, and so on, in place; one that is said twice is a problem.

    Args:
        values: Of the file, or of ``--set``.
        where: How to call the config.
    """
    section = values.get("lora")
    if not isinstance(section, Mapping):
        return
    kept = dict(section)
    for field, key in same_key(section).items():
        if field not in kept:
            continue
        if key in values:
            what = f"is said twice: {key} is the same"
            yield Problem(f"{where}: lora.{field}", what, "keep one of the two")
        values[key] = kept.pop(field)
    values["lora"] = kept
    if not kept:
        del values["lora"]


def lora_problems(config: Config, *, reference: bool) -> Iterator[Problem]:
    """What of the section cannot be, or cannot stand with other keys.

    Args:
        config: As loaded.
        reference: Whether the strategy compares with the model whose adapter is off.
    """
    section, where = config.settings.lora, f"{config.name}: lora"
    if not section:
        return
    settings, kind = config.settings, section.get("peft_type", LORA)
    if kind in _OTHERS:
        fix = f"set one of {', '.join(KINDS)}"
        yield Problem(f"{where}.peft_type", f"{kind} {_OTHERS[kind]}", fix)
    if kind != LORA:
        for key in ("lora_r", "lora_alpha", "lora_dropout"):
            if config.given(key):
                what = f"has no effect: lora.peft_type is {kind}"
                yield Problem(f"{config.name}: {key}", what, "set the fields of lora")
    tokens = [key for key in _TOKENS if config.get(key)]
    if tokens and (kind != LORA or section.get("trainable_token_indices")):
        what = f"rows of tokens are trained beside LoRA by {tokens[0]}"
        field = "peft_type" if kind != LORA else "trainable_token_indices"
        yield Problem(f"{where}.{field}", what, "keep one of the two")
    for field in section:
        if field in _REFUSED and kind == LORA:
            yield Problem(f"{where}.{field}", _REFUSED[field], "remove it")
    if section.get("layers_to_transform") is not None:
        targets = section.get("target_modules", settings.lora_target_modules)
        if isinstance(targets, str):
            what = f"needs a list of modules, and lora_target_modules is {targets}"
            fix = 'set lora_target_modules to a list, such as ["q_proj", "v_proj"]'
            yield Problem(f"{where}.layers_to_transform", what, fix)
    begins = str(section.get("init_lora_weights", True))
    at = f"{where}.init_lora_weights"
    for name, why in _BEGINNINGS.items():
        if begins.startswith(name):
            yield Problem(at, f"{begins} {why}", "remove it, or set gaussian, orthogonal or olora")
    field, why = of_whole_weights(section)
    if why and (settings.use_4bit or settings.use_8bit):
        fix = "set use_4bit and use_8bit to false, or remove it"
        yield Problem(f"{where}.{field}", f"{why}, and these are quantised", fix)
    if begins in OUT_OF_BASE and reference:
        what = f"{begins} takes the adapter's part out of the base, and {settings.strategy} "
        what += "compares with the base, its adapter off"
        yield Problem(at, what, "remove it")
    if reference and section.get("bias", "none") != "none":
        what = f"is {section['bias']}: the base's own biases are trained, which stay on when the "
        what += f"adapter is off, and {settings.strategy} compares with the base"
        yield Problem(f"{where}.bias", what, "remove it")


def section_schema(field_schema: Any) -> dict[str, Any]:
    """The schema of the section, from the installed PEFT (imports it).

    Args:
        field_schema: Makes the schema of one field from it, its type and its values.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    classes: dict[str, Any] = {str(k.value): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    branches = []
    for kind in KINDS:
        hints = typing.get_type_hints(classes[kind])
        fields = {
            field.name: _plain(field_schema(field, hints[field.name], None))
            for field in dataclasses.fields(classes[kind])
            if field.init and field.name not in _FILLED
        }
        condition: dict[str, Any] = {"properties": {"peft_type": {"const": kind}}}
        if kind != LORA:
            condition["required"] = ["peft_type"]
        then = {"properties": {"peft_type": True, **fields}, "additionalProperties": False}
        branches.append({"if": condition, "then": then})
    return {"properties": {"peft_type": {"enum": [*KINDS, *_OTHERS]}}, "allOf": branches}


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    """A field's schema that refers to nothing, with one sentence of its description."""
    if "$defs" in schema or "$ref" in str(schema):
        return {"type": ["object", "null"]}
    words = schema.get("description", "").partition(". ")[0].rstrip(".")
    if words:
        schema["description"] = words[:200] + "."
    for branch in schema.get("anyOf", [schema]):
        values = branch.get("enum", ())
        if any("[number of iters]" in str(value) for value in values):
            branch["enum"] = [value for value in values if "[" not in str(value)]
            schema["anyOf"].append({"type": "string", "pattern": r"^pissa_niter_\d+$"})
            break
    _sort(schema)
    return schema


def _sort(node: Any) -> None:
    """Bring forms that may stand for each other into one order.

    Python takes ``int | list`` and ``list | int`` for one type, and shows whichever it met first.
    """
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for each in inner:
        _sort(each)
    if isinstance(node, dict) and "anyOf" in node:
        node["anyOf"].sort(key=lambda form: json.dumps(form, sort_keys=True))
