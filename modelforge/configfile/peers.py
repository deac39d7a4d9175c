"""What other trainers call the keys of a config: ``configs/peers``, one table a project.

A table names each key of theirs in one of these classes:

=============  ================================================================================
``renamed``    another name for the same: theirs → ours
``valued``     another name, and a value for each of theirs: theirs → [ours, {value: value}]
``converted``  what a function of `modelforge.importing` converts: theirs → [function, in words]
``unneeded``   what needs no counterpart: why → keys
``lost``       what has no counterpart, and changes the result: why → keys
``refused``    what makes the whole config one of a kind that is not trained here: kind → keys
``by_hand``    what only its user can say here: theirs → in words
=============  ================================================================================

A key in none of them that is a key here too is the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from modelforge.common.patch import Patch, drop, put, rename

#: The tables, in the order in which they are asked.
PROJECTS = (
    *("llamafactory", "axolotl", "trl", "handbook", "swift", "torchtune", "unsloth", "sections"),
)
# Functions that convert a value's form, where it has another; its meaning is the same.
_SAME = ("model", "epochs", "modules", "whole_length")
# What a recognised file must show at least: marks that no other project has count whole.
_SURE = 1.5


@dataclass(frozen=True)
class Table:
    """How one project's keys are said here; the classes are those of the module's docstring.

    Attributes:
        name: The project's name.
        marks: Keys that tell its files.
        sections: Sections whose keys stand for themselves.
        defaults: What the project has where its file is silent: for all files, for those that
            train LoRA (``lora``), and for those of a strategy.
        trl_defaults: Keys whose default is that of TRL's config class.
    """

    name: str
    marks: frozenset[str]
    sections: frozenset[str]
    renamed: Mapping[str, str]
    valued: Mapping[str, tuple[str, Mapping[str, Any]]]
    converted: Mapping[str, tuple[str, str]]
    unneeded: Mapping[str, str]
    lost: Mapping[str, str]
    refused: Mapping[str, str]
    by_hand: Mapping[str, str]
    defaults: Mapping[str, Mapping[str, Any]]
    trl_defaults: tuple[str, ...] = ()

    def advice(self, key: str) -> str:
        """What to set in place of a key, or why to remove it; empty for one it does not have."""
        theirs = [(self.renamed, 0), (self.valued, 1), (self.converted, 2), (self.by_hand, 0)]
        for among, kind in theirs:
            if key in among:
                found: Any = among[key]
                words = found if kind == 0 else found[kind - 1]
                return f"here it is {words}" if words else ""
        for reasons in (self.unneeded, self.lost, self.refused):
            if key in reasons:
                return f"remove it: {reasons[key]}"
        return ""

    def patch(self, key: str, values: Mapping[str, Any]) -> Patch:
        """What says the same here; empty where that is not sure."""
        function, words = self.converted.get(key, ("", ""))
        ours = words if function in _SAME else self.renamed.get(key, "")
        if ours and ours.isidentifier() and ours not in values:
            return rename([key], ours)
        ours, meant = self.valued.get(key, ("", {}))
        value = meant.get(str(values[key]).lower())
        if value is not None and ours.isidentifier() and ours not in values:
            return (*rename([key], ours), *put([ours], value))
        return drop([key]) if key in self.unneeded else ()


@cache
def table(project: str) -> Table:
    """The table of a project, over the one that it is like."""
    text = files("modelforge.configs").joinpath(f"peers/{project}.json").read_text("utf-8")
    raw: dict[str, Any] = json.loads(text)
    parent = table(raw["like"]) if "like" in raw else None
    own = {
        **{key: raw.get(key, {}) for key in ("renamed", "valued", "converted", "by_hand")},
        **{
            kind: {key: why for why, keys in raw.get(kind, {}).items() for key in keys}
            for kind in ("unneeded", "lost", "refused")
        },
    }
    said = {key for entries in own.values() for key in entries}
    merged = {
        kind: {k: v for k, v in (getattr(parent, kind) if parent else {}).items() if k not in said}
        | entries
        for kind, entries in own.items()
    }
    defaults = dict(parent.defaults) if parent else {}
    for kind, values in raw.get("defaults", {}).items():
        defaults[kind] = {**defaults.get(kind, {}), **values}
    return Table(
        name=raw["name"],
        marks=frozenset(raw.get("marks", ())),
        sections=frozenset(raw.get("sections", ())),
        defaults=defaults,
        trl_defaults=tuple(raw.get("trl_defaults", parent.trl_defaults if parent else ())),
        **merged,
    )


def advice(key: str) -> str:
    """What to set in place of another trainer's key; empty for a key that none has."""
    return next((told for name in PROJECTS if (told := table(name).advice(key))), "")


def advised(key: str, values: Mapping[str, Any]) -> tuple[str, Patch]:
    """The same, and the patch that does it where the value means the same here.

    Args:
        key: Another trainer's.
        values: Of the config that has it.
    """
    for name in PROJECTS:
        if told := (theirs := table(name)).advice(key):
            return told, theirs.patch(key, values)
    return "", ()


def leaves(values: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its dotted name; lists and empty sections are values."""
    for key, value in values.items():
        name = f"{within}.{key}" if within else str(key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, name)
        else:
            yield name, value


def recognise(values: Mapping[str, Any]) -> list[tuple[str, float, list[str]]]:
    """Which projects a file may be of: each with its weight and its marks, likeliest first."""
    names = {*values}
    for name, _ in leaves(values):
        names |= {name.rpartition(".")[2], name.partition(".")[0]}
    found = []
    for project in PROJECTS:
        marks = sorted(table(project).marks & names)
        weight = sum(1 / len(_families(mark)) for mark in marks)
        if marks:
            found.append((project, weight, marks))
    return sorted(found, key=lambda each: -each[1])


@cache
def _families(mark: str) -> frozenset[str]:
    """The projects that have a mark; one that is like another counts with it."""
    having = [project for project in PROJECTS if mark in table(project).marks]
    return frozenset("trl" if project == "handbook" else project for project in having)


def project_of(values: Mapping[str, Any]) -> str | None:
    """The name of the project that a config without our keys is of, where that is plain."""
    if "strategy" in values:
        return None
    found = recognise(values)
    if found and (found[0][1] >= _SURE or ("model_name" not in values and found[0][1] > 0.5)):
        return table(found[0][0]).name
    return None
