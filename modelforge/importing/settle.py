"""What of a carried-over config cannot be here is taken back, until it passes its own checks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelforge import registry
from modelforge.configfile import schema
from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError, Problem
from modelforge.importing.theirs import Line, Theirs, says_something, whole
from modelforge.training.defaults import under_each_profile
from modelforge.training.effects import refuse_idle_everywhere

#: Keys without which nothing can be trained, and what is asked for them.
_NEEDED = {
    "model_name": "names no model that can be loaded",
    "dataset": "names no data set",
    "teacher_model": "names no teacher",
}

#: What asks for evaluations, or says how they are done.
_EVALUATIONS = frozenset(
    (
        *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "eval_accumulation_steps"),
        *("per_device_eval_batch_size", "load_best_model_at_end", "metric_for_best_model"),
        *("greater_is_better", "early_stopping"),
    )
)


def withdraw(t: Theirs, key: str, why: str, became: Any) -> None:
    """Take a key of ours back (``a.b`` one of a section), and say why of those it came from."""
    head, _, rest = key.partition(".")
    section = t.ours.get(head)
    if rest and isinstance(section, dict) and rest in section:
        del section[rest]
        if not section:
            del t.ours[head]
    else:
        key = head
        del t.ours[head]
    kept = []
    for line in t.lines:
        if not re.match(rf"{re.escape(key)}(?:[.\[]|$)", line.ours):
            kept.append(line)
        elif line.became not in ("written", "open"):
            quiet = became == "lost" and not says_something(line.value)
            kept.append(Line(line.theirs, line.value, "silent" if quiet else became, note=why))
    t.lines[:] = kept


def settle(t: Theirs, said: Mapping[str, Any]) -> None:
    """Take back what cannot be here, until the config passes its own checks.

    Raises:
        ConfigError: If what is needed is missing, or what the user said cannot be.
    """
    known = schema.load(registry.get_strategy(t.strategy))["properties"]
    for key in [key for key in t.ours if key not in known and key not in said]:
        _not_of_the_strategy(t, key)
    missing = [
        Problem(t.path.name, what, f"add --set {key}=…")
        for key, what in _NEEDED.items()
        if key not in t.ours and key in known and key in _required(t.strategy)
    ]
    if missing:
        raise ConfigError(*missing)
    if t.said("max_steps") and t.said("num_train_epochs"):
        withdraw(t, "num_train_epochs", "max_steps counts", "unneeded")
    _micro_batch(t)
    if t.said("eval_split") == 0 and not t.said("eval_dataset"):
        for key in sorted(_EVALUATIONS & set(t.ours) - set(said)):
            withdraw(t, key, "no rows are held out, as there", "unneeded")
    for _ in range(4 * len(t.ours)):
        problem, became = next(iter(_problems(t)), (None, ""))
        if problem is None:
            return
        path = problem.where.partition(": ")[2].partition("[")[0]
        key = path.partition(".")[0]
        if "vLLM" in problem.what and "use_vllm" in t.ours and "use_vllm" not in said:
            path, became = "use_vllm", "unneeded"  # it makes sampling faster, and changes no result
        elif key in said or key not in t.ours or key in ("strategy", *_NEEDED):
            raise ConfigError(replace(problem, where=f"{t.path.name} as ours: {key}"))
        said_too = problem.fix and became != "unneeded"
        if key == "rewards" and _without(t, problem):
            continue
        why = f"{problem.what}; {problem.fix}" if said_too else problem.what
        withdraw(t, path, why, "open" if key in ("rewards", "reward_model") else became)


def _without(t: Theirs, problem: Problem) -> bool:
    """Take one of several rewards away, or let one that needs no package stand for it."""
    place = re.search(r"rewards\[(\d+)\]", problem.where)
    entries: list[Any] = t.ours["rewards"]
    named = [i for i, each in enumerate(entries) if f"'{each['name']}'" in problem.what]
    index = int(place[1]) if place else named[0] if named else None
    if index is None or not index < len(entries):
        return False
    name, note = entries[index]["name"], problem.what
    if "accuracy" in name and "needs the package" in problem.what:
        instead = {"name": "numeric_answer", "arguments": {"column": "solution"}}
        entries[index] = {**entries[index], **instead}
        note += "; until it is, numeric_answer compares the numbers of the column solution"
    else:
        del entries[index]
        if not entries:
            del t.ours["rewards"]
    for at, line in enumerate(t.lines):
        if line.ours == "rewards" and line.result == name:
            t.lines[at] = replace(line, became="open", ours="", result=None, note=note)
    return True


def _not_of_the_strategy(t: Theirs, key: str) -> None:
    """A key that another strategy has."""
    if key == "generation":
        withdraw(t, key, f"{t.strategy} samples no answers while it trains", "unneeded")
        return
    has = [name for name in registry.list_strategies()
           if key in schema.load(registry.get_strategy(name))["properties"]]  # fmt: skip
    where = f"; it is one of {', '.join(has[:4])}" if has else ""
    withdraw(t, key, f"is no key of {t.strategy}{where}", "lost")


def _micro_batch(t: Theirs) -> None:
    """KTO needs two rows a pass; the rows of a step stay where they are even."""
    key, steps = "per_device_train_batch_size", whole(t.ours.get("gradient_accumulation_steps"), 1)
    if t.strategy == "kto" and t.ours.get(key) == 1:
        t.ours[key], t.ours["gradient_accumulation_steps"] = 2, (steps + 1) // 2
        rows = f"{steps + 1} rows a step, not {steps}" if steps % 2 else "the rows of a step stay"
        note = f"KTO's KL term needs two rows a pass; {rows}"
        t.lines[:] = [replace(line, became="changed", result=t.ours[line.ours], note=note)
                      if line.ours in (key, "gradient_accumulation_steps") else line
                      for line in t.lines]  # fmt: skip


def _required(strategy: str) -> list[str]:
    """The keys that a config of the strategy must have."""
    required: list[str] = schema.load(registry.get_strategy(strategy))["required"]
    return required


def _problems(t: Theirs) -> list[tuple[Problem, str]]:
    """What is wrong with our config as it stands, each with what became of such a key."""
    try:
        config = load_config(t.ours)
        strategy = registry.get_strategy(t.strategy)()
        refuse_idle_everywhere(config, under_each_profile(config, strategy), strategy)
    except ConfigError as error:
        idle = [problem.what.startswith("has no effect") for problem in error.problems]
        return [
            (problem, "unneeded" if none else "lost")
            for problem, none in zip(error.problems, idle, strict=True)
        ]
    return []
