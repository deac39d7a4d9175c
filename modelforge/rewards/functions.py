"""A user's own function, ``file.py:function`` or ``module:function``: found and read, never run."""

from __future__ import annotations

import ast
import importlib.util
import re
from importlib.machinery import PathFinder
from pathlib import Path

from modelforge.errors import Problem, did_you_mean

_FILE = re.compile(r"\.py:[^:/\\]*$")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^:/\\]*")


def names_file(name: str) -> bool:
    """Whether it has the form ``path.py:function``."""
    return _FILE.search(name) is not None


def names_module(name: str) -> bool:
    """Whether it has the form ``package.module:function``."""
    return not names_file(name) and _MODULE.fullmatch(name) is not None


def source_of(name: str, base_dir: Path) -> tuple[Path | None, str]:
    """The source file and the function's name; no file where no such module is installed."""
    place, _, function = name.rpartition(":")
    return (base_dir / place if names_file(name) else _module_file(place)), function


def function_problem(name: str, where: str, base_dir: Path) -> Problem | None:
    """Why the source holds no function that can be called as TRL calls it; None where it does."""
    path, function = source_of(name, base_dir)
    if path is None:
        what = f"no installed module '{name.rpartition(':')[0]}'"
        return Problem(where, what, "install it, or give file.py:function")
    if not path.is_file():
        return Problem(where, f"no such file: {path}")
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (SyntaxError, ValueError) as error:
        return Problem(where, f"{path} is not Python: {error}")
    node = _find(tree, function)
    if node is None:
        known = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        what = f"{path.name} has no function '{function}'"
        return Problem(where, what, did_you_mean(function, known))
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return None  # a name bound by assignment or import: its signature is known once it runs
    if node.args.kwarg is None:
        what = f"'{function}' must take **kwargs: it is given every column of the data and more"
        return Problem(where, what, f"def {function}(completions, **kwargs): ...")
    return None


def required_names(name: str, base_dir: Path) -> set[str]:
    """The arguments that the function cannot be called without, as far as its source says."""
    path, function = source_of(name, base_dir)
    assert path is not None, "was checked"
    node = _find(ast.parse(path.read_text(encoding="utf-8")), function)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return set()
    positional = [*node.args.posonlyargs, *node.args.args]
    without_default = positional[: len(positional) - len(node.args.defaults)]
    keyword_only = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    return {a.arg for a in without_default} | {a.arg for a, d in keyword_only if d is None}


def may_log(name: str, base_dir: Path) -> bool:
    """Whether the function may log figures of its own, by ``log_metric``, as far as can be read."""
    path, function = source_of(name, base_dir)
    assert path is not None, "was checked"
    source = path.read_text(encoding="utf-8")
    imported = isinstance(_find(ast.parse(source), function), ast.Import | ast.ImportFrom)
    return imported or "log_metric" in source


def _module_file(module: str) -> Path | None:
    """Where a module's source lies. Neither it nor a package around it is imported."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a running script has no spec
        return None
    for depth in range(len(inner)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = ".".join([top, *inner[: depth + 1]])
        spec = PathFinder.find_spec(name, spec.submodule_search_locations)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _find(tree: ast.Module, name: str) -> ast.stmt | None:
    """The top-level statement of the source that binds ``name``, the last one as Python would."""
    found = None
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = {node.name}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            bound = {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign):
            bound = {target.id for target in node.targets if isinstance(target, ast.Name)}
        else:
            continue
        found = node if name in bound else found
    return found
