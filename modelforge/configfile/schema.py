"""One JSON Schema per strategy: what editors complete against and what the code accepts.

The schemas in ``configs/schemas`` are generated (``modelforge schema NAME --build``) from
ModelForge's keys and the fields of the strategy's TRL config class. Checking a config reads them,
so it needs no TRL; a test holds them equal to what the installed TRL gives.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import json
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from modelforge import registry
from modelforge.common.paths import KeysOf
from modelforge.configfile.adapters import section_schema
from modelforge.configfile.bounds import BOUNDS, OBJECTS, VALUES
from modelforge.configfile.peers import advice
from modelforge.errors import Problem, did_you_mean

if typing.TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

    from modelforge.strategy import Strategy

_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

#: Where a schema says what TRL has where neither the user nor ModelForge sets a key. It is no
#: default in JSON Schema's sense, which editors would show: ModelForge fills in many of these keys.
TRL_DEFAULTS = "x-trl-defaults"
UNKNOWN = "is not a key of this strategy"
NOTHING = "remove it: no key here does this (docs/config.md lists all)"
ALIKE = 0.75  # of so many keys one is always a little like another
# Numbers' formats that may be left to the machine in a word.
_AUTO = ("bf16", "fp16", "tf32")

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


def build(strategy: type[Strategy]) -> dict[str, Any]:
    """The strategy's schema, from the installed TRL (imports it)."""
    schema = strategy.settings.model_json_schema()
    own = schema["properties"]
    own["$schema"] = {"type": "string", "description": "This schema, for the editor."}
    own["strategy"] = {**own["strategy"], "const": strategy.name}
    for key, known in strategy.settings.model_fields.items():
        for mark in known.metadata:
            if isinstance(mark, KeysOf):
                own[key] |= _section(mark)
    own["lora"] |= section_schema(_field_schema)
    config_class = strategy.trl_config_class()
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        if field.init and field.name not in own and field.name not in OWNED:
            values = _values(config_class, field.name)
            own[field.name] = _field_schema(field, hints[field.name], values)
            schema.setdefault("$defs", {}).update(own[field.name].pop("$defs", {}))
    _without_titles(schema)
    return {
        "$schema": _JSON_SCHEMA,
        "title": f"ModelForge: {strategy.name}",
        "description": strategy.summary,
        **{key: schema[key] for key in ("$defs", "type", "required") if key in schema},
        "properties": own,
        "additionalProperties": False,
        TRL_DEFAULTS: {
            field.name: _default(field)
            for field in dataclasses.fields(config_class)
            if field.name in own and isinstance(_default(field), str | int | float | bool | list)
        },
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    """What a field of a config class is where nothing sets it."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return getattr(field.default, "value", field.default)  # transformers' are enums


def _section(mark: KeysOf) -> dict[str, Any]:
    """The schema of a section whose keys are those of another strategy."""
    document = load(registry.get_strategy(mark.strategy))
    keys = {k: v for k, v in document["properties"].items() if k not in mark.without}
    return {"properties": _inlined(keys, document["$defs"]), "additionalProperties": False}


def _inlined(node: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without references: two strategies may mean different things by one name."""
    if isinstance(node, list):
        return [_inlined(inner, definitions) for inner in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = {**definitions[node["$ref"].rpartition("/")[2]], **node}
    return {k: _inlined(v, definitions) for k, v in node.items() if k != "$ref"}


def load(strategy: type[Strategy]) -> dict[str, Any]:
    """The shipped schema of a built-in strategy; a third party's is built."""
    shipped = files("modelforge.configs") / "schemas" / f"{strategy.name}.json"
    if strategy.__module__.startswith("modelforge.strategies.") and shipped.is_file():
        return json.loads(shipped.read_text(encoding="utf-8"))
    return build(strategy)


def validate(values: Mapping[str, Any], strategy: type[Strategy], *, where: str) -> list[Problem]:
    """Every way in which the values are not what the schema says, each with its key.

    Args:
        values: The raw config.
        strategy: Whose schema to hold it against.
        where: How to call the config in messages.
    """
    schema = load(strategy)
    problems = [
        Problem(f"{where}: {path}", "is no finite number of 64 bits", "write a smaller one")
        for path in _non_finite(values, "")
    ]
    errors = _validator(json.dumps(schema, sort_keys=True)).iter_errors(dict(values))
    for error in sorted(errors, key=lambda e: [str(part) for part in e.absolute_path]):
        problems.extend(_problems(error, schema, where))
    return list(dict.fromkeys(problems))


def validate_without_strategy(values: Mapping[str, Any], *, where: str) -> list[Problem]:
    """What is wrong with a config whatever strategy it means: `validate` as far as it goes."""
    anyhow = {**values, "strategy": "sft"}
    for key in left_open(anyhow, registry.get_strategy("sft")):
        del anyhow[key]
    known = {key for name in registry.list_strategies() for key in _keys(name)}
    return [
        problem
        for problem in validate(anyhow, registry.get_strategy("sft"), where=where)
        if not (problem.what == UNKNOWN and problem.where.partition(": ")[2] in known)
    ]


def _keys(strategy: str) -> Iterable[str]:
    keys: dict[str, Any] = load(registry.get_strategy(strategy))["properties"]
    return keys


def left_open(values: Mapping[str, Any], strategy: type[Strategy]) -> set[str]:
    """The keys that are said and say nothing: ``null`` where it is no value, ``bf16: auto``."""
    schema = load(strategy)
    found = {key for key in _AUTO if values.get(key) == "auto"}
    for key, value in values.items():
        if value is None and key in schema["properties"]:
            branch = {"$defs": schema.get("$defs", {}), **schema["properties"][key]}
            if not _validator(json.dumps(branch, sort_keys=True)).is_valid(None):
                found.add(key)
    return found


@cache
def _validator(schema: str) -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(schema))


def _values(config_class: type, name: str) -> tuple[str, ...] | None:
    """The values that a field can have, where its class does not say so."""
    keys = [name, *(f"{cls.__name__}.{name}" for cls in config_class.__mro__)]
    return next((VALUES[key] for key in keys if key in VALUES), None)


def _field_schema(
    field: dataclasses.Field[Any], hint: Any, values: tuple[str, ...] | None
) -> dict[str, Any]:
    """The schema of one field of a TRL config class."""
    from pydantic import TypeAdapter

    members = typing.get_args(hint) or (hint,)
    enums = [m for m in members if isinstance(m, type) and issubclass(m, enum.Enum)]
    choices = dict(field.metadata).get("choices") or values
    if choices and typing.get_origin(hint) is list:
        schema: dict[str, Any] = {"type": "array", "items": {"enum": list(choices)}, "minItems": 1}
    elif choices:
        schema = {"enum": [*choices, *([None] if type(None) in members else [])]}
    elif enums:
        # "Enum | str" in transformers means "one of the enum, by name": say so.
        schema = {"enum": [member.value for cls in enums for member in cls]}
        if type(None) in members:
            schema["enum"].append(None)
    elif field.name in OBJECTS:
        schema = {"anyOf": [copy.deepcopy(OBJECTS[field.name]), {"type": "null"}]}
    elif dataclasses.is_dataclass(members[0]):
        schema = {"type": ["object", "null"]}
    else:
        schema = TypeAdapter(hint).json_schema()
    branches: list[dict[str, Any]] = schema.get("anyOf", [schema])
    for branch in branches:
        if branch.get("type") in ("integer", "number"):
            branch.update(BOUNDS.get(field.name, {}))
    text = " ".join(str(dict(field.metadata).get("help", "")).replace("%%", "%").split())
    if text:
        schema["description"] = text
    return schema


def _without_titles(node: Any) -> None:
    """Drop pydantic's generated titles: they repeat the key."""
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _without_titles(value)
    elif isinstance(node, list):
        for value in node:
            _without_titles(value)


def _non_finite(value: Any, path: str) -> Iterable[str]:
    if isinstance(value, int | float) and not abs(value) < 2**63:  # NaN is not, either
        yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _non_finite(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _non_finite(inner, f"{path}[{index}]")


def _problems(error: ValidationError, root: dict[str, Any], where: str) -> Iterable[Problem]:
    """A schema violation in the user's words."""
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    here = f"{where}: {path}" if path else where
    schema = typing.cast("dict[str, Any]", error.schema)
    if error.validator == "additionalProperties":
        known = list(schema.get("properties", {}))
        for key in typing.cast("dict[str, Any]", error.instance):
            if key not in known:
                told = advice(key) if not path else ""
                yield _unknown(key, known, f"{here}.{key}" if path else f"{where}: {key}", told)
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
                yield from _problems(inner, root, where)
        else:
            yield Problem(here, f"is {_short(error.instance)}", f"set {describe(schema, root)}")
    else:
        fix = f"set {describe(schema, root)}"
        allowed = schema.get("enum")
        if allowed and isinstance(error.instance, str):
            near = did_you_mean(error.instance, [a for a in allowed if isinstance(a, str)])
            fix = near if near.startswith("did") else fix
        if error.instance in schema.get("items", {}).get("enum", ()):
            fix = f"set [{_short(error.instance)}]"
        yield Problem(here, f"is {_short(error.instance)}", fix)


def _unknown(key: str, known: list[str], where: str, told: str) -> Problem:
    if key in OWNED:
        return Problem(where, "is not set here", OWNED[key])
    return Problem(where, UNKNOWN, told or did_you_mean(key, known, alike=ALIKE) or NOTHING)


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
