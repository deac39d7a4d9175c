"""One constraint, and that it is broken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from modelforge.common.constraint import ConstraintEntry
from modelforge.constraints.entries import BY_MODEL, MESSAGE, plain_rule, replacement_of, rule_of
from modelforge.constraints.rules import Rule


@dataclass(frozen=True)
class Violation:
    """A constraint that is broken.

    Attributes:
        constraint: Its name.
        side: ``input`` for the prompt, ``output`` for the answer.
        action: ``block``, ``rewrite``, ``warn`` or ``log``.
        what: What breaks it, for a reader.
    """

    constraint: str
    side: str
    action: str
    what: str

    def __str__(self) -> str:
        return f"{self.constraint}: the {self.side} {self.what}"


@dataclass(frozen=True)
class Constraint:
    """One constraint.

    Attributes:
        entry: As it was written.
        base_dir: Where relative paths begin.
    """

    entry: ConstraintEntry
    base_dir: Path

    @cached_property
    def rule(self) -> Rule:
        """What decides it; a model is loaded when it is asked first."""
        if rule_of(self.entry) in BY_MODEL:
            from modelforge.constraints.models import rule_by_model

            return rule_by_model(self.entry, self.base_dir)
        return plain_rule(self.entry)

    @property
    def on_output(self) -> bool:
        """Whether answers are held to it."""
        return self.entry.on != "input"

    @property
    def on_input(self) -> bool:
        """Whether prompts are held to it."""
        return self.entry.on != "output"

    @property
    def replacement(self) -> str:
        """What stands in the place of what is taken out."""
        return replacement_of(self.entry)

    @property
    def message(self) -> str:
        """What is answered in place of what is blocked."""
        return self.entry.message or MESSAGE

    def violation(self, side: str, what: str) -> Violation:
        """That it is broken."""
        return Violation(self.entry.name, side, self.entry.action, what)
