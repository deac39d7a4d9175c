"""Rewards without a policy: of right answers, of a person's, and of a run's own, by others.

`validate` scores the reference answers and begins each environment; `play` lets a person answer;
`replay` scores the rollouts that a run kept anew.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from modelforge.config import Config, RewardEntry
from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError, Problem, RunError
from modelforge.rewards import build_rewards, parse_rewards
from modelforge.rewards.constrained import CONSTRAINTS, with_constraints
from modelforge.rewards.of_a_run import names as names_of
from modelforge.rewards.of_a_run import parse
from modelforge.rewards.spec import kind_of
from modelforge.rewards.tools import call, load_environment, load_tools, methods_of
from modelforge.rewards.tried import called, references
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.strategies.grpo import tools_of
from modelforge.training.prepare import Prepared, prepare

FEW = 64  # rows that are tried
SHOWN = 5  # rows that differ most


@dataclass
class Scorers:
    """What scores an answer without a model.

    Attributes:
        rewards: Functions in TRL's form by name, with their weights.
        tools: By name.
        environment: The class, or None.
        left_out: Reward models, which would have to be loaded.
    """

    rewards: Mapping[str, tuple[Callable[..., Any], float]]
    tools: Mapping[str, Callable[..., Any]]
    environment: type[Any] | None
    left_out: Sequence[str]


def scorers(prepared: Prepared) -> Scorers:
    """Of a run that is prepared; the user's files are run."""
    config = prepared.config
    found = parse(config)
    models = [e.name for e in found["rewards"] if kind_of(e.name) == "model"]
    plain = [e for e in found["rewards"] if kind_of(e.name) != "model"]
    functions, weights = build_rewards(
        plain, tokenizer=prepared.tokenizer, base_dir=config.base_dir,
        template_arguments=config.get("chat_template_kwargs"),
    )  # fmt: skip
    pairs = zip(functions, weights, strict=True)
    tools = load_tools(tools_of(config), config.base_dir)
    name = config.get("environment")
    return Scorers(
        {function.__name__: (function, weight) for function, weight in pairs},
        {tool.__name__: tool for tool in tools},
        load_environment(name, config.base_dir) if name else None,
        [*models, *(entry.name for entry in found["reward_model"])],
    )


def ready(config: Config) -> tuple[Prepared, Scorers]:
    """The run, prepared without weights, and what scores its answers.

    Raises:
        UserError: If it cannot run, or learns from no rewards.
    """
    prepared = prepare(config)
    if prepared.strategy.data_kind != "prompt":
        fix = "name a config of grpo, rloo or ppo"
        what = f"is {prepared.strategy.name}, which learns from no rewards"
        raise ConfigError(Problem(f"{config.name}: strategy", what, fix))
    return prepared, scorers(prepared)


def validate(config: Config) -> dict[str, Any]:
    """Score the reference answers of the first rows, and those of other rows; begin environments.

    Returns:
        ``rows``; ``rewards``: of each its mean on its row's own answer (``right``) and on that of
        another row (``wrong``), and how many it could not score; ``environment``: the prompts that
        it gives, and what it pays before anything is done.

    Raises:
        UserError: If the run cannot be prepared, or a reward or the environment fails.
    """
    prepared, found = ready(config)
    rows = prepared.data.train
    count = min(FEW, len(rows))
    columns = rows[:count]
    prompts = columns.pop("prompt")
    texts = references(columns, count)
    told: dict[str, Any] = {"rows": count, "references": "answer" in columns, "rewards": {}}
    for name, (function, weight) in found.rewards.items():
        where = f"{config.name}: rewards: {name}"
        right = called(function, prompts, texts, columns, where)
        wrong = called(function, prompts, [*texts[1:], *texts[:1]], columns, where)
        told["rewards"][name] = {
            "weight": weight,
            "right": _mean(right),
            "wrong": _mean(wrong),
            "unscored": sum(_number(score) is None for score in right),
        }
    told["reward_models"] = list(found.left_out)
    told["tools"] = [*found.tools, *(m.__name__ for m in _methods(found.environment))]
    if found.environment is not None:
        told["environment"] = _begun(found.environment, rows, count, config.name)
    return told


def _begun(kind: type[Any], rows: Any, count: int, where: str) -> dict[str, Any]:
    """What an environment says on rows of the data, and pays before anything is done."""
    seen, paid = [], []
    for row in (rows[i] for i in range(count)):
        made = Game(kind, row, where)
        seen.append(made.observation)
        paid.append(made.reward())
    return {"name": kind.__name__, "observations": seen[:SHOWN], "at once": _mean(paid)}


class Game:
    """One environment, begun on a row of the data.

    Raises:
        ConfigError: If its ``reset`` fails.
    """

    def __init__(self, kind: type[Any], row: Mapping[str, Any], where: str) -> None:
        self.made = kind()
        try:
            self.observation = self.made.reset(**row)
        except Exception as error:  # the user's own
            what = f"reset fails on a row: {type(error).__name__}: {error}"
            fix = "take each column of the data by its name, or **row"
            raise ConfigError(Problem(f"{where}: environment", what, fix)) from error
        self.tools = {m.__name__: getattr(self.made, m.__name__) for m in methods_of(kind)}

    def reward(self) -> float | None:
        """What it pays now; None where it pays nothing itself."""
        paid = getattr(self.made, "get_reward", None)
        return None if paid is None else float(paid())


def _methods(kind: type[Any] | None) -> list[Callable[..., Any]]:
    return [] if kind is None else methods_of(kind)


@dataclass
class Turn:
    """One prompt that a person answers.

    Attributes:
        row: Of the data.
        prompt: Its messages, with what the environment adds.
        messages: What was answered so far, with what tools gave.
    """

    row: Mapping[str, Any]
    prompt: list[Any]
    found: Scorers
    where: str
    messages: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind = self.found.environment
        self.game = None if kind is None else Game(kind, self.row, self.where)
        self.tools = dict(self.found.tools) | (self.game.tools if self.game else {})
        if self.game is not None and isinstance(self.game.observation, str):
            last = self.prompt[-1]
            told = {**last, "content": f"{last['content']}{self.game.observation}"}
            self.prompt = [*self.prompt[:-1], told]

    def use(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call a tool, as a policy would; what it gives."""
        asked = {"type": "function", "function": {"name": name, "arguments": dict(arguments)}}
        told = call(self.tools, name, arguments)
        self.messages.append({"role": "assistant", "content": "", "tool_calls": [asked]})
        self.messages.append({"role": "tool", "name": name, "content": told})
        return told

    def answer(self, text: str) -> dict[str, float | None]:
        """End the turn with an answer: what each reward gives, and their weighted ``sum``."""
        self.messages.append({"role": "assistant", "content": text})
        columns = {key: [value] for key, value in self.row.items() if key != "prompt"}
        given: dict[str, float | None] = {}
        total = 0.0
        for name, (function, weight) in self.found.rewards.items():
            where = f"{self.where}: rewards: {name}"
            (score,) = called(function, [self.prompt], [text], columns, where, [self.messages])
            given[name] = _number(score)
            total += weight * (given[name] or 0.0)
        if self.game is not None and (paid := self.game.reward()) is not None:
            given[type(self.game.made).__name__] = paid
            total += paid
        return given | {"sum": total}


def replay(
    folder: Path, rewards: Sequence[str | Mapping[str, Any]], *, base_dir: Path | None = None
) -> dict[str, Any]:
    """Score the answers that a run kept by other rewards.

    Args:
        folder: The run's.
        rewards: As in a config: a name, or ``{"name", "arguments"}``.
        base_dir: Where their paths begin; by default the working folder.

    Returns:
        ``rows``; ``old`` and ``new``: the mean of each reward; ``correlation``: of each new one
        with the sum that the run learned from, null where one of them is constant; ``differ``: the
        rows on which the two differ most, in standard deviations.

    Raises:
        UserError: If the run kept no answers, or a reward cannot score them.
    """
    from transformers import AutoTokenizer

    run = RunDir(folder)
    path = run.path / files.ROLLOUTS
    if not path.is_file():
        what = f"kept no answers: {files.ROLLOUTS} is missing"
        raise RunError(Problem(str(folder), what, "name the folder of a run of grpo, rloo or ppo"))
    rows = run.read_lines(files.ROLLOUTS)
    entries = parse_rewards(_asked(folder, rewards), where="--rewards", base_dir=base_dir or Path())
    if not run.model.is_dir():
        fix = "run `modelforge train` to its end: its tokenizer is needed"
        raise RunError(Problem(str(folder), "holds no finished run", fix))
    tokenizer = AutoTokenizer.from_pretrained(run.model, trust_remote_code=False)
    functions, _ = build_rewards(entries, tokenizer=tokenizer, base_dir=base_dir or Path())
    weights = dict(names_of(load_config(folder)))
    columns = {key: [r.get("columns", {}).get(key) for r in rows] for key in _columns(rows)}
    old = [
        sum(
            weights.get(name, 1.0) * (_number(score) or 0.0) for name, score in r["rewards"].items()
        )
        for r in rows
    ]
    told: dict[str, Any] = {"rows": len(rows), "old": {}, "new": {}, "correlation": {}}
    for name in rows[0]["rewards"] if rows else ():
        told["old"][name] = _mean([row["rewards"].get(name) for row in rows])
    gaps: list[tuple[float, dict[str, Any]]] = []
    prompts, completions = ([row[key] for row in rows] for key in ("prompt", "completion"))
    for function in functions:
        name = function.__name__
        texts = [""] * len(rows)
        given = called(function, prompts, texts, columns, f"--rewards: {name}", completions)
        new = [_number(score) for score in given]
        told["new"][name] = _mean(new)
        told["correlation"][name] = _correlation(old, new)
        gaps += [
            (gap, {"step": row["step"], "prompt": row["prompt"], "completion": row["completion"],
                   "old": was, "new": now, "reward": name})
            for gap, row, was, now in zip(_gaps(old, new), rows, old, new, strict=True)
        ]  # fmt: skip
    told["differ"] = [row for _, row in sorted(gaps, key=lambda pair: -pair[0])[:SHOWN]]
    return told


def _asked(folder: Path, rewards: Sequence[str | Mapping[str, Any]]) -> list[RewardEntry]:
    """The rewards that are asked for; `constraints` counts those of the run's config."""
    asked = [_entry(each, f"--rewards[{at}]") for at, each in enumerate(rewards)]
    own = load_config(folder).get(CONSTRAINTS)
    return [
        with_constraints(RewardEntry(name=each) if isinstance(each, str) else each, own)
        for each in asked
    ]


def _entry(said: str | Mapping[str, Any], where: str) -> str | RewardEntry:
    """A reward as a config holds it; text is a name, or JSON.

    Raises:
        ConfigError: If it is neither.
    """
    fix = 'give a name, or {"name": ..., "arguments": {...}}'
    try:
        if isinstance(said, str):
            said = json.loads(said) if said.lstrip().startswith("{") else said
        return said if isinstance(said, str) else RewardEntry.model_validate(said)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join([where, *map(str, found["loc"])])
        raise ConfigError(Problem(place, found["msg"], fix)) from None
    except ValueError as error:
        raise ConfigError(Problem(where, f"is not JSON: {error}", fix)) from None


def _columns(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {key for row in rows for key in row.get("columns", {})}


def _number(score: Any) -> float | None:
    return None if score is None or math.isnan(score) else float(score)


def _mean(scores: Sequence[Any]) -> float | None:
    numbers = [n for score in scores if (n := _number(score)) is not None]
    return statistics.fmean(numbers) if numbers else None


def _standard(scores: Sequence[float | None]) -> list[float | None]:
    numbers = [score for score in scores if score is not None]
    deviation = statistics.pstdev(numbers) if numbers else 0.0
    mean = statistics.fmean(numbers) if numbers else 0.0
    return [None if s is None else (s - mean) / (deviation or 1.0) for s in scores]


def _gaps(old: Sequence[float], new: Sequence[float | None]) -> list[float]:
    pairs = zip(_standard(list(old)), _standard(new), strict=True)
    return [0.0 if a is None or b is None else abs(a - b) for a, b in pairs]


def _correlation(old: Sequence[float], new: Sequence[float | None]) -> float | None:
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if b is not None]
    if len(pairs) < 2 or any(len(set(side)) < 2 for side in zip(*pairs, strict=True)):
        return None
    return statistics.correlation(*zip(*pairs, strict=True))
