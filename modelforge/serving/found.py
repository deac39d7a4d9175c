"""What the user wants served: runs, folders, GGUF files and engines that run elsewhere."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from modelforge.constraints import Constraints
from modelforge.constraints.of_a_run import beside, of_recorded
from modelforge.errors import ModelError, Problem, RunError
from modelforge.inference.trained import find_trained
from modelforge.serving.engines import Engine, of_gguf, of_runs, of_url

_ABOUT = "export.json"


def engines_of(said: Sequence[str], size: int, constraints: str | None = None) -> list[Engine]:
    """An engine for each GGUF and each address, and one for everything else.

    Args:
        said: Each a run, a folder, a hub id, a GGUF file or an address; ``NAME=`` before it is what
            clients call it.
        size: The most requests that an engine works on at once.
        constraints: A file of what all of them are held to, or ``none``; by default each run to
            those that it was trained with.

    Raises:
        UserError: If one cannot be served, or two have one name.
    """
    engines: list[Engine] = []
    runs: dict[str, str] = {}
    held: dict[str, Constraints] = {}
    for each in said:
        name, place = _named(each)
        if place.startswith(("http://", "https://")):
            engines.append(_elsewhere(place, name))
            continue
        path = Path(place)
        gguf = path if path.suffix == ".gguf" else path / "model.gguf"
        if gguf == path and not path.exists():
            raise ModelError(Problem(place, "is not there", "name a GGUF file"))
        if gguf.is_file():
            _needs("xllamacpp", gguf)
            _needs("gguf", gguf)
            engine = of_gguf(name or _called(path), gguf, size)
            own = of_recorded(beside(gguf.parent), constraints, said=place)
            engines.append(engine if own is None else _held_to(engine, own))
            continue
        found = find_trained(place)
        name = name or (_called(path) if (path / _ABOUT).is_file() else found.name)
        if name in runs:
            raise _twice(name)
        runs[name] = place
        if (own := of_recorded(found.recorded, constraints, said=place)) is not None:
            held[name] = own
    everywhere = of_recorded({}, constraints, said="")
    if everywhere is not None:
        engines = [_held_to(engine, everywhere) for engine in engines]
    if runs:
        engines.insert(0, of_runs(runs, size, held))
    for own in {id(c): c for engine in engines for c in engine.constraints.values()}.values():
        own.load()
    names = [name for engine in engines for name in engine.models]
    for name in names:
        if names.count(name) > 1:
            raise _twice(name)
    return engines


def _held_to(engine: Engine, constraints: Constraints) -> Engine:
    """An engine whose models are all held to these constraints."""
    return replace(engine, constraints=dict.fromkeys(engine.models, constraints))


def _named(said: str) -> tuple[str | None, str]:
    name, equals, place = said.partition("=")
    if equals and name and "/" not in name and place:
        return name, place
    return None, said


def _called(path: Path) -> str:
    """An export's model, from what lies in it; else the file's or folder's own name."""
    about = path / _ABOUT
    if about.is_file():
        try:
            return Path(str(json.loads(about.read_text(encoding="utf-8"))["model"])).name
        except (ValueError, KeyError, TypeError):
            pass
    return path.stem if path.suffix == ".gguf" else path.resolve().name


def _twice(name: str) -> RunError:
    fix = "write NAME=PATH to call one of them otherwise"
    return RunError(Problem(name, "is the name of two models", fix))


def _needs(package: str, gguf: Path) -> None:
    if importlib.util.find_spec(package) is None:
        fix = f"run `pip install {package}`, or serve the run itself"
        raise RunError(Problem(str(gguf), f"needs {package}, which is not installed", fix))


def _elsewhere(url: str, name: str | None) -> Engine:
    import httpx

    try:
        found = of_url(url.rstrip("/").removesuffix("/v1"))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        fix = "start it first; MODELFORGE_ENGINE_KEY holds its key, where it wants one"
        said = (str(error) or type(error).__name__).splitlines()[0]
        what = f"does not say which models it serves: {said}"
        raise ModelError(Problem(url, what, fix)) from None
    if name is None and found.models:
        return found
    if len(found.models) != 1:
        models = ", ".join(found.models) or "no model"
        fix = "leave NAME= out" if found.models else "load a model there first"
        raise ModelError(Problem(url, f"serves {models}", fix))
    return replace(found, models={str(name): own for own in found.models.values()})
