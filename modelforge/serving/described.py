"""What the routes take and say, in the words of OpenAPI: for clients and for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from modelforge.serving.asked import ChatAsked, CompletionAsked
from modelforge.serving.heard import Said

_PLACE = "#/components/schemas/{model}"
_BODIES: dict[str, type[BaseModel]] = {
    "/v1/chat/completions": ChatAsked,
    "/v1/completions": CompletionAsked,
    "/v1/feedback": Said,
}
_REFUSALS = {
    400: "What is wrong with the request",
    401: "The server has a key, and the client does not name it",
    404: "No such model or answer",
    413: "The body is too long",
    415: "The body is not called application/json",
    429: "As many requests as may be are in work",
    502: "The engine says what cannot be read",
    503: "The engine does not answer yet, or does not any more",
    504: "No answer in time",
}
_OF_FEEDBACK = (400, 401, 404, 413, 415, 503)
# Each event's data is a piece of an answer or an error as JSON; the last one is [DONE].
_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {}}}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["integer", "string", "null"]},
            },
        }
    },
}
_ANSWER = {
    "type": "object",
    "required": ["id", "object", "created", "model", "choices"],
    "properties": {
        "id": {"type": "string"},
        "object": {"type": "string"},
        "created": {"type": "integer"},
        "model": {"type": "string"},
        "choices": {"type": "array", "items": {"type": "object"}},
        "usage": {"type": "object"},
    },
}


def describe(app: FastAPI, models: Sequence[str], *, locked: bool) -> None:
    """Say in the app's schema what FastAPI cannot see: the routes read their bodies themselves.

    Args:
        app: With all its routes.
        models: As clients call them.
        locked: Whether clients have to name a key.
    """
    said = app.openapi()
    _, found = models_json_schema(
        [(form, "validation") for form in _BODIES.values()], ref_template=_PLACE
    )
    parts = said.setdefault("components", {})
    parts["schemas"] = {**parts.get("schemas", {}), **found["$defs"]}
    parts["schemas"] |= {"Error": _ERROR, "Answer": _ANSWER}
    if locked:
        parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        said["security"] = [{"key": []}]
    for name in (ChatAsked.__name__, CompletionAsked.__name__):
        asked = parts["schemas"][name]
        asked["properties"]["model"] |= {"enum": list(models), "default": models[0]}
        asked["required"].remove("model")  # the first one answers where none is named
    for path, form in _BODIES.items():
        route = said["paths"][path]["post"]
        content = {"application/json": {"schema": _ref(form.__name__)}}
        route["requestBody"] = {"required": True, "content": content}
        answers = form is not Said
        for status in _REFUSALS if answers else _OF_FEEDBACK:
            route["responses"][str(status)] = _refusal(status)
        if answers:
            content = {"application/json": {"schema": _ref("Answer")}}
            route["responses"]["200"]["content"] = content | _STREAM


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _PLACE.format(model=name)}


def _refusal(status: int) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {"description": _REFUSALS[status], "content": content}
