"""A warning when the loss, or its gradient, of a run without rewards explodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from modelforge.callbacks.alarms import Alarms
from modelforge.errors import Problem

# Logs that a level is the median of, the fewest that make one, and those in a row that must leave
# it: one bad batch is no explosion.
_LEVEL, _LEAST, _IN_A_ROW = 20, 8, 3
# A loss that explodes is twice its level, as many mean deviations above it, and half way back to
# the highest that it has been.
_TIMES, _DEVIATIONS, _BACK = 2.0, 8.0, 0.5
# Above so many times its first value it explodes, at any time.
_WORSE = 1.5
# A gradient that explodes is so many times its level, and twice the largest of the first logs:
# where a loss is nearly 0 one hard pair gives hundreds of times the median.
_STEEPER, _THAN_FIRST = 10.0, 2.0
_ADVICE = "lower learning_rate, or go on from an earlier checkpoint (resume) with a lower one"


class LossWatch(Alarms):
    """Says once that the loss is no number, that it explodes, or that its gradient does."""

    def before(self, args: Any) -> set[str]:
        """What a run that is resumed was told: whatever was wrong at any of its logs."""
        heard = range(1, len(self.train) + 1)
        return {p.where for count in heard for p in exploding(self.train[:count])}

    def found(self, args: Any, step: int) -> list[Problem | None]:
        """What is wrong as it stands."""
        return list(exploding(self.train))


def exploding(train: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """What of a run's loss and gradient is out of hand at the latest log.

    Args:
        train: The logs of training, oldest first.
    """
    if not train:
        return []  # the evaluation before the first step
    loss = train[-1].get("loss")
    if isinstance(loss, float) and not math.isfinite(loss):
        what = f"is {loss}: such steps are skipped, and what was learned may be lost already"
        return [Problem("loss", what, _ADVICE)]
    found = [_loss(train), _gradient(train)]
    return [problem for problem in found if problem is not None]


def _loss(train: Sequence[Mapping[str, Any]]) -> Problem | None:
    values = _numbers(train, "loss")
    before, last = values[:-_IN_A_ROW], values[-_IN_A_ROW:]
    if before and min(last) > _WORSE * before[0] > 0:
        what = f"is {last[-1]:.3g}, and {before[0]:.3g} at the first log: it explodes"
        return Problem("loss", what, _ADVICE)
    if len(before) < _LEAST:
        return None
    level = median(before[-_LEVEL:])
    spread = median(abs(value - level) for value in before[-_LEVEL:])
    bounds = (
        level + (_TIMES - 1) * abs(level),
        level + _DEVIATIONS * spread,
        level + _BACK * (max(before) - level),
    )
    if min(last) <= max(bounds):
        return None
    what = f"rose to {last[-1]:.3g}, from a level of {level:.3g}: it explodes"
    return Problem("loss", what, _ADVICE)


def _gradient(train: Sequence[Mapping[str, Any]]) -> Problem | None:
    values = _numbers(train, "grad_norm")
    before, last = values[:-_IN_A_ROW], values[-_IN_A_ROW:]
    if len(before) < _LEAST:
        return None
    level = median(before[-_LEVEL:])
    if min(last) <= max(_STEEPER * level, _THAN_FIRST * max(before[:_LEAST])):
        return None
    what = f"rose to {last[-1]:.3g}, from a level of {level:.3g}: the updates are out of hand"
    return Problem("grad_norm", what, _ADVICE)


def _numbers(train: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """The finite values of a figure, oldest first."""
    values = (log.get(key) for log in train)
    return [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
