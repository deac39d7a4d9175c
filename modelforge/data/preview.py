"""Rows as the model will see them: what of them is trained on, in text and token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from modelforge.data.encoded import MASKED, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEHIND = 8  # tokens that a token's own text depends on


@dataclass(frozen=True)
class Segment:
    """A stretch of one side of a row.

    Attributes:
        text: Its text.
        trained: Whether the loss is taken on its tokens.
        part: ``row`` of a demonstration; ``prompt``, ``chosen`` or ``rejected`` of a pair;
            ``prompt`` or ``answer`` of a labelled answer; ``prompt`` of what is to be answered.
        ids: Its tokens.
    """

    text: str
    trained: bool
    part: str
    ids: list[int]

    def to_dict(self) -> dict[str, Any]:
        """``text, trained, weight, part``; the weight is that of each token in the loss."""
        weight = float(self.trained)
        return {"text": self.text, "trained": self.trained, "weight": weight, "part": self.part}


def preview(
    row: Encoded, *, tokenizer: PreTrainedTokenizerBase, max_length: int | None
) -> list[Segment]:
    """A row in stretches that are trained on or not, cut where training cuts it.

    Args:
        row: In the tokens that were checked, as `Data` holds them.
        tokenizer: Reads the tokens.
        max_length: Where a demonstration or a side of a pair is cut, in tokens; None nowhere.
    """
    found: list[Segment] = []
    for part, before, ids, trained in sides(row, max_length):
        cut = len(str(tokenizer.decode(before)))
        behind = before.copy()
        for on, run in groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1]):
            tokens = [token for token, _ in run]
            behind += tokens
            # All text up to here less the text before: a token's blank may depend on its neighbour.
            text = str(tokenizer.decode(behind))
            found.append(Segment(text[cut:], on, part, tokens))
            cut = len(text)
    return found


def sides(
    row: Encoded, max_length: int | None
) -> Iterator[tuple[str, list[int], list[int], list[bool]]]:
    """Each part of a row: its name, the tokens before it, its own, and which are trained on."""
    cut = [ids[:max_length].tolist() for ids in row.ids]
    if row.spans is not None:
        yield "row", [], cut[0], [label != MASKED for label in row.labels(max_length)]
        return
    prompt = cut[0][: row.start]
    yield "prompt", [], prompt, [False] * len(prompt)
    names = ("chosen", "rejected") if len(cut) == 2 else ("answer",)
    for part, ids in zip(names, cut, strict=True):
        answer = ids[row.start :]
        yield part, prompt, answer, [True] * len(answer)


def token_texts(segment: Segment, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text of each token by itself; of a character in several tokens the last one has it."""
    texts = []
    for i in range(len(segment.ids)):
        window = segment.ids[max(0, i - BEHIND) : i + 1]
        before, whole = (str(tokenizer.decode(ids)) for ids in (window[:-1], window))
        alone = str(tokenizer.decode(window[-1:]))
        texts.append(whole[len(before) :] if whole.startswith(before) else alone)
    return texts
