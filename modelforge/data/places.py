"""Where rows stand in their files: of all rows in eight bytes each, and of one row its way."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelforge.data.again import ByPlace
from modelforge.data.read import Row


class Places(ByPlace[str]):
    """The place of each row, ``file:line``.

    Args:
        rows: In their order.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        numbers: dict[str, int] = {}
        self._files, self._lines = array("I"), array("I")
        for row in rows:
            self._files.append(numbers.setdefault(row.path, len(numbers)))
            self._lines.append(row.line)
        self._paths = list(numbers)

    def __len__(self) -> int:
        return len(self._lines)

    def item(self, at: int) -> str:
        """The place of one row."""
        return f"{self._paths[self._files[at]]}:{self._lines[at]}"


@dataclass
class Watched:
    """A row whose way is followed.

    Attributes:
        place: The number of its line, or ``file:number``.
        dropped: Its place and why it was dropped, where it was.
    """

    place: str
    dropped: dict[str, str] = field(default_factory=dict)

    def meets(self, where: str) -> bool:
        """Whether this is the row."""
        return f"/{where}".endswith((f"/{self.place}", f":{self.place}"))

    def drop(self, where: str, reason: str) -> None:
        """Note that a row is dropped, if it is this one."""
        if self.meets(where):
            self.dropped[where] = reason

    def __deepcopy__(self, memo: object) -> Watched:
        """Itself: what becomes of a row is not undone."""
        return self
