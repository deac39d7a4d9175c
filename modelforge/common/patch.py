"""Changes of a config, as JSON Patch (RFC 6902) has them: what an error says would mend it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

#: One operation: ``{"op": "replace", "path": "/lora_r", "value": 16}``.
Operation = Mapping[str, Any]
Patch = tuple[Operation, ...]
#: The way to a value: keys, and places in lists.
Keys = Sequence[str | int]


def pointer(keys: Keys) -> str:
    """A JSON Pointer (RFC 6901).

    >>> pointer(["rewards", 0, "a/b"])
    '/rewards/0/a~1b'
    """
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def rename(keys: Keys, name: str) -> Patch:
    """Give a key another name."""
    return ({"op": "move", "from": pointer(keys), "path": pointer([*keys[:-1], name])},)


def put(keys: Keys, value: Any) -> Patch:
    """Set a key that is there to another value."""
    return ({"op": "replace", "path": pointer(keys), "value": value},)


def drop(keys: Keys) -> Patch:
    """Remove a key."""
    return ({"op": "remove", "path": pointer(keys)},)


def patched(values: Mapping[str, Any], patch: Patch) -> dict[str, Any]:
    """The values with a patch applied; they themselves stay as they are.

    Raises:
        LookupError: If a place is not there, or a name is taken.
    """
    result: dict[str, Any] = copy.deepcopy(dict(values))
    for operation in patch:
        kind, path = operation["op"], operation["path"]
        if kind == "move":
            value = _take(result, operation["from"])
            inside, key = _place(result, path)
            if key in inside:
                raise LookupError(f"{path} is set already")
            inside[key] = value
        elif kind == "replace":
            inside, key = _place(result, path)
            inside[key]
            inside[key] = operation["value"]
        else:
            _take(result, path)
    return result


def said(operation: Operation) -> str:
    """An operation in words."""
    if operation["op"] == "move":
        return f"{operation['from'][1:]} is called {operation['path'][1:]}"
    if operation["op"] == "replace":
        return f"{operation['path'][1:]} is {operation['value']!r}"
    return f"{operation['path'][1:]} is removed"


def _take(values: Any, path: str) -> Any:
    inside, key = _place(values, path)
    return inside.pop(key)


def _place(values: Any, path: str) -> tuple[Any, Any]:
    """What holds a place, and its key in there."""
    keys = [key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:]]
    for key in keys[:-1]:
        values = values[int(key) if isinstance(values, list) else key]
    return values, int(keys[-1]) if isinstance(values, list) else keys[-1]
