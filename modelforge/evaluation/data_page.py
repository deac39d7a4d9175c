"""`modelforge data --html`: rows token by token, with what of them is trained on, on one page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from modelforge.data import Data, Segment, token_texts
from modelforge.web import histogram, render

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.data.shown import Shown

MOST = 2000  # tokens of a part that are shown with their ids


def data_page(
    data: Data,
    shown: Sequence[Shown],
    segments: Sequence[Sequence[Segment]],
    *,
    title: str,
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
) -> str:
    """The page: without scripts or outside files, whatever the rows hold.

    Args:
        data: All rows, for the data report and the histograms.
        shown: The rows to show.
        segments: The same in stretches.
        title: Of the page.
        tokenizer: Reads the tokens.
        limit: Where rows are cut, in tokens; None nowhere.
    """
    lengths = [sum(len(ids[:limit]) for ids in row.ids) for row in data.train_tokens]
    charts = [histogram("tokens of a row, as trained on", lengths)]
    if data.ledger.kind != "prompt":
        shares = [
            (
                row.supervised(limit)
                if row.spans is not None
                else length - len(row.ids) * min(row.start, limit or row.start)
            )
            / max(length, 1)
            for row, length in zip(data.train_tokens, lengths, strict=True)
        ]
        charts.append(histogram("share of a row that is trained on", shares, percent=True))
    return render(
        "data.html",
        title=title,
        charts=charts,
        data="\n".join(data.ledger.summary_lines()),
        rows=[
            {
                "where": item.where,
                "fate": item.fate,
                "parts": list(_parts(item, row, tokenizer, limit)),
            }
            for item, row in zip(shown, segments, strict=True)
        ],
    )


def _parts(
    item: Shown,
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    limit: int | None,
) -> Iterator[dict[str, Any]]:
    """Each part of a row, with its tokens."""
    whole = [len(ids) for ids in item.row.ids] if item.row is not None else []
    cut = [max(0, length - limit) if limit is not None else 0 for length in whole]
    beyond = {"row": cut[:1], "chosen": cut[:1], "answer": cut[:1], "rejected": cut[1:]}
    for name, found in groupby(segments, key=lambda segment: segment.part):
        stretches = list(found)
        tokens = [
            (token, text, segment.trained)
            for segment in stretches
            for token, text in zip(segment.ids, token_texts(segment, tokenizer), strict=True)
        ]
        yield {
            "name": name,
            "length": len(tokens),
            "trained": sum(trained for _, _, trained in tokens),
            "cut": sum(beyond.get(name, [])),
            "stretches": [(segment.text, segment.trained) for segment in stretches],
            "tokens": tokens[:MOST],
            "more": max(0, len(tokens) - MOST),
        }
