"""All of a file of feedback, ratings and votes, as rows of one kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.feedback.annotators import weights
from modelforge.feedback.collected import open_collected
from modelforge.feedback.decided import (
    Decided,
    demonstration_rows,
    labelled_rows,
    preference_rows,
    with_margins,
)
from modelforge.feedback.rows import demonstrations, labelled, preferences
from modelforge.feedback.store import read

_OF_VOTES: dict[str, Callable[..., Decided]] = {
    "preference": preference_rows,
    "labelled": labelled_rows,
    "demonstration": demonstration_rows,
}
_OF_RATINGS: dict[str, Callable[..., list[dict[str, Any]]]] = {
    "preference": preferences,
    "labelled": labelled,
    "demonstration": demonstrations,
}


@dataclass(frozen=True)
class Exported:
    """What became of a file.

    Attributes:
        rows: To train on.
        left_out: Of each pair or answer without a row why, and what was said.
        dropped: The names of annotators whose votes do not count.
        ratings, votes: How many the file holds.
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, Any]]
    dropped: list[str]
    ratings: int
    votes: int

    def reasons(self) -> dict[str, int]:
        """Each reason to leave something out, and how often it held."""
        return dict(Counter(each["why"] for each in self.left_out))


def export(file: Path, kind: str, *, conflicts: str = "vote", careless: str = "keep") -> Exported:
    """Everything that people said, as rows.

    Args:
        file: That `modelforge serve` or `modelforge collect` wrote.
        kind: ``preference``, ``labelled`` or ``demonstration``.
        conflicts: ``vote`` or ``leave-out``; see `preference_rows`.
        careless: ``keep``, ``drop`` or ``weigh``; see `weights`.

    Raises:
        UserError: If it is no such file, or there is no such way.
    """
    store = open_collected(file)
    votes = []
    if store is not None:
        with closing(store):
            votes = store.votes()
    ratings = list(read(file, none_is_fine=store is not None))
    counted = weights(votes, careless)
    found = _OF_VOTES[kind](votes, conflicts=conflicts, weights=counted)
    rated = _OF_RATINGS[kind](ratings)
    if kind == "preference" and found.rows:
        rated = with_margins(rated)
    names = {vote.annotator: vote.name for vote in votes}
    dropped = [name for who, name in names.items() if counted.get(who) == 0]
    return Exported([*rated, *found.rows], found.left_out, dropped, len(ratings), len(votes))
