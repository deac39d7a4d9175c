"""Documents longer than a row → blocks without overlap, for continued pre-training."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelforge.data.check import Tokenised
from modelforge.data.encoded import Encoded
from modelforge.data.files import DOCUMENTS, ending
from modelforge.data.ledger import Ledger

Read = Callable[[Sequence[int]], str]


def in_blocks(
    rows: Sequence[Tokenised], length: int | None, read: Read, ledger: Ledger
) -> Sequence[Tokenised]:
    """The rows, with each document that is longer cut into blocks of ``length`` tokens.

    Args:
        rows: Of one source.
        length: Tokens of a block; None cuts nothing.
        read: Gives the text of tokens.
        ledger: Is told of it.
    """
    if length is None or not any(map(may_be_document, ledger.sources)):
        return rows
    return list(blocks(rows, length, read, ledger))


def may_be_document(source: Mapping[str, Any]) -> bool:
    """Whether a source's rows may be text files."""
    return ending(Path(source["path"])) in DOCUMENTS


def blocks(
    rows: Iterable[Tokenised], length: int, read: Read, ledger: Ledger
) -> Iterator[Tokenised]:
    """The rows, and the blocks of documents."""
    for item in rows:
        found = item.encoded
        if not isinstance(found, Encoded) or not is_document(item):
            yield item
            continue
        (ids,) = found.ids
        starts = [at for at in range(0, len(ids), length) if not at or len(ids) - at > 1]
        if len(starts) < 2:
            yield item
            continue
        what = f"{item.row.path}: cut into {len(starts)} blocks of up to {length} tokens"
        ledger.note(f"{what}, without overlap")
        for start in starts:
            yield block(item, ids[start : start + length], read, last=start == starts[-1])


def is_document(item: Tokenised) -> bool:
    """Whether a row is a text file."""
    return "text" in item.example and ending(Path(item.row.path)) in DOCUMENTS


def block(item: Tokenised, ids: array[int], read: Read, *, last: bool) -> Tokenised:
    """A part of a document as a row; only the last one ends as the document does."""
    encoded = Encoded((ids,), 0, array("i", (0, len(ids))))
    return replace(
        item, example={"text": read(ids)}, encoded=encoded, ends=item.ends if last else None
    )
