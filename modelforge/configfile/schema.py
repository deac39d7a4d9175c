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
from importlib.resources import files
from typing import Any

from modelforge import registry
from modelforge.common.paths import KeysOf
from modelforge.configfile.adapters import section_schema
from modelforge.configfile.bounds import BOUNDS, OBJECTS, VALUES
from modelforge.configfile.wrong import OWNED, UNKNOWN, problems_of, validator
from modelforge.errors import Problem

if typing.TYPE_CHECKING:
    from modelforge.strategy import Strategy

_JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"

#: Where a schema says what TRL has where neither the user nor ModelForge sets a key. It is no
#: default in JSON Schema's sense, which editors would show: ModelForge fills in many of these keys.
TRL_DEFAULTS = "x-trl-defaults"
# Numbers' formats that may be left to the machine in a word.
_AUTO = ("bf16", "fp16", "tf32")


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
    errors = validator(json.dumps(schema, sort_keys=True)).iter_errors(dict(values))
    for error in sorted(errors, key=lambda e: [str(part) for part in e.absolute_path]):
        problems.extend(problems_of(error, schema, where))
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
            if not validator(json.dumps(branch, sort_keys=True)).is_valid(None):
                found.add(key)
    return found


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
