"""Tools that a policy may call and environments that it acts in: found, read, and made.

A tool is a function of the user's; an environment is a class, whose public methods are tools. TRL
renders them in the prompt, calls them, and masks what they say (`GRPOTrainer`'s ``tools`` and
``environment_factory``).
"""

from __future__ import annotations

import ast
import importlib
import inspect
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelforge.common.console import say
from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.rewards.build import load_module
from modelforge.rewards.functions import names_file, names_module, source_of

Tool = Callable[..., Any]

_SOURCE = 'name "file.py:NAME" or "module:NAME"'
_DOCUMENTED = "give each argument a type, and describe it under 'Args:' in the docstring"


def tool_problems(names: Iterable[str], where: str, base_dir: Path) -> Iterator[Problem]:
    """Why the sources do not hold these tools, ``file.py`` (all of it) or ``file.py:function``."""
    for name in names:
        whole = name.endswith(".py")
        found = _definition(f"{name}:" if whole else name, where, base_dir)
        if isinstance(found, Problem):
            yield found
        elif whole and not any(_public(node) for node in found):
            yield Problem(where, f"{name} defines no function", "def tool(...): ...")
        elif not whole and isinstance(found[-1], ast.ClassDef):
            fix = f'set "environment": "{name}" for a class'
            yield Problem(where, f"'{name}' is a class, and a tool is a function", fix)


def environment_problems(name: str, where: str, base_dir: Path) -> Iterator[Problem]:
    """Why the source holds no such environment."""
    found = _definition(name, where, base_dir)
    if isinstance(found, Problem):
        yield found
    elif isinstance(found[-1], ast.FunctionDef | ast.AsyncFunctionDef):
        yield Problem(where, f"'{name}' is a function", "name a class; for a function set tools")


def owns_reward(name: str, base_dir: Path) -> bool:
    """Whether an environment rewards by itself, as far as its source says."""
    found = _definition(name, "", base_dir)
    node = None if isinstance(found, Problem) else found[-1]
    # A class with a base of its own may inherit it: then it is asked once it is made.
    return isinstance(node, ast.ClassDef) and (
        any(getattr(each, "name", "") == "get_reward" for each in node.body) or bool(node.bases)
    )


def load_tools(names: Iterable[str], base_dir: Path) -> list[Tool]:
    """The functions; the user's files are run.

    Raises:
        ConfigError: If one cannot be described to a model.
    """
    found: dict[str, Tool] = {}
    for name in names:
        module, wanted = _loaded(f"{name}:" if name.endswith(".py") else name)(base_dir)
        tools = [getattr(module, wanted)] if wanted else _functions(module)
        for tool in tools:
            _see_described(tool, f"tools: {name}")
            if tool.__name__ in found:
                fix = "rename one of them: a model calls them by name"
                raise ConfigError(Problem("tools", f"two are called '{tool.__name__}'", fix))
            found[tool.__name__] = tool
    return list(found.values())


def load_environment(name: str, base_dir: Path) -> type[Any]:
    """The class; the user's file is run, and one environment is made to try it.

    Raises:
        ConfigError: If it cannot be made, lacks ``reset``, keeps chance of its own, or a method
            cannot be described.
    """
    module, wanted = _loaded(name)(base_dir)
    kind, where = getattr(module, wanted), f"environment: {name}"
    if not inspect.isclass(kind):
        what = f"is {type(kind).__name__}, not a class"
        raise ConfigError(Problem(where, what, f"class {wanted}: ..."))
    try:
        made = kind()
    except Exception as error:  # the user's own
        what = f"cannot be made without arguments: {type(error).__name__}: {error}"
        raise ConfigError(Problem(where, what, "give each argument a default")) from error
    if not callable(getattr(made, "reset", None)):
        fix = "def reset(self, **row): ...  # a text that is added to the prompt, or None"
        raise ConfigError(Problem(where, "has no method reset", fix))
    for key, value in vars(made).items():
        if isinstance(value, random.Random | np.random.Generator | np.random.RandomState):
            what = f"keeps chance of its own ({key}), which a resumed run would begin anew"
            fix = "draw from the module random, or make the generator in reset, from the row"
            raise ConfigError(Problem(where, what, fix))
    for method in methods_of(kind):
        _see_described(method, f"{where}: {method.__name__}")
    return kind


def methods_of(kind: type[Any]) -> list[Tool]:
    """The methods of an environment that a model can call."""
    return [
        function
        for name, function in inspect.getmembers(kind, predicate=inspect.isfunction)
        if not name.startswith("_") and name not in ("reset", "get_reward")
    ]


def call(tools: Mapping[str, Tool], name: str, arguments: Mapping[str, Any]) -> str:
    """What a model is told of a call, as TRL tells it: an error is told too."""
    try:
        if name not in tools:
            raise ValueError(f"Tool {name} not found.")
        return str(tools[name](**arguments))
    except Exception as error:  # whatever the user's code raises is an answer to the model
        return str({"error": str(error)})


def _definition(name: str, where: str, base_dir: Path) -> list[ast.stmt] | Problem:
    """The statements of a source up to the one that binds the name; all of them for no name."""
    if not (names_file(name) or names_module(name)):
        return Problem(where, f"'{name}' names no function or class", _SOURCE)
    path, wanted = source_of(name, base_dir)
    if path is None:
        what = f"no installed module '{name.rpartition(':')[0]}'"
        return Problem(where, what, f"install it, or {_SOURCE}")
    if not path.is_file():
        return Problem(where, f"no such file: {path}", _SOURCE)
    try:
        body = ast.parse(path.read_text(encoding="utf-8"), filename=str(path)).body
    except (SyntaxError, ValueError) as error:
        return Problem(where, f"{path} is not Python: {error}")
    if not wanted:
        return body
    known = {n for node in body for n in _bound(node)}
    if wanted not in known:
        what = f"{path.name} has no '{wanted}'"
        return Problem(where, what, did_you_mean(wanted, sorted(known)))
    last = max(i for i, node in enumerate(body) if wanted in _bound(node))
    return body[: last + 1]


def _bound(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {alias.asname or alias.name for alias in node.names}
    if isinstance(node, ast.Assign):
        return {target.id for target in node.targets if isinstance(target, ast.Name)}
    return set()


def _public(node: ast.stmt) -> bool:
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return isinstance(node, functions) and not node.name.startswith("_")


def _loaded(name: str) -> Callable[[Path], tuple[Any, str]]:
    def load(base_dir: Path) -> tuple[Any, str]:
        path, wanted = source_of(name, base_dir)
        assert path is not None, "was checked"
        say(f"running {path.resolve()} for '{wanted or 'its functions'}', as the config asks")
        if names_module(name):
            return importlib.import_module(name.rpartition(":")[0]), wanted
        return load_module(path.resolve()), wanted

    return load


def _functions(module: Any) -> list[Tool]:
    """The public functions that a file itself defines, in its order."""
    return [
        value
        for key, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not key.startswith("_")
    ]


def _see_described(tool: Any, where: str) -> None:
    """See that a tool can be described to a model.

    Raises:
        ConfigError: If its types or its docstring do not say what it takes.
    """
    from transformers.utils import get_json_schema

    try:
        get_json_schema(tool)
    except Exception as error:  # of several kinds, by version
        what = f"cannot be described to a model: {' '.join(str(error).split())}"
        raise ConfigError(Problem(where, what, _DOCUMENTED)) from None
