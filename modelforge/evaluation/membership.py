"""Membership: whether the trained model's loss tells rows it was trained on from rows it never saw.

For a row that was trained on and one that was held out, drawn at random, how often has the first
one the lower loss? That share is the area under the curve of the attack by loss (Yeom et al. 2018,
"Privacy risk in machine learning"). One half says that nothing of single rows is remembered. The
same before training says how far both sets differ anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modelforge.evaluation.items import sequences
from modelforge.measuring.intervals import wilson

if TYPE_CHECKING:
    from modelforge.data import Data
    from modelforge.evaluation.guards import Guard

COUNT = 64  # rows of each kind
_LONGEST = 512  # tokens of a row
_LEAST = 8  # rows of each kind below which nothing is said
_Z = 1.959963984540054
SEEN, UNSEEN = "trained on", "held out"


def rows_of(data: Data) -> list[Guard]:
    """Rows that are trained on and rows that are held out, in turn; none where none are held out.

    Args:
        data: The run's rows: demonstrations, or pairs, of which the better answer is taken.
    """
    if data.eval is None or data.ledger.kind not in ("demonstration", "preference"):
        return []
    seen, unseen = (
        list(_spread(tokens, name))
        for tokens, name in ((data.train_tokens, SEEN), (data.eval_tokens, UNSEEN))
    )
    return [row for both in zip(seen, unseen, strict=False) for row in both]


def _spread(tokens: Sequence[Any], name: str) -> Iterator[dict[str, Any]]:
    """Rows from all over a set."""
    count = min(len(tokens), COUNT)
    for i in range(count):
        ids, labels = sequences(tokens[i * len(tokens) // count])[0]
        if len(ids) <= _LONGEST:
            yield {"of": name, "sides": [{"ids": ids, "labels": labels}]}


def membership(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Any:
    """How well the loss tells both kinds of rows apart, for ``results.json``.

    Args:
        before: Of each row its ``loss``, and in ``of`` its kind, before training; may be empty.
        after: The same of the trained model.

    Returns:
        ``auc`` with its 95 % interval ``low`` to ``high``, ``before`` (or None), ``rows`` of each
        kind, and ``told``; None where there are too few rows.
    """
    seen, unseen = _losses(after)
    if min(len(seen), len(unseen)) < _LEAST:
        return None
    found, low, high = auc(seen, unseen)
    first = _losses(before)
    begun = auc(*first)[0] if min(map(len, first)) >= _LEAST else None
    told = (
        "membership: a row that was trained on has a lower loss than a held-out one in "
        f"{found:.0%} of cases (95 % interval {low:.0%} to {high:.0%}"
    )
    told += ")" if begun is None else f"; before training {begun:.0%})"
    if low > max(0.5, begun or 0):
        told += ": single rows are remembered"
    return {"auc": found, "low": low, "high": high, "before": begun,
            "rows": [len(seen), len(unseen)], "told": told}  # fmt: skip


def _losses(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    known = [(row["of"], row["loss"]) for row in rows if "loss" in row]
    return [v for of, v in known if of == SEEN], [v for of, v in known if of == UNSEEN]


def auc(lower: Sequence[float], higher: Sequence[float]) -> tuple[float, float, float]:
    """How often a value of the first list is below one of the second; a tie counts half.

    The error is that of DeLong et al. 1988 ("Comparing the areas under two or more correlated
    receiver operating characteristic curves"); the interval is symmetric in log odds, so that it
    stays within 0 and 1. Where nothing varies it is Wilson's of the smaller list.

    Args:
        lower: At least two values.
        higher: At least two values.

    Returns:
        The share, and its 95 % interval.
    """
    a, b = np.asarray(lower, float)[:, None], np.asarray(higher, float)[None, :]
    wins = (a < b) + 0.5 * (a == b)
    share = float(wins.mean())
    error = math.sqrt(
        wins.mean(1).var(ddof=1) / len(lower) + wins.mean(0).var(ddof=1) / len(higher)
    )
    if not error or not 0 < share < 1:
        return share, *wilson(share, min(len(lower), len(higher)))
    odds, half = math.log(share / (1 - share)), _Z * error / (share * (1 - share))
    low, high = (1 / (1 + math.exp(-(odds + sign * half))) for sign in (-1, 1))
    return share, low, high
