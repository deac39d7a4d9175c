"""Which texts of a config may name a file or folder: the type of their field says it.

A field of the type ``LocalText`` may name something beside the config (a model, data, a reward's
file), and one of the type ``HereText`` a folder in the working folder (where runs go). Both are
plain texts to pydantic and in the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel


@dataclass(frozen=True)
class IsPath:
    """Marks a text that may be a path.

    Attributes:
        beside_config: Whether a relative one is looked up beside the config first.
        model: What messages call the model that it names; empty where it names none, or one that
            is read before anything else.
    """

    beside_config: bool
    model: str = ""


@dataclass(frozen=True)
class KeysOf:
    """Marks a section that is kept as a dict, whose keys are those of another strategy.

    Attributes:
        strategy: Its name; the JSON Schema takes the keys from there.
        model: The keys among them that may be paths stand in this model.
        without: Keys that cannot stand in the section.
    """

    strategy: str
    model: type[BaseModel]
    without: tuple[str, ...] = ()


LocalText = Annotated[str, IsPath(beside_config=True)]
HereText = Annotated[str, IsPath(beside_config=False)]


class Place(NamedTuple):
    """A text of a config that may be a path.

    Attributes:
        key: Where it stands: ``dataset[0].path``.
        text: What it says.
        beside_config, model: As its field's type says.
    """

    key: str
    text: str
    beside_config: bool
    model: str = ""


def change_paths(
    model: type[BaseModel],
    values: Mapping[str, Any],
    change: Callable[[Place], str],
    *,
    within: str = "",
) -> dict[str, Any]:
    """The values with each text that may be a local path replaced.

    Args:
        model: Whose fields the values are. Keys it does not know stay as they are.
        values: Plain JSON, checked or not: a value of another type than its field's stays.
        change: Called with each such text; what it gives stands in the text's place.
        within: The section that the values are, for the places.
    """
    changed = dict(values)
    for key, field in model.model_fields.items():
        if key in changed:
            place = f"{within}.{key}" if within else key
            changed[key] = _changed(
                field.annotation, tuple(field.metadata), changed[key], change, place
            )
    return changed


def paths_in(model: type[BaseModel], values: Mapping[str, Any]) -> Iterator[Place]:
    """Every text of the values that may be a local path."""
    found: list[Place] = []

    def note(place: Place) -> str:
        found.append(place)
        return place.text

    change_paths(model, values, note)
    return iter(found)


def _changed(
    kind: Any, marks: tuple[Any, ...], value: Any, change: Callable[[Place], str], key: str
) -> Any:
    """A value whose field has this annotation and these marks."""
    if hasattr(kind, "__metadata__"):  # Annotated[...]
        return _changed(kind.__origin__, (*marks, *kind.__metadata__), value, change, key)
    path = next((mark for mark in marks if isinstance(mark, IsPath)), None)
    if path is not None and isinstance(value, str):
        return change(Place(key, value, path.beside_config, path.model))
    section = next((mark.model for mark in marks if isinstance(mark, KeysOf)), kind)
    if isinstance(section, type):
        if issubclass(section, BaseModel) and isinstance(value, Mapping):
            return change_paths(section, value, change, within=key)
        return value
    forms = get_args(kind)
    if get_origin(kind) is list:
        if not isinstance(value, list):
            return value
        return [_changed(forms[0], (), v, change, f"{key}[{i}]") for i, v in enumerate(value)]
    for form in forms:  # of a union: those that the value has not leave it as it is
        changed = _changed(form, (), value, change, key)
        if changed != value:
            return changed
    return value


def find_path(
    text: str, base_dir: Path, *, wanted: Callable[[Path], bool] = Path.exists
) -> Path | None:
    """The file or folder of that name beside the config or in the working folder, if any.

    Args:
        text: A path, absolute or not; ``~`` is the user's home.
        base_dir: The config's folder.
        wanted: What it must be.
    """
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~user, and there is no such user
        return None
    for candidate in (base_dir / path, path):
        try:
            if wanted(candidate):
                return candidate.resolve()
        except (OSError, ValueError):  # too long, or holding NUL
            continue
    return None


def file_of(text: str) -> str:
    """The path in a text that may be a function of a file: ``file.py:function``."""
    return text.rpartition(":")[0] if ".py:" in text else text


def absolute(model: type[BaseModel], values: Mapping[str, Any], base_dir: Path) -> dict[str, Any]:
    """The values with each path beside the config made absolute, where something lies there."""

    def change(place: Place) -> str:
        file = file_of(place.text)
        path = find_path(file, base_dir) if place.beside_config else None
        return place.text if path is None else f"{path}{place.text.removeprefix(file)}"

    return change_paths(model, values, change)
