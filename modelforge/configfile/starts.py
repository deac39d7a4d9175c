"""Presets by strategy, family of models, size of card and size of the job: `configs/starts.json`.

A preset says the model, the data and what must be said. What is learned and how it is computed
follow from these when it runs, as in any config.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import Any, NamedTuple

from modelforge.errors import ConfigError, Problem, did_you_mean

PROFILES = ("cpu", "low", "mid", "high", "max")
FAMILY, PROFILE, DEMO_FAMILY = "qwen3", "cpu", "smollm"


class Asked(NamedTuple):
    """Which preset is meant.

    Attributes:
        family: Of models; None for the usual one.
        profile: The size of the card; None for no card.
        size: ``demo``, ``prototype`` or ``full``; None for ``full``.
    """

    family: str | None = None
    profile: str | None = None
    size: str | None = None


@cache
def starts() -> Mapping[str, Any]:
    """The table: ``families``, ``one_vocabulary`` (lists of models), ``strategies``, …"""
    text = (files("modelforge.configs") / "starts.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def start(strategy: str, asked: Asked) -> dict[str, Any]:
    """The preset of a strategy, without its data set.

    Raises:
        ConfigError: If the table has no such family, profile or size, or a family no teacher.
    """
    table = starts()
    said = table["strategies"].get(strategy, {})  # of a package's own strategy nothing is known
    model, teacher = models_of(strategy, asked)
    config: dict[str, Any] = {"strategy": strategy, "model_name": model}
    if teacher is not None:
        config["teacher_model"] = teacher
    if asked.profile not in (None, "cpu"):
        config["hardware_profile"] = asked.profile
    # The largest cards hold 16-bit weights of up to 9B; beside a larger one nothing has room.
    if {model, config.get("teacher_model")} & set(table["in_4bit"]):
        config["use_4bit"] = True
    size = _one_of("--size", asked.size or "full", table["sizes"])
    config |= said | size["every"] | (size["sampled"] if "generation" in said else {})
    config |= size.get(strategy, {})
    return {key: value for key, value in config.items() if value is not None}


def models_of(strategy: str, asked: Asked) -> tuple[str, str | None]:
    """The model that a preset trains, and its teacher; None for a strategy without one.

    Who samples trains the next smaller model of the family. A teacher has its pupil's vocabulary,
    because their probabilities are compared token by token.

    Raises:
        ConfigError: If the family has no such model for the profile.
    """
    name = asked.family or (DEMO_FAMILY if asked.size == "demo" else FAMILY)
    profile = asked.profile or PROFILE
    family = _one_of("--family", name, starts()["families"])
    place = PROFILES.index(_one_of("--profile", profile, {p: p for p in PROFILES}))
    if profile not in family:
        what = f"has no model for the profile {profile}"
        fix = f"take {next(iter(family))} or a larger one"
        raise ConfigError(Problem(f"--family {name}", what, fix))
    if strategy == "distill":
        pair = _pupil_and_teacher(family, place)
        if pair is None:
            able = [n for n, of in starts()["families"].items() if _pupil_and_teacher(of, place)]
            fix = f"take {', '.join(able[:-1])} or {able[-1]}"
            raise ConfigError(
                Problem(f"--family {name}", "has no teacher with its vocabulary", fix)
            )
        return pair
    model: str = family[profile]
    if "generation" in starts()["strategies"].get(strategy, {}):
        smaller = [family[p] for p in PROFILES[:place] if p in family and family[p] != model]
        model = smaller[-1] if smaller else model
    return model, None


def _pupil_and_teacher(family: Mapping[str, str], place: int) -> tuple[str, str] | None:
    """The largest two neighbours of one vocabulary up to a profile; its place is in `PROFILES`.

    Where none are that small, the teacher is of a larger card. None: the family has no such two.
    """
    sizes = {family[p]: PROFILES.index(p) for p in reversed(PROFILES) if p in family}
    pairs = [
        (pupil, teacher)
        for pupil, teacher in pairwise(sorted(sizes, key=sizes.__getitem__))
        if any({pupil, teacher} <= set(group) for group in starts()["one_vocabulary"])
    ]
    held = [pair for pair in pairs if sizes[pair[1]] <= place]
    above = [pair for pair in pairs if sizes[pair[0]] <= place]
    return held[-1] if held else next(iter(above), None)


def pipeline(name: str, asked: Asked) -> dict[str, dict[str, Any]]:
    """The configs of a pipeline's stages by the names of their files, in order."""
    found = {}
    for number, said in enumerate(starts()["pipelines"][name]["stages"], 1):
        strategy = said["strategy"]
        config = start(strategy, asked) | {"run_name": f"{number}-{strategy}"} | said
        if config["model_name"] == "larger":
            config["model_name"] = models_of("distill", asked)[1]
        found[f"{number}-{strategy}"] = {k: v for k, v in config.items() if v is not None}
    return found


def all_starts() -> Iterable[tuple[str, Asked]]:
    """Every preset of a strategy for a card, of every family that has the models for it."""
    for family, sizes in starts()["families"].items():
        for place, profile in enumerate(PROFILES):
            if profile in sizes:
                for strategy in starts()["strategies"]:
                    if strategy != "distill" or _pupil_and_teacher(sizes, place):
                        yield strategy, Asked(family, profile)


def _one_of(where: str, name: str, known: Mapping[str, Any]) -> Any:
    if name not in known:
        fix = did_you_mean(name, known) or f"name one of {', '.join(known)}"
        raise ConfigError(Problem(where, f"there is no {name!r}", fix))
    return known[name]
