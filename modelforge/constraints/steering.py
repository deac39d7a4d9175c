"""A model steered around banned texts: tokens that would complete one are never chosen.

This keeps an answer going where it would have to be cut. It judges a token by the text that it adds
behind another one, so it cannot see a character that several tokens share: what it misses is found
in the decoded text (`modelforge.constraints.held`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from modelforge.constraints.constraints import Constraints
from modelforge.constraints.rules import Banned, fold

_ANCHOR = "a"  # tokens are decoded behind it: at the begin of a text some lose their blank
_END = "\U0010ffff"


class _Ban:
    """One constraint's texts, over the pieces of a vocabulary."""

    def __init__(self, rule: Banned, pieces: Sequence[str]) -> None:
        self.rule, self.longest = rule, len(rule.texts[0])
        folded = [self._fold(piece) for piece in pieces]
        order = sorted(range(len(folded)), key=folded.__getitem__)
        self._ids, self._sorted = order, [folded[i] for i in order]
        self._whole = {
            i for i, piece in enumerate(folded) if any(text in piece for text in rule.texts)
        }
        self.completing = cache(self._completing)

    def forbidden(self, tail: str) -> set[int]:
        """The tokens that would complete a text behind this one."""
        tail, found = self._fold(tail), set(self._whole)
        for text in self.rule.texts:
            for n in range(1, min(len(text), len(tail) + 1)):
                if tail.endswith(text[:n]):
                    found |= self.completing(text[n:])
        return found

    def _completing(self, rest: str) -> set[int]:
        begin, end = bisect_left(self._sorted, rest), bisect_left(self._sorted, rest + _END)
        return set(self._ids[begin:end])

    def _fold(self, text: str) -> str:
        return fold(text, ignore_case=self.rule.ignore_case)


class Steering:
    """Which tokens may not come next.

    Args:
        tokenizer: The model's.
        constraints: Of which those that ban texts in answers are steered around.
    """

    def __init__(self, tokenizer: Any, constraints: Constraints) -> None:
        pieces, self._tokenizer = _pieces(tokenizer), tokenizer
        rules = [each.rule for each in constraints.steered]
        self._bans = [_Ban(rule, pieces) for rule in rules if isinstance(rule, Banned)]
        self._reach = max(ban.longest for ban in self._bans)

    def forbidden(self, ids: Sequence[int]) -> list[int]:
        """The tokens that may not follow an answer's tokens so far."""
        last = list(ids)[-self._reach - 1 :]
        tail = self._tokenizer.decode(last, skip_special_tokens=True)
        return sorted(set().union(*(ban.forbidden(tail) for ban in self._bans)))

    def processors(self) -> LogitsProcessorList:
        """For one call of ``generate``."""
        return LogitsProcessorList([_Steered(self)])


class _Steered(LogitsProcessor):
    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._begin: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._begin = input_ids.shape[1] if self._begin is None else self._begin
        scores = scores.clone()
        for row, ids in zip(scores, input_ids[:, self._begin :].tolist(), strict=True):
            steer(row, self._steering.forbidden(ids))
        return scores


def steer(scores: Tensor, forbidden: Sequence[int]) -> None:
    """Take tokens out of the logits (V,) of one place."""
    scores[torch.tensor(forbidden, dtype=torch.long, device=scores.device)] = -torch.inf


def _pieces(tokenizer: Any) -> list[str]:
    """The text that each token adds behind another one."""
    anchor = tokenizer.encode(_ANCHOR, add_special_tokens=False)[-1:]
    before = tokenizer.decode(anchor, skip_special_tokens=True)
    texts = tokenizer.batch_decode(
        [[*anchor, token] for token in range(len(tokenizer))], skip_special_tokens=True
    )
    return [text.removeprefix(before) for text in texts]
