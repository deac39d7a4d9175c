"""Files → examples in the normal form of a kind, with what became of every row in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from modelforge.common.progress import track
from modelforge.data.again import Again
from modelforge.data.beside import beside
from modelforge.data.convert import DataKind, Example, Mode
from modelforge.data.dialogue import Skip
from modelforge.data.exports import plain
from modelforge.data.labels import parted
from modelforge.data.ledger import Ledger
from modelforge.data.read import Row, Table
from modelforge.data.recognise import recognise, rename
from modelforge.data.shapes import shaped, spread
from modelforge.data.sources import Part, Parts
from modelforge.data.special import segments_to_tokens
from modelforge.data.threads import joined
from modelforge.data.unused import count, refuse
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Pair = tuple[Row, Example]


Kept = TypeVar("Kept")


def convert_all(
    parts: Parts,
    mode: Mode,
    ledger: Ledger,
    tokenizer: PreTrainedTokenizerBase | None,
    keep: Callable[[Iterator[Pair]], Kept],
) -> list[Kept]:
    """The examples of each part, kept as the caller keeps them.

    Args:
        parts: The files' rows.
        mode: What is made of them.
        ledger: Is told of it.
        tokenizer: Of rows in pieces, which become tokens here; None leaves them.
        keep: Takes the examples of one part.

    Raises:
        DataError: If a file's format is not recognised, or a mapped column is missing.
    """
    problems: list[Problem] = []

    def examples(part: Part, role: str) -> Iterator[Pair]:
        for table in part.tables:
            try:
                found = convert(table, mode, part.columns, ledger, role)
                told = track(found, f"converting {table.path}", len(table.rows))
                yield from segments_to_tokens(told, tokenizer) if tokenizer else told
            except DataError as error:
                problems.extend(error.problems)

    made = [keep(examples(part, "train")) for part in parts.train]
    made += [keep(examples(part, "eval")) for part in parts.evaluation]
    if problems:
        raise DataError(*problems)
    return made


def convert(
    table: Table, mode: Mode, columns: Mapping[str, str], ledger: Ledger, role: str
) -> Iterator[tuple[Row, Example]]:
    """The examples of one file, whose format goes into the ledger."""
    rows = _brought_into_shape(table, mode, columns, ledger)
    match = recognise(rows, mode.kind, tuple(columns))
    form = match.format
    ledger.sources.append(
        {
            "path": table.path,
            "role": role,
            "format": form.name,
            "columns": dict(match.columns),
            "rows": len(rows),
            "kept": 0,
            "sha256": table.sha256,
            "revision": table.revision,
        }
    )
    if mode.kind == "demonstration" and "preference" in form.serves:
        ledger.note(
            f"{table.path}: of answers compared or rated only the chosen (preferred, best, good) "
            "ones are demonstrations"
        )
    if mode.kind == "labelled" and "label" not in form.columns:
        ledger.note(f"{table.path}: each pair gives two answers: the better good, the worse bad")
    scores = [match.columns.get(role) for role in ("chosen_score", "rejected_score")]
    if mode.kind == "preference" and all(scores):
        ledger.note(
            f"{table.path}: {' and '.join(map(str, scores))} are no margin, and nothing is trained "
            "on them; a margin for `reward` needs a column named margin"
        )

    def drop(skip: Skip, row: Row) -> None:
        column = match.columns.get(skip.role, skip.role)
        ledger.drop(f"{skip.reason}: {column}" if skip.role else skip.reason, row.where)

    used = set(match.columns.values())
    rows = refused(rows, used, mode.kind, by_hand=bool(columns), drop=drop)
    count(rows, used, mode.kind, ledger, answers=match.columns.get("replies"))
    made = form.convert(match.items(rows), mode, drop)
    for row, example in parted(made) if mode.kind == "labelled" else made:
        try:
            example |= beside(row.cells, match.columns, example)
        except Skip as skip:
            drop(skip, row)
            continue
        # Only prompt rows hand their other cells on.
        yield row if mode.kind == "prompt" else Row({}, row.path, row.line), example


def _brought_into_shape(
    table: Table, mode: Mode, columns: Mapping[str, str], ledger: Ledger
) -> Sequence[Row]:
    """The rows of one file under the names that layouts know; the ledger tells what was done."""
    for note in table.notes:
        ledger.note(note)
    ledger.warnings.extend(table.doubts)
    rows, tool = plain(table.rows)
    if tool:
        ledger.note(f"{table.path}: an export of {tool}, of which the first answer is read")
    rows = spread(rows)
    if not columns:
        pairs = mode.kind in ("preference", "labelled")
        rows, told = joined(table.path, rows, pairs=pairs)
        if told:
            ledger.note(told)
        rows, shape = shaped(rows, mode.kind)
        if shape:
            ledger.note(f"{table.path}: its columns are read as {shape}")
    return rename(rows, columns, mode.kind) if columns else rows


def refused(
    rows: Sequence[Row],
    used: Collection[str],
    kind: DataKind,
    *,
    by_hand: bool,
    drop: Callable[[Skip, Row], None],
) -> Sequence[Row]:
    """The rows of which nothing is passed over that changes what they say (see `refuse`)."""
    if not isinstance(rows, Again):
        return list(refuse(rows, used, kind, by_hand=by_hand, drop=drop))
    left = sum(1 for _ in refuse(rows, used, kind, by_hand=by_hand, drop=drop))

    def again() -> Iterator[Row]:
        return refuse(rows, used, kind, by_hand=by_hand, drop=lambda skip, row: None)

    return Again(again, left)
