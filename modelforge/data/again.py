"""Rows that are made anew each time they are asked for: what is not held takes no memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar, overload

Item = TypeVar("Item")
Other = TypeVar("Other")


class ByPlace(Sequence[Item]):
    """A sequence whose items are made when they are asked for."""

    @abstractmethod
    def item(self, at: int) -> Item:
        """The item at a place; a negative one counts from the end."""

    def some(self, at: slice) -> Sequence[Item]:
        """The items of a slice."""
        return [self.item(i) for i in range(*at.indices(len(self)))]

    @overload
    def __getitem__(self, at: int) -> Item: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Item]: ...
    def __getitem__(self, at: int | slice) -> Item | Sequence[Item]:
        return self.some(at) if isinstance(at, slice) else self.item(at)

    def __iter__(self) -> Iterator[Item]:
        return map(self.item, range(len(self)))


class Again(ByPlace[Item]):
    """A sequence of which nothing is held.

    Args:
        make: Gives its items, the same each time.
        count: How many there are.
    """

    def __init__(self, make: Callable[[], Iterable[Item]], count: int) -> None:
        self.make, self.size = make, count

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[Item]:
        return iter(self.make())

    def item(self, at: int) -> Item:
        """One of the items; it takes as long as all that stand before."""
        found = next(islice(self, range(self.size)[at], None), None)
        assert found is not None, "its items are as many as they were"
        return found

    def some(self, at: slice) -> Sequence[Item]:
        """Some of the items; it takes as long as all that stand before the last."""
        return list(islice(self, *at.indices(self.size)))


def mapped(items: Sequence[Item], function: Callable[[Item], Other]) -> Sequence[Other]:
    """The items after a function: a list of a list, else made anew each time as they are."""
    if isinstance(items, Again):
        return Again(lambda: map(function, items), len(items))
    return list(map(function, items))
