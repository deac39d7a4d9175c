"""Rows chosen from those that were read, in the order they are trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, overload

from modelforge.data.check import Tokenised
from modelforge.data.tokens import Encoded

if TYPE_CHECKING:
    from modelforge.data.check import Kept


class Chosen(Sequence[Tokenised]):
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

    @overload
    def __getitem__(self, at: int) -> Tokenised: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Tokenised]: ...
    def __getitem__(self, at: int | slice) -> Tokenised | Sequence[Tokenised]:
        """One of the rows, or some as such a sequence."""
        if isinstance(at, slice):
            return Chosen(self.parts, self.kept[at])
        part, place = self.kept[at].tolist()
        return self.parts[part][place]

    def __iter__(self) -> Iterator[Tokenised]:
        return (self[i] for i in range(len(self)))


class Tokens(Sequence[Encoded]):
    """The tokens of rows.

    Args:
        rows: None of which the chat template refused.
    """

    def __init__(self, rows: Sequence[Tokenised]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, at: int) -> Encoded: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, at: int | slice) -> Encoded | Sequence[Encoded]:
        """The tokens of a row, or of some as such a sequence."""
        if isinstance(at, slice):
            return Tokens(self.rows[at])
        found = self.rows[at].encoded
        assert isinstance(found, Encoded), "rows without tokens are not kept"
        return found


def encoded(rows: Chosen) -> Sequence[Encoded]:
    """The tokens of rows: a list where these are held."""
    tokens = Tokens(rows)
    return list(tokens) if rows.held else tokens
