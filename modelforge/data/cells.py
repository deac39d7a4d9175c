"""One cell's value as the text that stands for it in a prompt or an answer."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from typing import Any

EXACT = (
    2**53
)  # whole floats up to here are written out as whole numbers; beyond, digits are made up


def is_empty(value: Any) -> bool:
    """Whether a cell says nothing: missing, blank text, NaN, or an empty structure."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, list | dict) and not value)


def written(value: Any) -> str | None:
    """A single value as text; None for what is none.

    Numbers are written out (10.0 as 10), truth values as JSON has them, dates as ISO 8601 has them.

    >>> [written(value) for value in (7, 2.0, True, datetime.date(2024, 5, 1), [7])]
    ['7', '2', 'true', '2024-05-01', None]
    """
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) <= EXACT:
        return str(int(value))
    if isinstance(value, int | float | Decimal):
        return str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if isinstance(value, datetime.timedelta) else None


def written_out(value: Any) -> str | None:
    """A value as text, lists and objects as JSON; None for what has no text, such as bytes."""
    if not isinstance(value, list | dict):
        return written(value)
    try:
        return json.dumps(value, ensure_ascii=False, default=_inside)
    except (TypeError, ValueError, RecursionError):
        return None


def _inside(value: Any) -> str:
    text = written(value)
    if text is None:
        raise TypeError(type(value).__name__)
    return text


def texts_of(value: Any) -> Any:
    """The texts of an answer or a message that is stored with more beside them; else the value.

    SQuAD has lists of texts and of their places, others a list of objects with a text each. DROP
    has spans: several different ones are one answer together, or each of them is one, so that
    nothing is taken of them.
    """
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return value["text"]
    if isinstance(value, dict) and isinstance(value.get("spans"), list):
        return value["spans"][:1] if len({*map(str, value["spans"])}) == 1 else value
    objects = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    if objects and value and all(isinstance(item.get("text"), str) for item in value):
        return [item["text"] for item in value]
    return value
