"""Held-out rows, and the mixture of several sources."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Collection, Sequence
from typing import Any

from modelforge.data.check import Checked
from modelforge.data.convert import Example
from modelforge.data.ledger import Ledger
from modelforge.errors import DataError, Problem

# Automatic evaluation split.
EVAL_SHARE = 0.05
EVAL_MOST, EVAL_LEAST, EVAL_FROM = 256, 8, 40


def divide(
    kept: Sequence[Sequence[Checked]],
    eval_split: float | int | None,
    seed: int,
    min_rows: int,
    ledger: Ledger,
    *,
    where: str = "eval_split",
) -> tuple[list[list[Checked]], list[Checked]]:
    """The training rows of each part, and the evaluation rows drawn from all of them.

    Raises:
        DataError: If too few rows would be left.
    """
    rows = [item for part in kept for item in part]
    count, ledger.eval_reason = eval_count(len(rows), eval_split, where)
    if count < 0 or (count and len(rows) - count < max(min_rows, 1)):
        what = f"{eval_split!r} would leave {len(rows) - count} of {len(rows)} rows to train on"
        raise DataError(Problem(where, what, "use a share such as 0.1, or 0 for none"))
    chosen = _drawn([prompt_of(item.example) for item in rows], count, seed)
    numbers = itertools.count()
    train = [[item for item in part if next(numbers) not in chosen] for part in kept]
    return train, [rows[i] for i in sorted(chosen)]


def divide_by_prompt(
    kept: Sequence[Sequence[Checked]], prompts: Collection[str]
) -> tuple[list[list[Checked]], list[Checked]]:
    """The same by the prompts (see `prompt_of`) that are held out."""
    train = [[item for item in part if prompt_of(item.example) not in prompts] for part in kept]
    held_out = [item for part in kept for item in part if prompt_of(item.example) in prompts]
    return train, held_out


def prompt_of(example: Example) -> str:
    """What a row asks, whatever its kind: rows that ask the same are never on two sides.

    For a conversation that is all before its last answer. A plain text asks nothing but itself.
    """
    asked: Any = example.get("prompt")
    if asked is None and "messages" in example:
        messages = example["messages"]
        last = max((i for i, m in enumerate(messages) if m["role"] == "assistant"), default=0)
        asked = messages[:last]
    if not asked:
        return json.dumps(example, sort_keys=True, default=str)
    if not isinstance(asked, str):
        asked = [[message.get("role"), message.get("content")] for message in asked]
    return json.dumps(asked, sort_keys=True, default=str)


def _drawn(prompts: Sequence[str], count: int, seed: int) -> set[int]:
    """``count`` rows, or a few less: all rows of a prompt or none, in the order of a hash of it.

    So a prompt stays on its side when rows are added or dropped, as far as the count allows.
    """
    rows_of: dict[str, list[int]] = {}
    for i, prompt in enumerate(prompts):
        rows_of.setdefault(prompt, []).append(i)

    def by_hash(text: str) -> bytes:
        return hashlib.blake2b(f"{seed} {text}".encode(), digest_size=8).digest()

    chosen: set[int] = set()
    for prompt in sorted(rows_of, key=by_hash):
        if len(chosen) + len(rows_of[prompt]) <= count:
            chosen.update(rows_of[prompt])
    if chosen:
        return chosen
    # Each prompt has more rows than are to be held out: they are divided after all.
    return set(random.Random(seed).sample(range(len(prompts)), count))


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
    parts: Sequence[Sequence[Checked]],
    weights: Sequence[float | None],
    seed: int,
    ledger: Ledger,
) -> list[int]:
    """The order of training rows, as indices into all parts end to end.

    Raises:
        DataError: If a weighted part has no usable row.
    """
    starts = [sum(map(len, parts[:i])) for i in range(len(parts))]
    total = sum(map(len, parts))
    if len(parts) == 1 or all(weight is None for weight in weights):
        return list(range(total))
    empty = [i for i, rows in enumerate(parts) if not rows]
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
