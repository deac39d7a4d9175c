"""A config of another trainer while it is carried over, and what became of each of its keys."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from modelforge.configfile.peers import Table, leaves
from modelforge.errors import ConfigError, Problem

Became = Literal["kept", "renamed", "changed", "written", "unneeded", "silent", "lost", "open"]
# How many folders above a file are searched for the data that it names.
_UP = 5


@dataclass(frozen=True)
class Line:
    """What became of a key.

    Attributes:
        theirs: The key in their file, dotted; empty for a value that their default says.
        value: Its value there.
        became: ``kept`` and ``renamed`` mean the same; ``changed`` was converted; ``written`` is a
            default of theirs; ``unneeded`` and ``silent`` change nothing; ``lost`` changes the
            result; ``open`` is for the user to settle.
        ours: The key here.
        result: Its value here.
        note: Why, or what to know.
    """

    theirs: str
    value: Any
    became: Became
    ours: str = ""
    result: Any = None
    note: str = ""


@dataclass
class Theirs:
    """Their values, ours as far as they are known, and a line for each key.

    Attributes:
        values: As in the file.
        table: Of their project.
        path: The file.
        target: The folder that our config will stand in: local paths are relative to it.
        command: What the file says on its command line, such as ``("swift", "rlhf")``.
        strategy: What trains it here.
        ours: Our config.
        lines: What became of their keys.
        files: Files that our config needs beside it: name → text.
        within: The section of ours that the keys stand in, with a dot: those of a stage.
        version: The version of their project, where its defaults are others; empty else.
    """

    values: Mapping[str, Any]
    table: Table
    path: Path
    target: Path
    command: tuple[str, ...] = ()
    strategy: str = ""
    ours: dict[str, Any] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    within: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        self.leaves = dict(leaves(self.values))

    def find(self, *names: str) -> tuple[str, Any]:
        """The first of these keys that the file has, at the top or in a section, and its value."""
        for name in names:
            if name in self.leaves:
                return name, self.leaves[name]
            if isinstance(self.values.get(name), Mapping):
                return name, self.values[name]
            for dotted, value in self.leaves.items():
                if dotted.endswith(f".{name}"):
                    return dotted, value
        return "", None

    def at(self, place: str) -> Any:
        """The value at a place such as ``datasets[0].type``; of ``datasets[].type`` the first."""
        if place in self.leaves:
            return self.leaves[place]
        value: Any = self.values
        for name, index in re.findall(r"([^.\[\]]+)|\[(\d*)\]", place):
            if not name and isinstance(value, str):
                value = [part.strip() for part in value.split(",")]  # a list of names, as text
            try:
                value = value[name] if name else value[int(index or 0)]
            except (KeyError, IndexError, TypeError):
                return self.find(place)[1]
        return value

    def get(self, *names: str, otherwise: Any = None) -> Any:
        """The value of the first of these keys that says something."""
        for name in names:
            value = self.find(name)[1]
            if value is not None:
                return value
        return otherwise

    def put(self, key: str, value: Any, ours: str, result: Any, note: str = "") -> None:
        """Set a key of ours (``a.b`` reaches into a section) from one of theirs."""
        ours = self.within + ours
        before = self.said(ours)
        if before is None:
            place, names = self.ours, ours.split(".")
            for name in names[:-1]:
                place = place.setdefault(name, {})
            place[names[-1]] = result
        elif before != result:
            self.lose(key, f"{ours} is {before!r} already, by another key")
            return
        same = key.rpartition(".")[2] == ours
        if note or value != result:
            became: Became = "changed"
        else:
            became = "kept" if same else "renamed"
        self.lines.append(Line(key, value, became, ours, result, note))

    def said(self, ours: str) -> Any:
        """What our config says of a key so far; None where it is silent."""
        value: Any = self.ours
        for name in ours.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        return value

    def changed(self, key: str, note: str, ours: str = "", result: Any = None) -> None:
        """A key whose meaning other keys of ours carry."""
        self.lines.append(Line(key, self.at(key), "changed", ours, result, note))

    def leave(self, key: str, why: str) -> None:
        """A key that needs no counterpart."""
        self.lines.append(Line(key, self.at(key), "unneeded", note=why))

    def lose(self, key: str, why: str) -> None:
        """A key that has no counterpart; one that is off says nothing."""
        value = self.at(key)
        became: Became = "lost" if says_something(value) else "silent"
        self.lines.append(Line(key, value, became, note=why if became == "lost" else ""))

    def open(self, key: str, what: str, ours: str = "", result: Any = None) -> None:
        """What the user is to settle."""
        self.lines.append(Line(key, self.at(key), "open", ours, result, what))

    def told(self, key: str) -> bool:
        """Whether a line says what became of a key, of a part of it, or of what it stands in."""
        return any(
            line.theirs == key
            or line.theirs.startswith((f"{key}.", f"{key}["))
            or key.startswith((f"{line.theirs}.", f"{line.theirs}["))
            for line in self.lines
            if line.theirs
        )

    def refuse(self, key: str, kind: str, fix: str = "") -> NoReturn:
        """A config of a kind that is not trained here.

        Raises:
            ConfigError: Always.
        """
        where = f"{self.path.name}: {key}" if key else self.path.name
        raise ConfigError(Problem(where, kind, fix))

    def local(self, text: str) -> Path | None:
        """The file or folder that a text of theirs names: beside it, above it, or here."""
        if not text or text.startswith(("http://", "https://", "s3://", "gs://")):
            return None
        named = Path(text).expanduser()
        folders = [Path.cwd(), self.path.resolve().parent]
        folders += list(self.path.resolve().parents)[1:_UP]
        for folder in folders:
            if (folder / named).exists():
                return folder / named
        return None

    def place(self, text: str) -> str:
        """The same path as our config will say it; a hub id stays."""
        found = self.local(text)
        if found is None:
            return text
        if Path(text).is_absolute():
            return text
        return os.path.relpath(found.resolve(), self.target.resolve())


def says_something(value: Any) -> bool:
    """Whether a value asks for anything: null, false, 0 and empty ones do not."""
    return value not in (None, False, 0, "", "none", "null", "no", "false") and value not in (
        [],
        {},
    )


def listed(value: Any) -> list[Any]:
    """A list of what is written as a list, or in a text with commas or blanks between."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part for part in value.replace(",", " ").split() if part]
    return list(value) if isinstance(value, list | tuple) else [value]


def whole(value: Any, otherwise: int) -> int:
    """A whole number; for a value that is none another, since the config's own checks refuse it."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
