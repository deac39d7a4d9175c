"""Held-out rows, and the mixture of several sources."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from modelforge.data.check import joined
from modelforge.data.ledger import Ledger
from modelforge.errors import DataError, Problem

if TYPE_CHECKING:
    from modelforge.data.check import Kept

# Automatic evaluation split.
EVAL_SHARE = 0.05
EVAL_MOST, EVAL_LEAST, EVAL_FROM = 256, 8, 40


def divide(
    kept: Sequence[Kept],
    eval_split: float | int | None,
    seed: int,
    min_rows: int,
    ledger: Ledger,
    *,
    where: str = "eval_split",
) -> tuple[list[Kept], Kept]:
    """The training rows of each part, and the evaluation rows drawn from all of them.

    Rows that ask the same stand on one side, unless there are more of them than are held out.

    Raises:
        DataError: If too few rows would be left.
    """
    rows = joined(kept)
    count, ledger.eval_reason = eval_count(len(rows), eval_split, where)
    if count < 0 or (count and len(rows) - count < max(min_rows, 1)):
        what = f"{eval_split!r} would leave {len(rows) - count} of {len(rows)} rows to train on"
        raise DataError(Problem(where, what, "use a share such as 0.1, or 0 for none"))
    return parted(kept, drawn(rows["asked"], rows["content"], count, seed))


def divide_as(kept: Sequence[Kept], prompts: Collection[int]) -> tuple[list[Kept], Kept]:
    """The same by what the rows ask: those whose fingerprint is among ``prompts`` are held out."""
    import numpy as np

    wanted = np.fromiter(prompts, "u8", len(prompts))
    return parted(kept, np.isin(joined(kept)["asked"], wanted))


def parted(kept: Sequence[Kept], chosen: Kept) -> tuple[list[Kept], Kept]:
    """The rows of each part that are not chosen, and those of all parts that are."""
    import numpy as np

    rows = joined(kept)
    ends = np.cumsum([len(part) for part in kept])[:-1]
    parts = zip(kept, np.split(chosen, ends), strict=True)
    return [part[~those] for part, those in parts], rows[chosen]


def drawn(asked: Kept, content: Kept, count: int, seed: int) -> Kept:
    """Which rows are held out: ``count`` or a few less, as a hash of what they ask has it.

    So a prompt stays on its side when rows are added or left out, as far as the count allows, and
    in whatever form the same rows are read.

    Args:
        asked: A fingerprint of what each row asks, (N,).
        content: One of all that it says.
        count: How many rows are wanted.
        seed: Of the draw.
    """
    import numpy as np

    _, group, sizes = np.unique(asked, return_inverse=True, return_counts=True)
    # What more rows ask than are held out is no prompt of its own: a fixed instruction, perhaps.
    keys = np.where(sizes[group] > count, content ^ np.uint64(1), asked)
    _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    alike = sizes[group] > count  # rows that differ in nothing, or in columns alone
    keys = np.where(alike, keys + np.arange(len(keys), dtype="u8"), keys)
    keys, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    chosen, room = np.zeros(len(keys), bool), count
    for at in np.argsort(_mixed(keys, seed), kind="stable"):
        if room == 0:
            break
        if sizes[at] <= room:
            chosen[at], room = True, room - int(sizes[at])
    return chosen[group]


def _mixed(keys: Kept, seed: int) -> Kept:
    """Fingerprints in an order of this seed: the finaliser of SplitMix64 (Steele et al. 2014)."""
    import numpy as np

    with np.errstate(over="ignore"):
        x = keys + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def eval_count(
    rows: int, eval_split: float | int | None, where: str = "eval_split"
) -> tuple[int, str]:
    """How many of ``rows`` are held out, and why."""
    if eval_split is None:
        if rows < EVAL_FROM:
            return 0, f"automatic: none of fewer than {EVAL_FROM} rows"
        count = min(EVAL_MOST, max(EVAL_LEAST, round(EVAL_SHARE * rows)))
        return count, f"automatic: {EVAL_SHARE:.0%}, {EVAL_LEAST} to {EVAL_MOST} rows"
    if eval_split == 0:
        return 0, f"{where} is 0"
    if 0 < eval_split < 1:
        return max(1, round(eval_split * rows)), f"{where} {eval_split:g}"
    return int(eval_split), f"{where} {eval_split:g} rows"


def mixture(
    parts: Sequence[Kept],
    weights: Sequence[float | None],
    seed: int,
    ledger: Ledger,
) -> Sequence[int]:
    """The order of training rows, as indices into all parts end to end.

    Raises:
        DataError: If a weighted part has no usable row.
    """
    starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
    total = sum(map(len, parts))
    if len(parts) == 1 or all(weight is None for weight in weights):
        return range(total)
    empty = [i for i, rows in enumerate(parts) if not len(rows)]
    if empty:
        problems = [Problem(f"dataset[{i}]", "no row of it can be used") for i in empty]
        raise DataError(*problems)
    from datasets import Dataset, interleave_datasets

    given = [1.0 if weight is None else float(weight) for weight in weights]
    shares = [weight / sum(given) for weight in given]
    mixed = interleave_datasets(
        [
            Dataset.from_dict({"row": range(start, start + len(rows))})
            for start, rows in zip(starts, parts, strict=True)
        ],
        probabilities=shares,
        seed=seed,
        stopping_strategy="all_exhausted",
    )
    order: list[int] = mixed["row"][:]
    ledger.note(
        f"mixed {total} rows into {len(order)} with shares "
        + ", ".join(f"{share:.2f}" for share in shares)
    )
    return order
