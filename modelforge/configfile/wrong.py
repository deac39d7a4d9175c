"""What is wrong with a value of a config, in the user's words, and what would mend it."""

from __future__ import annotations

import contextlib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from modelforge.common.patch import put, rename
from modelforge.configfile.peers import advised
from modelforge.errors import Problem, did_you_mean, nearest, slip

if typing.TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

UNKNOWN = "is not a key of this strategy"
NOTHING = "remove it: no key here does this (docs/config.md lists all)"
ALIKE = 0.75  # of so many keys one is always a little like another

# Fields of TRL's config classes that ModelForge fills itself, with what to say instead.
OWNED = {
    "activation_checkpointing": "set gradient_checkpointing",
    "activation_checkpointing_kwargs": "set gradient_checkpointing_kwargs",
    "auto_find_batch_size": "a run that is out of memory halves its micro-batch by itself",
    "bf16_full_eval": "held-out figures are computed as training computes",
    "chat_template_path": "set chat_template",
    "dataset_kwargs": "ModelForge prepares the data",
    "dataset_text_field": 'set columns, e.g. {"text": "body"}',
    "disable_tqdm": "ModelForge shows its own progress bar",
    "do_eval": "set eval_dataset or eval_split",
    "do_predict": "ModelForge writes samples.jsonl",
    "do_train": "use `modelforge check` to stop before training",
    "fp16_full_eval": "held-out figures are computed as training computes",
    "hub_token": "a config holds no secrets: run `hf auth login`",
    "local_rank": "the launcher sets it",
    "logging_dir": "TensorBoard's files go to the run's folder",
    "model_init_kwargs": "set use_4bit, use_8bit, attn_implementation and model_revision",
    "parallelism_config": "start the run with `accelerate launch` and its config file",
    "resume_from_checkpoint": "set resume",
    "reward_weights": "set rewards, each with its weight",
    "use_cpu": "set hardware_profile to cpu",
    "max_length": "set max_seq_length",
    "max_completion_length": "set generation.max_new_tokens",
    "generation_kwargs": "set generation",
    "save_only_model": "a checkpoint holds all that a resume needs; model/ holds the model alone",
    "temperature": "set generation.temperature",
    "top_k": "set generation.top_k",
    "top_p": "set generation.top_p",
}


@cache
def validator(schema: str) -> Any:
    """Of a schema in JSON."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def problems_of(error: ValidationError, root: dict[str, Any], where: str) -> Iterable[Problem]:
    """A schema violation in the user's words."""
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    here = f"{where}: {path}" if path else where
    schema = typing.cast("dict[str, Any]", error.schema)
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        values = typing.cast("dict[str, Any]", error.instance)
        for key in values:
            if key not in known:
                place = f"{here}.{key}" if path else f"{where}: {key}"
                yield _unknown([*error.absolute_path, key], known, place, values)
    elif error.validator == "required":
        missing = error.message.split("'")[1]
        text = schema.get("properties", {}).get(missing, {}).get("description", "")
        yield Problem(f"{here}.{missing}" if path else f"{where}: {missing}", "is missing", text)
    elif error.validator in ("anyOf", "oneOf") and isinstance(error.instance, dict | list):
        # Of several forms, speak of the one the user chose.
        branches: dict[int, list[ValidationError]] = {}
        for inner in error.context or ():
            branches.setdefault(int(inner.schema_path[0]), []).append(inner)
        meant = [b for b in branches.values() if all(e.validator != "type" or e.path for e in b)]
        if meant:
            for inner in meant[0]:
                yield from problems_of(inner, root, where)
        else:
            yield Problem(here, f"is {_short(error.instance)}", f"set {describe(schema, root)}")
    else:
        meant = _meant(error.instance, schema, root)
        fix = f"set {describe(schema, root)}"
        if isinstance(error.instance, str) and (near := nearest(error.instance, _names(schema))):
            fix = f"did you mean '{near}'?"
        elif isinstance(meant, str):
            fix = f"did you mean '{meant}'?"
        elif isinstance(meant, list):
            fix = f"set {_short(meant)}"
        patch = () if meant is None else put(list(error.absolute_path), meant)
        yield Problem(here, f"is {_short(error.instance)}", fix, patch)


def _meant(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value of the right form that means the same, or the name that was misspelt; else None."""
    readings: list[Any] = [value.strip(), [value]] if isinstance(value, str) else [[value]]
    if isinstance(value, str):
        readings.append(slip(value, _names(schema)))
        plain = value.strip().lower().replace("_", "")
        readings.append({"true": True, "yes": True, "on": True}.get(plain))
        readings.append({"false": False, "no": False, "off": False}.get(plain))
        with contextlib.suppress(ValueError):
            readings.append(json.loads(plain))
        with contextlib.suppress(ValueError):
            readings.append(float(plain))  # 2e-4 with a dot too few is no JSON
    if isinstance(value, list) and len(value) == 1:
        readings.append(value[0])
    if type(value) in (int, float) and abs(value) < 2**63:  # no infinity, and not NaN
        readings += [int(value)] if value == int(value) else []
        readings += [bool(value)] if value in (0, 1) else []
    taken = validator(json.dumps({"$defs": root.get("$defs", {}), **schema}, sort_keys=True))
    finite = (each for each in readings if not isinstance(each, float) or math.isfinite(each))
    return next((each for each in finite if each is not None and taken.is_valid(each)), None)


def _names(schema: Mapping[str, Any]) -> list[str]:
    return [name for name in schema.get("enum", ()) if isinstance(name, str)]


def _unknown(keys: list[Any], known: list[str], where: str, values: Mapping[str, Any]) -> Problem:
    """The last of these keys is none: the name that was meant, or why there is none."""
    key = keys[-1]
    if key in OWNED:
        named = OWNED[key].removeprefix("set ")
        sure = named in known and named not in values
        return Problem(where, "is not set here", OWNED[key], rename(keys, named) if sure else ())
    told, patch = ("", ()) if len(keys) > 1 else advised(key, values)
    if told:
        return Problem(where, UNKNOWN, told, patch)
    meant = slip(key, known, alike=ALIKE)
    patch = () if meant is None or meant in values else rename(keys, meant)
    return Problem(where, UNKNOWN, did_you_mean(key, known, alike=ALIKE) or NOTHING, patch)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def describe(schema: Mapping[str, Any], root: Mapping[str, Any]) -> str:
    """What a schema accepts, in words: ``a whole number of at least 1``."""
    if "$ref" in schema:
        return describe(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "const" in schema:
        return _short(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(_short(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(describe(branch, root) for branch in schema["anyOf"])
    kinds = schema.get("type", [])
    words = [_TYPES.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    text = " or ".join(words) or "another value"
    bounds = [
        f"{word} {schema[key]}"
        for key, word in (
            ("minimum", "of at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "of at most"),
            ("exclusiveMaximum", "below"),
            ("pattern", "that matches"),
        )
        if key in schema
    ]
    if schema.get("minLength") or schema.get("minItems"):
        text = text.replace("a text", "a text that is not empty").replace(
            "a list", "a list that is not empty"
        )
    return " ".join([text, " and ".join(bounds)]).strip()


_TYPES = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object of named values",
    "array": "a list",
    "null": "null",
}
