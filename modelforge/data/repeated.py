"""Held-out rows that are also trained on, as they are or nearly so."""

from __future__ import annotations

from collections.abc import Sequence

from modelforge.common.progress import track
from modelforge.data.ledger import Ledger, Tally
from modelforge.data.overlap import RUN, Row, shared_rows

NEAR_AMONG = 100_000  # training rows in which nearly the same rows are looked for


def look_for_shared(train: Sequence[Row], evaluation: Sequence[Row], ledger: Ledger) -> None:
    """Count the held-out rows that are also trained on, as they are or nearly so."""
    every = -(-len(train) // NEAR_AMONG) or 1
    if every > 1 and len(evaluation):
        ledger.note(
            f"rows that are nearly held-out ones are looked for in one of {every} training rows"
        )
    others = track(train, "comparing with the held-out rows", len(train))
    for kind, pairs in shared_rows(evaluation, others, every=every).items():
        tally = ledger.words_in_common
        if kind != RUN:
            tally = ledger.shared_with_training.setdefault(kind, Tally())
        for one, other in pairs:
            tally.add(f"{one} = {other}")
