"""Entries of ``constraints``: read from a config or a file, and seen to say one thing each."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelforge.common.constraint import ConstraintEntry
from modelforge.common.files import read_json
from modelforge.common.paths import find_path
from modelforge.constraints.rules import (
    Banned,
    Longest,
    Pattern,
    PlaceRule,
    Required,
    RequiredPattern,
    Rule,
    Scripts,
    Shortest,
)
from modelforge.errors import ConfigError, Problem, did_you_mean

#: The keys of which an entry has one.
RULES = (
    *("banned", "required", "pattern", "required_pattern", "min_characters", "max_characters"),
    *("min_words", "max_words", "scripts", "classifier", "judge"),
)
#: Those that a model decides.
BY_MODEL = ("classifier", "judge")
_REPLACED = ("banned", "pattern", "scripts")
_PLACES = (*_REPLACED, "max_characters", "max_words")
# Keys that say how a rule is meant → the rules that look at them.
_HOW = {
    "ignore_case": ("banned", "required", "pattern", "required_pattern"),
    "whole_words": ("banned", "required"),
    "label": ("classifier",),
    "threshold": BY_MODEL,
    "question": ("judge",),
    "judge_model": ("judge",),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
URL = ("http://", "https://")
#: What stands in the place of what is taken out, where the entry does not say.
REPLACEMENT = {"scripts": "?"}
_REMOVED = "[removed]"
#: What is answered in place of what is blocked, where the entry does not say.
MESSAGE = "I cannot answer that."
_SIDES = {"input": {"input"}, "output": {"output"}, "both": {"input", "output"}}


def rule_of(entry: ConstraintEntry) -> str:
    """The key that says what the entry wants; empty for one that has a critique alone."""
    return next((key for key in RULES if getattr(entry, key) is not None), "")


def replacement_of(entry: ConstraintEntry) -> str:
    """What `rewrite` puts in the place of what it takes out."""
    kind = rule_of(entry)
    if kind not in _REPLACED:
        return ""
    given = entry.replacement
    return REPLACEMENT.get(kind, _REMOVED) if given is None else given


def _cuts(entry: ConstraintEntry) -> bool:
    """Whether all that it ends are answers at a place: then no message is given."""
    return rule_of(entry) in _PLACES and entry.on == "output"


def _message(entry: ConstraintEntry) -> str:
    """What is given in place of what is blocked; empty where nothing is."""
    blocks = rule_of(entry) and entry.action == "block" and not _cuts(entry)
    return entry.message or MESSAGE if blocks else ""


def plain_rule(entry: ConstraintEntry) -> Rule:
    """The rule of an entry that no model decides.

    Raises:
        ValueError: If its pattern or its script is none.
    """
    kind = rule_of(entry)
    value: Any = getattr(entry, kind)
    if kind in ("banned", "required"):
        ignore = True if entry.ignore_case is None else entry.ignore_case
        made: Any = Banned if kind == "banned" else Required
        found: Rule = made(value, ignore_case=ignore, whole_words=bool(entry.whole_words))
        return found
    if kind in ("pattern", "required_pattern"):
        made = Pattern if kind == "pattern" else RequiredPattern
        found = made(value, ignore_case=bool(entry.ignore_case))
        return found
    if kind == "scripts":
        return Scripts(value)
    words = kind.endswith("words")
    return Shortest(value, words) if kind.startswith("min") else Longest(value, words=words)


def read_entries(path: Path) -> list[ConstraintEntry]:
    """The entries of a JSON file: a list, or a config that holds one under ``constraints``.

    Raises:
        ConfigError: With everything that is wrong with it.
    """
    found = read_json(path)
    if isinstance(found, Mapping) and isinstance(found.get("constraints"), list):
        found = found["constraints"]
    if not isinstance(found, list) or not found:
        fix = 'write [{"name": "no cake", "banned": ["cake"]}]'
        raise ConfigError(Problem(str(path), "holds no list of constraints", fix))
    return typed(found, where=str(path))


def typed(given: Sequence[Any], *, where: str) -> list[ConstraintEntry]:
    """The entries in their types.

    Raises:
        ConfigError: With every key that is none, and every value that is of another type.
    """
    entries, problems = [], []
    for number, each in enumerate(given):
        here = f"{where}[{number}]"
        if isinstance(each, ConstraintEntry):
            entries.append(each)
            continue
        if not isinstance(each, Mapping):
            problems.append(Problem(here, "is no object", 'write {"name": …, "banned": […]}'))
            continue
        try:
            entries.append(ConstraintEntry.model_validate(dict(each), strict=True))
        except ValidationError as error:
            problems += [_told(here, found) for found in error.errors()]
    if problems:
        raise ConfigError(*problems)
    return entries


def _told(here: str, found: Any) -> Problem:
    """One of pydantic's findings in the user's words."""
    key = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        what = "is no key of a constraint"
        return Problem(f"{here}.{key}", what, did_you_mean(key, ConstraintEntry.model_fields))
    if found["type"] == "missing":
        return Problem(f"{here}.{key}", "is missing", "say what it is called in figures")
    what, fix = f"is {found['input']!r}", f"{found['msg'][:1].lower()}{found['msg'][1:]}"
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        names = re.findall(r"'(\w+)'", str(found["ctx"]["expected"]))
        fix = did_you_mean(found["input"], names)
    return Problem(f"{here}.{key}", what, fix)


def problems_of(
    entries: Sequence[ConstraintEntry], *, where: str, base_dir: Path, in_file: bool = False
) -> list[Problem]:
    """Everything in the entries that cannot hold, or would change nothing.

    Args:
        entries: In their types.
        where: What messages call them.
        base_dir: Where relative paths begin.
        in_file: Whether they stand in a file, whose critiques `feedback pairs` reads.
    """
    found = []
    names = [entry.name for entry in entries]
    for number, entry in enumerate(entries):
        here = f"{where}[{number}]"
        if names.index(entry.name) < number:
            found.append(Problem(f"{here}.name", f"'{entry.name}' stands twice", "name each once"))
        found += _of_one(entry, here, base_dir, in_file=in_file)
    return found or _put_back(entries, where)


def _of_one(
    entry: ConstraintEntry, here: str, base_dir: Path, *, in_file: bool
) -> Iterator[Problem]:
    rules = [key for key in RULES if getattr(entry, key) is not None]
    asks = [key for key in ("critique", "revision") if getattr(entry, key) is not None]
    if asks and not in_file:
        fix = "remove it, or put it into a file for `feedback pairs --principles`"
        yield Problem(f"{here}.{asks[0]}", "has no effect in a config", fix)
    if len(asks) == 1:
        other = "revision" if asks == ["critique"] else "critique"
        yield Problem(f"{here}.{other}", f"is missing, and {asks[0]} is there", "say both")
    if len(rules) > 1:
        fix = "write an entry for each"
        yield Problem(here, f"holds {' and '.join(rules)}: an entry is one rule", fix)
        return
    if not rules:
        if not (asks and in_file):
            yield Problem(here, "says no rule", f"add one of {', '.join(RULES)}")
        return
    kind = rules[0]
    yield from _idle(entry, kind, here)
    if kind in BY_MODEL:
        yield from _model(entry, kind, here, base_dir)
        return
    try:
        plain_rule(entry)
    except ValueError as error:
        yield Problem(f"{here}.{kind}", str(error), "mend it")


def _idle(entry: ConstraintEntry, kind: str, here: str) -> Iterator[Problem]:
    """Keys that would change nothing here."""
    said = {key for key in ConstraintEntry.model_fields if getattr(entry, key) is not None}
    for key, rules in _HOW.items():
        if key in said and kind not in rules:
            fix = f"remove it: it is for {' and '.join(rules)}"
            yield Problem(f"{here}.{key}", f"has no effect on {kind}", fix)
    if entry.action == "rewrite" and kind not in _PLACES:
        what = f"is rewrite, and {kind} points at no place that could be replaced"
        yield Problem(f"{here}.action", what, "set block, warn or log")
    if "replacement" in said and (entry.action != "rewrite" or kind not in _REPLACED):
        what = f"has no effect: {kind} with {entry.action} replaces nothing"
        yield Problem(f"{here}.replacement", what, "remove it, or set action to rewrite")
    if "message" in said and (entry.action != "block" or _cuts(entry)):
        what = "has no effect: no answer is replaced as a whole"
        if entry.action == "block":
            what = f"has no effect: {kind} ends an answer at its place, and what is before stands"
        yield Problem(f"{here}.message", what, "remove it")


def _model(entry: ConstraintEntry, kind: str, here: str, base_dir: Path) -> Iterator[Problem]:
    """Whether a model can be where the entry says, and is asked something."""
    name = str(getattr(entry, kind))
    address = kind == "judge" and name.startswith(URL)
    if kind == "judge":
        if entry.question is None:
            what, fix = "is missing", 'ask what breaks it: "Does the answer give medical advice?"'
            yield Problem(f"{here}.question", what, fix)
        if address and entry.judge_model is None:
            yield Problem(f"{here}.judge_model", "is missing", "name the model at that address")
        if entry.judge_model is not None and not address:
            yield Problem(f"{here}.judge_model", "has no effect", "it names an endpoint's model")
    folder = None if address else find_path(name, base_dir)
    if address or (folder is not None and folder.is_dir()):
        return
    hub = _HUB_ID.fullmatch(name) and not (base_dir / name.split("/")[0]).is_dir()
    if folder is not None or not hub:
        yield Problem(f"{here}.{kind}", f"no such folder: {name}", "name a folder or a hub id")


def _put_back(entries: Sequence[ConstraintEntry], where: str) -> list[Problem]:
    """What would put in a place what another entry (or the same) takes out."""
    problems = []
    rules = [
        (entry, plain_rule(entry))
        for entry in entries
        if rule_of(entry) in _REPLACED and entry.action in ("block", "rewrite")
    ]
    for number, entry in enumerate(entries):
        rewrites = entry.action == "rewrite"
        said = replacement_of(entry) if rewrites else _message(entry)
        key = "replacement" if rewrites else "message"
        for other, rule in rules:
            assert isinstance(rule, PlaceRule)
            sides = _SIDES[entry.on] if rewrites else _SIDES["output"]
            if said and sides & _SIDES[other.on] and (what := rule.broken(said, "")):
                fix = f"say it otherwise: '{other.name}' takes that out"
                problems.append(Problem(f"{where}[{number}].{key}", what, fix))
    return problems
