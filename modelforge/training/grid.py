"""The grid of `modelforge sweep`: keys with several values each, and the runs that they make."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modelforge.common.files import digest
from modelforge.configfile.peers import advice
from modelforge.errors import ConfigError, Problem
from modelforge.training.trials import Trial

#: Key → its values, as they stand behind the ``=`` of ``--set``.
Grid = Mapping[str, Sequence[str]]

MOST = 32  # runs of one sweep, unless the user says more
_KEY = re.compile(r"[A-Za-z_][\w.]*")
_LONGEST = 100  # characters of a folder's name
#: Keys that cannot differ from run to run, and why.
_FIXED = {
    "output_dir": "says where the runs lie, and each has a folder of its own",
    "run_name": "says where a run lies, and each has a folder of its own",
    "resume": "is set by the sweep, which resumes each run",
    "strategy": "decides what a run is judged by, and one figure ranks all runs",
    "eval_dataset": "changes the held-out rows, which rank the runs",
    "eval_split": "changes the held-out rows, which rank the runs",
    "held_out_as": "changes the held-out rows, which rank the runs",
    "rewards": "changes the reward, which ranks the runs",
    "reward_model": "changes the reward, which ranks the runs",
}
#: Keys that change the held-out loss itself, where that is what runs are judged by.
_OF_THE_LOSS = ("loss_type", "label_smoothing_factor", "beta", "temperature")


@dataclass(frozen=True)
class Combination:
    """One run of a grid.

    Attributes:
        trial: Its name and what it says over the config.
        overrides: The same as ``key=value``.
    """

    trial: Trial
    overrides: tuple[str, ...]


def read_grid(given: Sequence[str]) -> dict[str, list[str]]:
    """The keys and values of ``lr=1e-4,3e-4,beta=0.1,0.5``; one text or several.

    A comma inside of brackets or quotes divides nothing. A short name of a key counts as the key.

    Raises:
        ConfigError: With everything that is no key with values.

    >>> read_grid(["lr=1e-4,3e-4,lora_r=8"])
    {'learning_rate': ['1e-4', '3e-4'], 'lora_r': ['8']}
    """
    found: dict[str, list[str]] = {}
    problems = []
    for text in given:
        key = ""
        for part in _parts(text):
            name, sign, value = part.partition("=")
            if sign and _KEY.fullmatch(name.strip()):
                key = _long(name.strip())
            else:
                value = part
            if not key or not value.strip():
                what = "has no key before its values" if not key else f"has no value for {key}"
                problems.append(Problem(f"--grid {text}", what, "write such as lr=1e-4,3e-4"))
                break
            values = found.setdefault(key, [])
            if value.strip() not in values:
                values.append(value.strip())
    if not given:
        problems.append(Problem("--grid", "names no key", "write such as --grid lr=1e-4,3e-4"))
    if problems:
        raise ConfigError(*problems)
    return found


def _parts(text: str) -> Iterator[str]:
    """A text at its commas, those inside of brackets and quotes left out."""
    depth, quoted, begin = 0, False, 0
    for at, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif not quoted:
            depth += (character in "[{") - (character in "]}")
            if character == "," and depth <= 0:
                yield text[begin:at]
                begin = at + 1
    yield text[begin:]


def _long(name: str) -> str:
    """The key that a short name stands for, as other trainers call it."""
    ours = advice(name).removeprefix("here it is ")
    return ours if _KEY.fullmatch(ours) else name


def combinations(grid: Grid, *, most: int) -> list[Combination]:
    """Every combination of the values, the last key changing first.

    Args:
        grid: Keys and values.
        most: How many runs are too many when there is one more.

    Raises:
        ConfigError: If there are more, or a key has to be the same in all runs.
    """
    problems = [
        Problem(f"--grid {key}", _FIXED[key], "leave it out") for key in grid if key in _FIXED
    ]
    count = math.prod(len(values) for values in grid.values())
    if count > most:
        told = " × ".join(f"{len(values)} of {key}" for key, values in grid.items())
        what = f"makes {count:,} runs ({told}), and at most {most} are trained"
        fix = f"name fewer values, or set --max-runs {count}"
        problems.append(Problem("--grid", what, fix))
    if problems:
        raise ConfigError(*problems)
    return [
        _combination(dict(zip(grid, values, strict=True)))
        for values in itertools.product(*grid.values())
    ]


def _combination(said: Mapping[str, str]) -> Combination:
    whole = "-".join(f"{key}-{value}" for key, value in said.items())
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", whole).strip("-.")[:_LONGEST]
    if name != whole:  # two values may look alike by now
        name = f"{name}-{digest(said)[:6]}"
    values = {key: _parsed(value) for key, value in said.items()}
    return Combination(Trial(name, values), tuple(f"{k}={v}" for k, v in said.items()))


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def refuse_another_measure(grid: Grid, measure: str) -> None:
    """See that no key changes the loss that the runs are ranked by.

    Args:
        grid: Keys and values.
        measure: The held-out figure that they are judged by.

    Raises:
        ConfigError: If one does.
    """
    if measure != "eval_loss":
        return
    what = "changes the held-out loss itself, which ranks the runs"
    fix = "train the runs one by one, and use `modelforge compare`"
    problems = [Problem(f"--grid {key}", what, fix) for key in grid if key in _OF_THE_LOSS]
    if problems:
        raise ConfigError(*problems)
