"""Which rows a preview shows: the first, the longest, some at random, or one that was asked for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from modelforge.data.advice import ADVICE
from modelforge.data.encoded import Encoded
from modelforge.data.places import Watched
from modelforge.data.rows import Data
from modelforge.errors import DataError, Problem


@dataclass(frozen=True)
class Shown:
    """A row of a preview.

    Attributes:
        where: Its place, ``file:line``.
        row: In tokens; None where it was dropped.
        fate: ``trained on``, ``held out``, or why it was dropped.
    """

    where: str
    row: Encoded | None
    fate: str


def some_rows(data: Data, count: int, *, longest: bool, seed: int | None) -> list[Shown]:
    """Rows to train on.

    Args:
        data: As read.
        count: How many.
        longest: Those with the most tokens, the longest first.
        seed: Of a draw at random; None for the first rows.
    """
    numbers: Sequence[int] = range(len(data.train_tokens))
    if longest:
        lengths = [max(map(len, row.ids)) for row in data.train_tokens]
        numbers = sorted(numbers, key=lambda i: -lengths[i])
    elif seed is not None:
        numbers = random.Random(seed).sample(numbers, min(count, len(numbers)))
    return [
        Shown(data.train_places[i], data.train_tokens[i], "trained on") for i in numbers[:count]
    ]


def one_row(data: Data, watched: Watched) -> list[Shown]:
    """The row that was asked for; several where it gave several, such as pairs.

    Raises:
        DataError: If there is none, or one in several files.
    """
    found = [
        Shown(where, tokens[i], fate)
        for places, tokens, fate in (
            (data.train_places, data.train_tokens, "trained on"),
            (data.eval_places, data.eval_tokens, "held out"),
        )
        for i, where in enumerate(places)
        if watched.meets(where)
    ]
    found = list({id(item.row): item for item in found}.values())  # a mixture repeats rows
    kept = {item.where for item in found}
    for where, reason in watched.dropped.items():
        if where not in kept:
            advice = ADVICE.get(reason.split(":")[0], "")
            found.append(Shown(where, None, f"dropped: {reason}{f' ({advice})' if advice else ''}"))
    names = sorted({item.where for item in found})
    if not found:
        files = ", ".join(source["path"] for source in data.ledger.sources)
        what = f"no row begins there; read were {files}"
        fix = "give the number of its line (in a table without lines, of the row), or FILE:NUMBER"
        raise DataError(Problem(f"--row {watched.place}", what, fix))
    if len(names) > 1:
        what = f"is in several files: {', '.join(names)}"
        raise DataError(Problem(f"--row {watched.place}", what, "name the file too"))
    return found
