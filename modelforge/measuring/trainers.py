"""A trainer class of TRL, made to evaluate row by row."""

from __future__ import annotations

from typing import Any

from modelforge.measuring.by_prompt import ByPrompt
from modelforge.measuring.by_row import ByRow


def by_row(trainer_class: type[Any]) -> type[Any]:
    """Make a TRL trainer class evaluate row by row; one that does so is returned unchanged."""
    if issubclass(trainer_class, ByRow):
        return trainer_class
    kind = ByPrompt if hasattr(trainer_class, "_generate_single_turn") else ByRow
    return type(trainer_class.__name__, (kind, trainer_class), {})
