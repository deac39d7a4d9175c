"""A row in tokens, with what of it is trained on."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MASKED = -100  # the label that torch's cross entropy ignores


@dataclass(slots=True)
class Encoded:
    """One example in tokens, uncut; four bytes a token, for all rows of a data set are held.

    Attributes:
        ids: The sequences: one for a demonstration or a prompt, chosen and rejected for a pair.
        start: The index of the first token to train on; of a pair the same in both.
        spans: Of a demonstration: where supervised tokens begin and end (begin, end, begin, …).
        findings: What the template did to it (see `modelforge.data.advice.FINDINGS`).
    """

    ids: tuple[array[int], ...]
    start: int
    spans: array[int] | None = None
    findings: tuple[str, ...] = ()

    def labels(self, limit: int | None = None) -> array[int]:
        """Labels of a demonstration's first ``limit`` tokens: ids, or -100 where masked."""
        (ids,) = self.ids
        labels = array("i", [MASKED]) * len(ids)
        for begin, end in pairwise(self.spans):
            labels[begin:end] = ids[begin:end]
        return labels[:limit]

    def supervised(self, limit: int | None = None) -> int:
        """How many of a demonstration's first ``limit`` tokens the loss is taken on."""
        spans = self.spans
        if spans and (limit is None or spans[-1] <= limit):
            return sum(spans[1::2]) - sum(spans[::2])
        most = len(self.ids[0]) if limit is None else limit
        return sum(max(0, min(end, most) - begin) for begin, end in pairwise(spans))


def pairwise(spans: array[int] | None) -> Iterator[tuple[int, int]]:
    """Spans as pairs of begin and end."""
    borders = iter(spans or ())
    return zip(borders, borders, strict=True)


def compact(
    *ids: list[int],
    start: int,
    spans: Sequence[int] | None = None,
    findings: tuple[str, ...] = (),
) -> Encoded:
    """An example from lists of token ids."""
    return Encoded(
        tuple(array("i", sequence) for sequence in ids),
        start,
        None if spans is None else array("i", spans),
        findings,
    )
