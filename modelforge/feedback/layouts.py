"""Votes in the layouts of other tools, and theirs as votes: Argilla, Label Studio, the arena.

What a layout has no place for goes beside it, under ``modelforge``. So no vote is lost on the way
there and back, and a file that never was here is read by what its own tool writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelforge.errors import DataError, Problem, did_you_mean
from modelforge.feedback.arena import from_arena, to_arena
from modelforge.feedback.argilla import from_argilla, to_argilla
from modelforge.feedback.between import OURS, Unread
from modelforge.feedback.label_studio import from_label_studio, to_label_studio
from modelforge.feedback.votes import Vote, key_of

Write = Callable[[Sequence[Vote]], list[dict[str, Any]]]
Read = Callable[[Mapping[str, Any]], list[Vote]]
LAYOUTS: dict[str, tuple[Write, Read]] = {
    "argilla": (to_argilla, from_argilla),
    "label-studio": (to_label_studio, from_label_studio),
    "arena": (to_arena, from_arena),
}


def layout(name: str) -> tuple[Write, Read]:
    """How a layout is written and read.

    Raises:
        DataError: If there is none of that name.
    """
    if name not in LAYOUTS:
        fix = did_you_mean(name, LAYOUTS)
        raise DataError(Problem(f"--layout {name}", "is no layout of votes", fix))
    return LAYOUTS[name]


def recognised(record: Mapping[str, Any]) -> str | None:
    """The layout of a record, or None."""
    if "fields" in record and "responses" in record:
        return "argilla"
    if "data" in record and "annotations" in record:
        return "label-studio"
    battle = {"conversation_a", "conversation_b"}, {"response_a", "response_b"}
    return "arena" if any(names <= set(record) for names in battle) else None


def votes_of(records: Iterable[Mapping[str, Any]], read: Read, path: Path) -> list[Vote]:
    """The votes of all records.

    An annotator who judged the same answers twice has two votes: the second is kept under a name
    of its own. Of a ranking that was written as several rows each row gives the whole; it counts
    once.

    Raises:
        DataError: With every record that cannot be read, and why.
    """
    found: dict[tuple[str, tuple[str, ...], str], Vote] = {}
    problems = []
    for number, record in enumerate(records, 1):
        try:
            for vote in read(record):
                if len(set(vote.answers)) < len(vote.answers):
                    raise Unread("has the same answer twice")
                who, times = vote.annotator, 1
                while OURS not in record and (key_of(vote.prompt), vote.answers, who) in found:
                    times += 1
                    who = f"{vote.annotator}#{times}"
                found[key_of(vote.prompt), vote.answers, who] = replace(vote, annotator=who)
        except Unread as error:
            problems.append(Problem(f"{path}: record {number}", str(error)))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            what = f"is not as this layout has it: {type(error).__name__} {error}"
            problems.append(Problem(f"{path}: record {number}", what))
    if problems:
        raise DataError(*problems[:10])
    return list(found.values())
