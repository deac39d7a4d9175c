"""What can go wrong, as a user meets it.

ModelForgeError
├── UserError        the input is wrong; carries every problem found; exit code 2
│   ├── ConfigError      a key or value of the config
│   ├── DataError        a file, row or column of the data
│   ├── ModelError       a model, tokenizer or template that cannot serve
│   └── RunError         the run's folder, or what the machine lacks
│       └── DivergedError    loss or gradient stay infinite
├── Interrupted      a signal stopped a run that can be resumed; exit code 75
└── (anything else is a bug of ours and keeps its traceback; exit code 1)
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modelforge.redact import redact


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and what to set instead.

    Attributes:
        where: The place as the user knows it: ``config.json: lora_r``, ``train.jsonl:17``.
        what: What is wrong with it, in one sentence without a full stop.
        fix: What to do, in one sentence without a full stop; may be empty.
        patch: The same as a JSON Patch (RFC 6902) of the config, where it is sure; else empty.
    """

    where: str
    what: str
    fix: str = ""
    patch: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" + (f" → {self.fix}" if self.fix else "")


class ModelForgeError(Exception):
    """Base of every error raised on purpose."""


class UserError(ModelForgeError):
    """The input is wrong. Holds all problems found, so that one reading mends them all."""

    def __init__(self, *problems: Problem) -> None:
        if not problems:
            raise ValueError("a UserError needs at least one Problem")
        problems = tuple(
            replace(p, where=redact(p.where), what=redact(p.what), fix=redact(p.fix))
            for p in problems
        )
        self.problems = problems
        super().__init__("\n".join(str(p) for p in problems))


class ConfigError(UserError):
    """A key or value of the config is wrong."""


class DataError(UserError):
    """A file, row or column of the data is wrong."""


class ModelError(UserError):
    """A model, tokenizer or chat template cannot serve this run."""


class RunError(UserError):
    """The run's folder cannot be used, or this machine lacks what the run needs."""


class DivergedError(RunError):
    """A run's loss or gradient was not finite for several steps in a row."""


class Interrupted(ModelForgeError):
    """A run was stopped by a signal after it saved itself.

    Attributes:
        run_dir: Its folder.
        step: The last optimiser step, which the checkpoint holds.
    """

    #: sysexits.h's EX_TEMPFAIL: not done, and trying again will do.
    exit_code = 75

    def __init__(self, run_dir: Path, step: int, *, again: str = "") -> None:
        self.run_dir = run_dir
        self.step = step
        again = again or f"`modelforge train {run_dir}` resumes it"
        super().__init__(f"the run stopped after step {step}; {again}")


def nearest(name: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The known name that an unknown one is most like, if it is like any.

    Args:
        name: As it was written.
        known: The names that there are.
        alike: How alike the nearest must be, from 0 to 1.
    """
    names = sorted(known)
    longer = [known for known in names if len(name) > 3 and known.startswith(name.lower())]
    near = longer[:1] or difflib.get_close_matches(name.lower(), names, n=1, cutoff=alike)
    return near[0] if near else None


def slip(name: str, known: Iterable[str], *, alike: float = 0.6) -> str | None:
    """The nearest name, if the given one is a typing error away from it.

    Both have the same words, begun alike and with the same digits. A name that is merely near may
    mean another thing. The arguments are those of `nearest`.

    >>> slip("learnin_rate", ["learning_rate", "lora_r"])
    'learning_rate'
    >>> slip("orpo", ["grpo"]), slip("min_steps", ["max_steps"])
    (None, None)
    """
    near = nearest(name, known, alike=alike)
    return near if near is not None and _is_slip(name.lower(), near.lower()) else None


def _is_slip(name: str, near: str) -> bool:
    words, others = name.split("_"), near.split("_")
    if "".join(words) == "".join(others):
        return True
    return len(words) == len(others) and all(map(_are_alike, words, others))


def _are_alike(word: str, other: str) -> bool:
    same = sorted(word) == sorted(other)
    same = same or difflib.SequenceMatcher(None, word, other).ratio() >= 0.8
    return same and word[:1] == other[:1] and re.findall(r"\d", word) == re.findall(r"\d", other)


def did_you_mean(name: str, known: Iterable[str], *, alike: float = 0.6) -> str:
    """The advice for an unknown name: the nearest known one, or all of them if few.

    The arguments are those of `nearest`.

    >>> did_you_mean("learnin_rate", ["learning_rate", "lora_r"])
    "did you mean 'learning_rate'?"
    """
    names = sorted(known)
    near = nearest(name, names, alike=alike)
    if near is not None:
        return f"did you mean '{near}'?"
    if len(names) <= 12:
        return "known: " + ", ".join(names)
    return ""
