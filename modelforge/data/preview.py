"""Rows as the model will see them, for a coloured preview of what is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelforge.data.convert import DataKind
from modelforge.data.tokens import MASKED, RenderError, encode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def preview(
    rows: Dataset,
    *,
    kind: DataKind,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int | None,
    n: int,
) -> list[list[tuple[str, bool]]]:
    """The first rows as the model will see them, in segments that are trained on or not.

    Returns:
        For each of the first ``n`` rows its segments ``(text, trained)``. A pair gives the prompt
        with chosen, a line ``rejected:``, and the rejected reply; a prompt is one segment.
    """
    examples = [rows[i] for i in range(min(n, len(rows)))]
    shown: list[list[tuple[str, bool]]] = []
    for found in encode(examples, kind=kind, tokenizer=tokenizer) if examples else ():
        if isinstance(found, RenderError):
            shown.append([(f"[the chat template fails: {found}]", False)])
        elif found.labels is not None:
            trained = [label != MASKED for label in found.labels]
            shown.append(segments(found.ids[0][:max_length], trained, tokenizer))
        elif kind == "preference":
            (good, bad), start = found.ids, found.start[0]
            on = [i >= start for i in range(max(len(good), len(bad)))]
            rejected = [part for part in segments(bad[:max_length], on, tokenizer) if part[1]]
            chosen = segments(good[:max_length], on, tokenizer)
            shown.append([*chosen, ("\nrejected:\n", False), *rejected])
        else:
            shown.append(segments(found.ids[0], [False] * len(found.ids[0]), tokenizer))
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
