"""Two answers and which of them is preferred → pairs, or the preferred one alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from modelforge.data.compare import is_good
from modelforge.data.convert import (
    Cells,
    Converter,
    Drop,
    Example,
    Item,
    Made,
    Mode,
    number,
    row_by_row,
)
from modelforge.data.dialogue import Message, Skip
from modelforge.data.pairs import read_pair
from modelforge.data.turns import earlier_turns, from_json

# What a preference cell may say: 1 for the first response, -1 for the second, 0 for a tie.
SIDES = {
    **dict.fromkeys(("a", "response_a", "answer_a", "model_a", "left", "first"), 1),
    **dict.fromkeys(("b", "response_b", "answer_b", "model_b", "right", "second"), -1),
    **dict.fromkeys(("response_1", "answer_1"), 1),
    **dict.fromkeys(("response_2", "answer_2"), -1),
    **dict.fromkeys(("tie", "both", "none", "equal", "same", "neither", "tie (bothbad)"), 0),
    **dict.fromkeys(("both_bad", "bothbad", "both_good", "tie (both bad)", "draw"), 0),
}
# Of answers that are counted from 0.
FROM_ZERO = {
    **SIDES,
    **dict.fromkeys(("0", "response_0", "answer_0"), 1),
    **dict.fromkeys(("1", "response_1", "answer_1"), -1),
}


def convert_compared(items: Iterable[Item], mode: Mode, drop: Drop) -> Made:
    """Two responses and which of them is preferred.

    Numbers are read by what the whole file holds: 1/-1 and 1/2 (0 a tie), or 0/1 (0 the first) in
    a file with a 0 and neither -1 nor 2.
    """
    items = list(items)
    said = {spelt(item.cells.get("preference")) for item in items}
    if "-1" in said:
        sides = {**SIDES, "1": 1, "-1": -1, "0": 0}
    elif "0" in said and "2" not in said:
        sides = {**SIDES, "0": 1, "1": -1}
    else:
        sides = {**SIDES, "1": 1, "2": -1, "0": 0}
    return row_by_row(partial(read_named, sides))(items, mode, drop)


def read_named(sides: Mapping[str, int], cells: Cells, mode: Mode) -> Iterator[Example]:
    """A row that names the preferred of its two answers."""
    yield from read_side(sides.get(spelt(cells.get("preference"))), cells, mode)


def read_side(side: float | None, cells: Cells, mode: Mode) -> Iterator[Example]:
    """A row whose first (above 0) or second answer (below 0) is preferred."""
    if mode.kind == "prompt":
        side = side or 1
    if side is None:
        raise Skip("preference not understood")
    if side == 0:
        raise Skip("tie")
    first, second = ("a", "b") if side > 0 else ("b", "a")
    named = {"chosen": cells.get(first), "rejected": cells.get(second)}
    yield from read_pair({**cells, **named}, mode)


def spelt(value: Any) -> str:
    """A preference cell in lower case, whole numbers without ``.0``."""
    if isinstance(value, bool) or value is None:
        return ""
    try:
        as_float = float(value)
        return str(int(as_float)) if as_float.is_integer() else str(as_float)
    except (TypeError, ValueError, OverflowError):
        return str(value).strip().lower()


def read_strength(cells: Cells, mode: Mode) -> Iterator[Example]:
    """HelpSteer: how much better the second answer is; a number below 0 prefers the first."""
    strength = None if mode.kind == "prompt" else -number(cells.get("strength"))
    yield from read_side(strength, cells, mode)


def read_two_scores(cells: Cells, mode: Mode) -> Iterator[Example]:
    """WebGPT: a score for each of the two answers."""
    known = mode.kind != "prompt"
    gap = number(cells.get("score_a")) - number(cells.get("score_b")) if known else None
    yield from read_side(gap, cells, mode)


def read_winner(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Chatbot Arena: a mark for each side that won; a list of texts is one text a turn."""
    wins = [0, 0]
    if mode.kind != "prompt":
        wins = [int(is_good(cells.get(role))) for role in ("first_wins", "second_wins")]
    asked = from_json(cells.get("prompt"))
    if isinstance(asked, list):
        told = {side: in_turns(asked, from_json(cells.get(side))) for side in ("a", "b")}
        cells = {role: value for role, value in {**cells, **told}.items() if role != "prompt"}
    yield from read_side(wins[0] - wins[1], cells, mode)


def in_turns(asked: list[Any], answered: Any) -> list[Message]:
    """What one side of a comparison was asked and answered, turn by turn.

    Raises:
        Skip: If an answer is missing.
    """
    if not isinstance(answered, list) or len(answered) != len(asked):
        raise Skip("turns not understood", "prompt")
    return earlier_turns([list(pair) for pair in zip(asked, answered, strict=True)], "prompt")


convert_from_zero: Converter = row_by_row(partial(read_named, FROM_ZERO))
# SHP: 1 where the first answer is the better, 0 where the second is.
convert_first_better: Converter = row_by_row(partial(read_named, {"1": 1, "0": -1}))
