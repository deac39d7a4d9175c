"""Principles of a file of constraints: what a model is asked about its own answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelforge.constraints.entries import problems_of, read_entries, rule_of
from modelforge.constraints.one import Constraint
from modelforge.errors import ConfigError, Problem


@dataclass(frozen=True)
class Principle:
    """What an answer is held to.

    Attributes:
        name: Short.
        critique: Asks the model what of its answer offends against it.
        revision: Asks it to write the answer anew.
        constraint: The entry's rule, which a revision may not break; None where it has none.
    """

    name: str
    critique: str
    revision: str
    constraint: Constraint | None = None

    def broken(self, prompt: str, text: str) -> bool:
        """Whether an answer breaks the rule."""
        rule = None if self.constraint is None else self.constraint.rule
        return rule is not None and rule.broken(text, prompt) is not None


def read_principles(path: Path) -> list[Principle]:
    """The critiques and revisions of a file of constraints.

    Raises:
        UserError: With everything that is wrong with it, or if it holds none.
    """
    entries = read_entries(path)
    problems = problems_of(entries, where=str(path), base_dir=path.parent, in_file=True)
    if problems:
        raise ConfigError(*problems)
    found = [
        Principle(each.name, each.critique, each.revision,
                  Constraint(each, path.parent) if rule_of(each) else None)
        for each in entries
        if each.critique is not None and each.revision is not None
    ]  # fmt: skip
    if not found:
        fix = 'write [{"name": …, "critique": "Say what …", "revision": "Rewrite …"}]'
        raise ConfigError(Problem(str(path), "holds no principle with critique and revision", fix))
    return found
