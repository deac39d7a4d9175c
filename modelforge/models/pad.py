"""The token that fills rows up. Under a score head it decides which token is scored."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What makers of vocabularies call a token for padding, and one that they left without a use.
_NAMES = (r"pad", r"reserved|unused|dummy|placeholder|control|extra_id")
_NEW = "<|pad|>"


def pad_for_scores(
    tokenizer: PreTrainedTokenizerBase, *, rows: int, ends: Collection[int]
) -> str | None:
    """Set a pad token that no text ends in, for a model with a score head; why this one.

    Such a model scores the rightmost token that is not the pad token (transformers'
    ``GenericForSequenceClassification``). With EOS as the pad token it scores the token before
    EOS, and whoever pads with another token scores EOS, in the same model without an error.

    Args:
        tokenizer: Its ``pad_token`` is changed in place, where another one is better.
        rows: Rows of the model's embedding: a token beyond them would need a resize.
        ends: Ids of the tokens that texts end in, EOS among them.

    Returns:
        Where the token was changed, the reason; else None. A tokenizer without any other token
        keeps EOS.
    """
    ids = tokenizer.get_vocab()
    before = tokenizer.pad_token
    if before is not None and ids[before] < rows and ids[before] not in ends:
        return None
    for token, why in _candidates(tokenizer, rows):
        if ids.get(token, len(ids)) < rows and ids.get(token) not in ends:
            tokenizer.add_special_tokens({"pad_token": token})
            return f"{why}; EOS ends each text, and that is the token that is scored"
    return None


def _candidates(tokenizer: PreTrainedTokenizerBase, rows: int) -> Iterator[tuple[str, str]]:
    """Tokens to pad with, the best first, each with what it is."""
    added, size = tokenizer.get_added_vocab(), len(tokenizer)
    names = sorted(added, key=lambda name: added[name])
    for pattern in _NAMES:
        for name in names:
            if re.search(pattern, name, re.IGNORECASE):
                yield name, "the vocabulary has it and no text holds it"
    if max(tokenizer.get_vocab().values()) + 1 == size < rows:
        yield _NEW, "it takes a row of the embedding that had no token"
    if tokenizer.unk_token is not None:
        yield tokenizer.unk_token, "no text ends in an unknown token"
    if tokenizer.bos_token is not None:
        yield tokenizer.bos_token, "no text ends in the token that begins it"
