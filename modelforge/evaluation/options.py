"""What is asked of an evaluation, and what can be seen of it without a library that trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from modelforge.config import RewardEntry
from modelforge.constraints.of_a_run import Asked as HeldTo
from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.evaluation.metrics import ALIASES
from modelforge.rewards.spec import kind_of, parse_rewards

OUTPUT = Path("runs/evaluate")


@dataclass(frozen=True)
class Options:
    """What is asked of an evaluation.

    Attributes:
        data: A file, a folder or a hub id.
        metrics: Names of measures; None for all that come free.
        samples: Answers to each prompt; above 1 they are sampled.
        temperature: None for 0 (the likeliest token), or 1 where answers are sampled.
        max_new_tokens: The longest answer, in tokens.
        seed: Of the draws.
        limit: The most rows; None for all.
        rewards: Reward functions by name or ``file.py:function``.
        reward_model: A reward model's folder or hub id.
        classifier: A folder or hub id of a text classifier; its last label counts as toxic, or the
            one called so.
        constraints: Those whose violations are counted: a file, entries, or ``none``; None for
            those that the run was trained with. Answers are not held to them.
        start: The model that this one began from; None to find it.
        by: A column of the data to divide the figures by.
        columns: Our column → the file's, where the layout is not recognised.
        contamination: Whether to look which rows were trained on.
        output_dir: Where evaluations are kept.
        batch_size: Rows at once; None for as many as fit. It changes no answer.
    """

    data: str
    metrics: tuple[str, ...] | None = None
    samples: int = 1
    temperature: float | None = None
    max_new_tokens: int = 128
    seed: int = 0
    limit: int | None = None
    rewards: tuple[str, ...] = ()
    reward_model: str | None = None
    classifier: str | None = None
    constraints: HeldTo = None
    start: str | None = None
    by: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    contamination: bool = True
    output_dir: Path = OUTPUT
    batch_size: int | None = None

    @property
    def from_start(self) -> bool:
        """Whether the divergence from the start is measured."""
        names = {ALIASES.get(name, name) for name in self.metrics or ()}
        return bool(names & {"kl", "entropy"})

    @property
    def drawn(self) -> float:
        """The temperature: a divergence is that of the model's own draws."""
        if self.temperature is not None:
            return self.temperature
        return 1.0 if self.samples > 1 or self.from_start else 0.0


def checked(options: Options, *, scores: bool, said: str) -> list[RewardEntry]:
    """The rewards that are asked for, in full form.

    Args:
        options: What is asked.
        scores: Whether the model is a reward model.
        said: How the user named it.

    Raises:
        ConfigError: With every problem found.
    """
    problems = []
    bounds = {"samples": 1, "max_new_tokens": 1, "limit": 1, "batch_size": 1}
    for key, least in bounds.items():
        value = getattr(options, key)
        if value is not None and value < least:
            problems.append(Problem(f"--{key.replace('_', '-')}", f"is {value}", "set 1 or more"))
    if options.temperature is not None and not 0 <= options.temperature < math.inf:
        problems.append(Problem("--temperature", f"is {options.temperature}", "set 0 or more"))
    if options.temperature == 0 and options.samples > 1:
        what = "is 0, and all samples of a prompt would be the same"
        problems.append(Problem("--temperature", what, "set 1, or --samples 1"))
    if not options.data:
        problems.append(Problem("--data", "names nothing", "give a file, a folder or a hub id"))
    judged = [options.rewards, options.reward_model, options.classifier, options.from_start]
    judged.append(options.constraints is not None)
    judged += [options.samples > 1, options.temperature is not None]
    if scores and any(judged):
        what = f"{said} is a reward model, and answers nothing"
        fix = "leave rewards, the classifier, constraints, samples and kl out; give it pairs"
        problems.append(Problem("MODEL", what, fix))
    if options.start is not None and not options.from_start:
        problems.append(Problem("--start", "has no effect", "add --metrics kl, or leave it out"))
    found: list[RewardEntry] = []
    given = [*options.rewards, *([options.reward_model] if options.reward_model else [])]
    try:
        found = parse_rewards(given, where="--reward") if given else []
    except ConfigError as error:
        problems += error.problems
    if options.reward_model and found and kind_of(found[-1].name) != "model":
        fix = "name a folder of a reward model, or use --reward for a function"
        problems.append(Problem("--reward-model", f"'{options.reward_model}' is none", fix))
    if problems:
        raise ConfigError(*problems)
    return found


def told(options: Options) -> dict[str, Any]:
    """The options as plain values."""
    return asdict(options) | {
        "output_dir": str(options.output_dir),
        "columns": dict(options.columns),
        "temperature": options.drawn,
    }


def options_of(data: str, metrics: Iterable[str] | None, more: Mapping[str, Any]) -> Options:
    """The options of a call from Python.

    Raises:
        ConfigError: With every name that is no option.
    """
    known = {field.name for field in fields(Options)} - {"data", "metrics"}
    problems = [
        Problem(f"evaluate: {name}", "is no option", did_you_mean(name, known))
        for name in more
        if name not in known
    ]
    if problems:
        raise ConfigError(*problems)
    given = dict(more)
    if "rewards" in given:
        given["rewards"] = tuple(given["rewards"])
    if "output_dir" in given:
        given["output_dir"] = Path(given["output_dir"])
    names = (metrics,) if isinstance(metrics, str) else metrics
    return Options(data, None if names is None else tuple(names), **given)
