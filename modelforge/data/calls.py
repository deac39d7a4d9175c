"""Calls of functions, and the functions that may be called, in the forms people store them.

All become OpenAI's: ``{"type": "function", "function": {"name", "arguments"}}`` with an object of
arguments, and ``{"type": "function", "function": {"name", "description", "parameters"}}``.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

Call = dict[str, Any]

# Hermes, Qwen and others write calls and what they return into the text.
TAGGED = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.DOTALL)
RETURNED = re.compile(r"\s*<tool_response>\s*(.*?)\s*</tool_response>\s*", re.DOTALL)
# An id as Mistral's templates ask for it.
ID = re.compile(r"[A-Za-z0-9]{9}")
ARGUMENTS = ("arguments", "parameters", "input", "args")


def parsed(value: Any) -> Any:
    """The list or object behind JSON text; any other value as it is."""
    if isinstance(value, str) and value.strip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def calls_of(value: Any) -> list[Call] | None:
    """Calls in OpenAI's form, from one call, a list of them, or JSON text; None if it is neither.

    >>> calls_of('{"name": "f", "arguments": "{}"}')
    [{'type': 'function', 'function': {'name': 'f', 'arguments': {}}}]
    """
    value = parsed(value)
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, list) or not listed:
        return None
    calls = list(filter(None, (call_of(parsed(each)) for each in listed)))
    return calls if len(calls) == len(listed) else None


def call_of(value: Any) -> Call | None:
    """One call in OpenAI's form; None if it is no call."""
    if not isinstance(value, Mapping):
        return None
    function = value.get("function")
    function = value if not isinstance(function, Mapping) else function
    name = function.get("name")
    if not isinstance(name, str) or not name:
        return None
    given = (function[key] for key in ARGUMENTS if function.get(key) is not None)
    arguments: Any = next(given, {})
    call: Call = {"type": "function", "function": {"name": name, "arguments": parsed(arguments)}}
    return {"id": value["id"], **call} if isinstance(value.get("id"), str) else call


def split_calls(content: str) -> tuple[str, list[Call]]:
    """Content that ends with tagged calls → what stands before them, and the calls."""
    found = list(TAGGED.finditer(content))
    calls = list(filter(None, (call_of(parsed(mended(match[1]))) for match in found)))
    rest = TAGGED.sub("", content[found[0].start() :]) if found else ""
    if not found or rest.strip() or len(calls) < len(found):
        return content, []
    return content[: found[0].start()].rstrip(), calls


def mended(text: str) -> str:
    """A call as JSON text, also where it is written as Python shows it; any other text as it is."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        try:
            return json.dumps(ast.literal_eval(text), ensure_ascii=False)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return text
    return text


def is_shown_by_python(content: str) -> bool:
    """Whether a tagged call is no JSON, but what Python shows of an object: ``{'name': …}``."""
    return any(mended(match[1]) != match[1] for match in TAGGED.finditer(content))


def returned(content: str) -> str:
    """What a function returned, without the tags around it."""
    match = RETURNED.fullmatch(content)
    return match[1] if match else content


def tools_of(value: Any) -> list[dict[str, Any]] | None:
    """The functions that may be called, in OpenAI's form; None for none.

    Raises:
        ValueError: If it is no list of functions.
    """
    value = parsed(value)
    listed = [value] if isinstance(value, Mapping) else value
    if not listed or (isinstance(listed, str) and not listed.strip()):
        return None
    if not isinstance(listed, list):
        raise ValueError
    return [tool_of(parsed(each)) for each in listed]


def tool_of(value: Any) -> dict[str, Any]:
    """One function in OpenAI's form, also from Anthropic's and from a bare description.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, Mapping):
        raise ValueError
    if isinstance(value.get("function"), Mapping):
        return {"type": "function", **value}
    if not isinstance(value.get("name"), str):
        raise ValueError
    function = {key: each for key, each in value.items() if key not in ("type", "input_schema")}
    if "input_schema" in value:
        function["parameters"] = value["input_schema"]
    return {"type": "function", "function": function}


def with_ids(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages whose calls have ids of nine letters or digits, and whose results name them.

    An id that is so already stays. A result without an id answers the first call that has none.
    """
    numbered: list[dict[str, Any]] = []
    renamed: dict[str, str] = {}
    open_calls: list[str] = []
    count = 0
    for message in messages:
        if "tool_calls" in message:
            calls = []
            for call in message["tool_calls"]:
                count += 1
                own = str(call.get("id", ""))
                name = own if ID.fullmatch(own) else f"call{count:05d}"
                if own:
                    renamed[own] = name
                open_calls.append(name)
                calls.append({**call, "id": name})
            message = {**message, "tool_calls": calls}
        elif message["role"] == "tool":
            name = renamed.get(message.get("tool_call_id", ""), "")
            name = name if name in open_calls else (open_calls or ["call00000"])[0]
            if name in open_calls:
                open_calls.remove(name)
            message = {**message, "tool_call_id": name}
        numbered.append(message)
    return numbered


def as_text(function: Mapping[str, Any]) -> str:
    """The arguments of a call as JSON text."""
    arguments = function["arguments"]
    if isinstance(arguments, str):
        return arguments
    return json.dumps(arguments, ensure_ascii=False)
