"""Rows chosen from those that were read, in the order they are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelforge.data.again import ByPlace
from modelforge.data.check import Tokenised
from modelforge.data.encoded import Encoded
from modelforge.data.places import Places

if TYPE_CHECKING:
    from modelforge.data.check import Kept


class Chosen(ByPlace[Tokenised]):
    """Rows of several parts in one order.

    Args:
        parts: The rows that were read.
        kept: Which of them, with the columns ``part`` and ``at``.
    """

    def __init__(self, parts: Sequence[Sequence[Tokenised]], kept: Kept) -> None:
        self.parts, self.kept = parts, kept[["part", "at"]]

    @property
    def held(self) -> bool:
        """Whether all of them are in memory."""
        return all(isinstance(part, list) for part in self.parts)

    def __len__(self) -> int:
        return len(self.kept)

    def item(self, at: int) -> Tokenised:
        """One of the rows."""
        part, place = self.kept[at].tolist()
        return self.parts[part][place]

    def some(self, at: slice) -> Chosen:
        """Some of the rows, as such a sequence."""
        return Chosen(self.parts, self.kept[at])


class Tokens(ByPlace[Encoded]):
    """The tokens of rows.

    Args:
        rows: None of which the chat template refused.
    """

    def __init__(self, rows: Sequence[Tokenised]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, at: int) -> Encoded:
        """The tokens of a row."""
        found = self.rows[at].encoded
        assert isinstance(found, Encoded), "rows without tokens are not kept"
        return found

    def some(self, at: slice) -> Tokens:
        """The tokens of some rows, as such a sequence."""
        return Tokens(self.rows[at])


def encoded(rows: Chosen) -> Sequence[Encoded]:
    """The tokens of rows: a list where these are held."""
    tokens = Tokens(rows)
    return list(tokens) if rows.held else tokens


class Wheres(ByPlace[str]):
    """The places of rows that are not held, ``file:line``.

    Args:
        rows: In their order.
    """

    def __init__(self, rows: Chosen) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def item(self, at: int) -> str:
        """The place of one row."""
        return self.rows[at].row.where


def places_of(rows: Chosen) -> Sequence[str]:
    """The place of each row, ``file:line``, without holding the rows."""
    return Places(item.row for item in rows) if rows.held else Wheres(rows)
