"""What taking one answer of each pair without reading it gets: the longer one, or the first one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelforge.evaluation.items import Item


def longer_and_first(pairs: Sequence[Item]) -> dict[str, float]:
    """How often the better answer is the longer one, and how often it is the first one.

    Args:
        pairs: Rows with a better and a worse answer.

    Returns:
        Rule → share. ``always first`` only where the file holds both answers in its own order, and
        says apart which one is better: else the column is the label.
    """
    if not pairs:
        return {}
    gaps = [len(item.sides[0].text) - len(item.sides[1].text) for item in pairs]
    longer = sum(0.5 if gap == 0 else float(gap > 0) for gap in gaps) / len(gaps)
    found = {"always longer": longer, "always shorter": 1 - longer}
    places = [_places(item) for item in pairs]
    whole = [place for place in places if place is not None]
    if len(whole) == len(pairs) and len(set(whole)) > 1:
        found["always first"] = sum(better < worse for better, worse in whole) / len(whole)
    return found | {"a coin": 0.5}


def _places(item: Item) -> tuple[int, int] | None:
    """Where the file's row holds the better and the worse answer; None where it does not."""
    cells = [v.strip() if isinstance(v, str) else v for k, v in item.columns.items()
             if k != "answer"]  # fmt: skip
    found = [cells.index(side.text.strip()) if side.text.strip() in cells else -1
             for side in item.sides]  # fmt: skip
    return (found[0], found[1]) if min(found) >= 0 and found[0] != found[1] else None
