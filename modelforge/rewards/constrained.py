"""Constraints as a reward: what an answer breaks counts against it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelforge.common.paths import find_path
from modelforge.config import RewardEntry
from modelforge.constraints import Constraints
from modelforge.errors import Problem, UserError
from modelforge.rewards.callables import RewardFunction
from modelforge.rewards.completions import completion_text

#: The reward's name, and its argument's: a config's own constraints are filled in.
CONSTRAINTS = "constraints"


def constraint_arguments(*, constraints: list | str | None = None) -> None:
    """0 less one for each constraint that the answer breaks.

    Args:
        constraints: Entries, or the file that holds them; by default the config's.
    """


def with_constraints(entry: RewardEntry, given: Any) -> RewardEntry:
    """The reward with the config's constraints, where it names none of its own.

    Args:
        entry: Any reward.
        given: The config's constraints: entries, a file or None.
    """
    if entry.name != CONSTRAINTS or CONSTRAINTS in entry.arguments or given is None:
        return entry
    plain = given if isinstance(given, str) else [e.model_dump() for e in given]
    return entry.model_copy(update={"arguments": {**entry.arguments, CONSTRAINTS: plain}})


def constrained_problems(entry: RewardEntry, where: str, base_dir: Path) -> list[Problem]:
    """What is wrong with the constraints that a reward counts; no model of them is loaded."""
    if entry.arguments.get(CONSTRAINTS) is None:
        what, fix = "counts what breaks constraints, and there are none", "add constraints"
        return [Problem(where, what, fix)]
    try:
        found = _constraints(entry, base_dir, where)
    except UserError as error:
        return list(error.problems)
    if not any(each.on_output for each in found.each):
        what = "counts what answers break, and all constraints are on prompts"
        return [Problem(where, what, "set on to output or both, or leave the reward out")]
    return []


def _constraints(entry: RewardEntry, base_dir: Path, where: str) -> Constraints:
    given = entry.arguments[CONSTRAINTS]
    if isinstance(given, str):
        return Constraints(find_path(given, base_dir) or base_dir / given)
    return Constraints(given, base_dir=base_dir, where=f"{where}: {CONSTRAINTS}")


def counted(entry: RewardEntry, base_dir: Path) -> RewardFunction:
    """The reward of an entry: 0 less one for each constraint that an answer breaks."""
    return less_broken(_constraints(entry, base_dir, CONSTRAINTS), -1)


def less_broken(constraints: Constraints, each: int) -> RewardFunction:
    """The given amount for each constraint that an answer breaks.

    Args:
        constraints: Those on answers count.
        each: What one adds.
    """

    def count(
        *, prompts: Sequence[Any], completions: Sequence[Any], **columns: Mapping[str, Any]
    ) -> list[float]:
        return [
            float(each * len(constraints.of_answer(prompt, completion_text(completion))))
            for prompt, completion in zip(prompts, completions, strict=True)
        ]

    return count
