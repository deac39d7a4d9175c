"""Answers held to constraints, and what is told of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelforge.common.console import warn
from modelforge.constraints import Constraints, Violation
from modelforge.inference.answers import Answer

if TYPE_CHECKING:
    from modelforge.constraints.steering import Steering

#: The finish reason of an answer that a constraint ended, or took the place of, as OpenAI says it.
FILTERED = "content_filter"


def steering_of(tokenizer: Any, constraints: Constraints | None) -> Steering | None:
    """What keeps a model from banned texts; None where there are none."""
    if constraints is None or not constraints.steered:
        return None
    from modelforge.constraints.steering import Steering

    return Steering(tokenizer, constraints)


def held_answer(
    found: Answer, prompt: Any, constraints: Constraints | None
) -> tuple[Answer, list[Violation]]:
    """An answer as it may be shown, and what it breaks as the model wrote it."""
    if constraints is None:
        return found, []
    held = constraints.held(prompt, found.text)
    reason = FILTERED if held.blocked is not None else found.finish_reason
    answer = replace(found, text=held.text, finish_reason=reason)
    return answer, constraints.violations(held)


def tell(violations: Iterable[Violation]) -> None:
    """Warn of those that are to be warned of."""
    told = Counter((v.constraint, v.side) for v in violations if v.action == "warn")
    for (name, side), count in told.items():
        times = f" {count} times" if count > 1 else ""
        warn(f"constraint '{name}' is broken{times} by the {side}")
