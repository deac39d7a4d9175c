"""What prompts and answers are held to: rules, patterns, banned texts, a classifier, a judge.

The same constraints are checked in a config, counted as a reward and as a measure, and held to
where answers are written: by `generate`, `chat`, `serve` and a run's sample answers.
"""

from __future__ import annotations

from modelforge.constraints.constraints import Asked, Constraints
from modelforge.constraints.held import Held
from modelforge.constraints.one import Constraint, Violation

__all__ = ["Asked", "Constraint", "Constraints", "Held", "Violation"]
