"""Rows as the model will see them, for a coloured preview of what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelforge.data.tokens import MASKED, Encoded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def preview(
    rows: Sequence[Encoded],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    n: int,
) -> list[list[tuple[str, bool]]]:
    """The first rows as the model will see them, in segments that are trained on or not.

    Args:
        rows: In the tokens that were checked, as `Data` holds them.
        tokenizer: Reads the tokens.
        max_length: Where a demonstration or a side of a pair is cut, in tokens.
        n: How many rows.

    Returns:
        For each of the first ``n`` rows its segments ``(text, trained)``. A pair gives the prompt
        with chosen, a line ``rejected:``, and the rejected reply; a prompt is one segment, a
        labelled answer two.
    """
    shown: list[list[tuple[str, bool]]] = []
    for row in rows[:n]:
        sides = [ids.tolist() for ids in row.ids]
        if row.spans is not None:
            trained = [label != MASKED for label in row.labels()]
            shown.append(segments(sides[0][:max_length], trained, tokenizer))
        elif len(sides) == 2:
            good, bad = sides
            on = [i >= row.start for i in range(max(len(good), len(bad)))]
            rejected = [part for part in segments(bad[:max_length], on, tokenizer) if part[1]]
            chosen = segments(good[:max_length], on, tokenizer)
            shown.append([*chosen, ("\nrejected:\n", False), *rejected])
        elif row.start < len(sides[0]):
            on = [i >= row.start for i in range(len(sides[0]))]
            shown.append(segments(sides[0][:max_length], on, tokenizer))
        else:
            shown.append(segments(sides[0], [False] * len(sides[0]), tokenizer))
    return shown


def segments(
    ids: list[int], trained: Sequence[bool], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[str, bool]]:
    """Runs of tokens that are all trained on or all not, as text."""
    ends = [i for i in range(1, len(ids)) if trained[i] != trained[i - 1]]
    ends += [len(ids)] if ids else []
    cut, begin, found = 0, 0, []
    for end in ends:
        # Text up to here less the text before: a token's blank may depend on its neighbour.
        text = str(tokenizer.decode(ids[:end]))
        found.append((text[cut:], bool(trained[begin])))
        cut, begin = len(text), end
    return found
