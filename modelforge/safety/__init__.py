"""Whether a model holds under attack: prompts sent in many dresses, and answers judged.

`Constraints` says what prompts and answers are held to:

>>> from modelforge.safety import Constraints
>>> found = Constraints([{"name": "no cake", "banned": ["cake"]}]).check("What?", "A cupcake!")
>>> found[0].constraint, found[0].side, found[0].what
('no cake', 'output', "holds 'cake'")
"""

from __future__ import annotations

from modelforge.constraints import Constraints, Violation

__all__ = ["Constraints", "Violation"]
