"""Anything that can be called as a reward: its name, whether it is awaited, its answers checked."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from modelforge.errors import ConfigError, Problem

RewardFunction = Callable[..., Any]


class StandIn:
    """A reward that says nothing, in the place of one that is not loaded or not trained yet."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, completions: list[Any], **columns: Any) -> list[float]:
        return [0.0] * len(completions)


def name_of(function: Any) -> str:
    """The name that a reward is logged by.

    >>> name_of(functools.partial(len))
    'len'
    """
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", None) or type(function).__name__


def is_async(function: Any) -> bool:
    """Whether a call gives something to await, be it a function's or an object's."""
    while isinstance(function, functools.partial):
        function = function.func
    kinds = (function, type(function).__call__)
    return any(map(inspect.iscoroutinefunction, kinds))


def code_of(function: Any) -> list[Any]:
    """What a reward does, as text: two of the same text give the same scores.

    That is the source of it and what it was made with: a partial's arguments, an object's
    attributes, a closure's variables.
    """
    if isinstance(function, functools.partial):
        bound = [_text(value) for value in (function.args, function.keywords)]
        return [*code_of(function.func), *bound]
    if inspect.isroutine(function):
        owner = getattr(function, "__self__", None)
        of_an_object = [] if owner is None or inspect.ismodule(owner) else code_of(owner)
        return [function.__qualname__, _source(function), _closed_over(function), *of_an_object]
    kind = type(function)
    return [kind.__qualname__, _source(kind), _text(getattr(function, "__dict__", {}))]


def _closed_over(function: Any) -> str:
    try:
        return _text(inspect.getclosurevars(function).nonlocals)
    except TypeError:  # written in C
        return ""


def _source(what: Any) -> str:
    try:
        return inspect.getsource(what)
    except (OSError, TypeError):
        return ""


def _text(value: Any) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def unique(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The names, numbered from the second of the same on: metrics of one name would merge.

    >>> unique(["f", "f", "g"], taken=["g"])
    ['f', 'f_2', 'g_2']
    """
    seen, found = set(taken), []
    for base in names:
        name, number = base, 1
        while name in seen:
            number += 1
            name = f"{base}_{number}"
        seen.add(name)
        found.append(name)
    return found


def checked(
    function: RewardFunction, name: str, *, where: str = "", bound: Mapping[str, Any] | None = None
) -> RewardFunction:
    """The function under this ``__name__``, with arguments bound, its answers seen to be numbers.

    Args:
        function: Any callable; where it is to be awaited, so is the result.
        name: The name of its metrics.
        where: What it is called in messages; by default its name.
        bound: Keyword arguments of each call.
    """
    arguments, where = dict(bound or {}), where or name

    async def reward_later(**kwargs: Any) -> list[float | None]:
        answers = await function(**kwargs, **arguments)
        return _numbers(answers, len(kwargs["completions"]), where)

    def reward(**kwargs: Any) -> list[float | None]:
        answers = function(**kwargs, **arguments)
        return _numbers(answers, len(kwargs["completions"]), where)

    found = reward_later if is_async(function) else reward
    found.__name__ = name
    return found


def _numbers(answers: Any, count: int, name: str) -> list[float | None]:
    """The function's answers as numbers; NaN becomes None, which TRL leaves out."""
    fix = "return a list with one number (or None) for each completion"
    try:
        if isinstance(answers, Mapping | Set | str | bytes):  # of which the keys would count
            raise TypeError
        values = list(answers)
    except TypeError:
        what = f"returned {type(answers).__name__}, not a list"
        raise ConfigError(Problem(name, what, fix)) from None
    if len(values) != count:
        what = f"returned {len(values)} values for {count} completions"
        raise ConfigError(Problem(name, what, fix))
    numbers: list[float | None] = []
    for i, value in enumerate(values):
        try:
            if isinstance(value, str):
                raise TypeError
            number = None if value is None else float(value)
        except (TypeError, ValueError, RuntimeError):
            raise ConfigError(Problem(name, f"value {i} is {value!r}, not a number", fix)) from None
        if number is not None and math.isinf(number):
            raise ConfigError(Problem(name, f"value {i} is not finite: {number}", fix))
        numbers.append(None if number is None or math.isnan(number) else number)
    return numbers
