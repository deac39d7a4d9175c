"""What each project has of its own beside its table: how its files say what they train, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from modelforge.importing import kinds, tuning
from modelforge.importing.kinds import Kind
from modelforge.importing.theirs import Theirs


class Project(NamedTuple):
    """One project.

    Attributes:
        kind: Which strategy a file is for.
        tuning: Whether a file trains LoRA or all weights.
        programs: The programs whose command lines are of the project.
    """

    kind: Callable[[Theirs], Kind]
    tuning: Callable[[Theirs], None]
    programs: tuple[str, ...] = ()


#: By the name of the table in ``configs/peers``.
PROJECTS = {
    "trl": Project(kinds.trl, tuning.trl, ("trl",)),
    "handbook": Project(kinds.trl, tuning.trl),
    "llamafactory": Project(kinds.llamafactory, tuning.llamafactory, ("llamafactory-cli",)),
    "axolotl": Project(kinds.axolotl, tuning.axolotl, ("axolotl",)),
    "swift": Project(kinds.swift, tuning.swift, ("swift", "megatron")),
    "torchtune": Project(kinds.torchtune, tuning.torchtune, ("tune",)),
    "unsloth": Project(kinds.unsloth, tuning.unsloth, ("python",)),
    "sections": Project(kinds.sections, tuning.sections),
}


def of_program(program: str) -> str:
    """The project whose command lines a program reads; empty for one that is not known."""
    return next((name for name, each in PROJECTS.items() if program in each.programs), "")
