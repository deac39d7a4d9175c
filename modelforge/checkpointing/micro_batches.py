"""Micro-batches: shown to a reader, and made smaller."""

from __future__ import annotations

from typing import Any

import torch


def rows_of(batches: list[Any], tokenizer: Any, *, most: int = 8) -> list[str]:
    """The beginnings of a few rows of micro-batches, for a reader."""
    texts: list[str] = []
    for batch in batches:
        if isinstance(batch, list):  # rows as they are
            texts += [str(row.get("prompt", row)) for row in batch]
        else:
            ids = batch.get("input_ids", batch.get("prompt_ids"))
            texts += [] if ids is None else tokenizer.batch_decode(ids, skip_special_tokens=True)
    short = [" ".join(text.split())[:100] for text in texts]
    more = [f"… and {len(short) - most} more"] if len(short) > most else []
    return short[:most] + more


def split(batch: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """A micro-batch in so many equal parts; what has no rows stays in each."""
    rows = len(batch["completion_ids"])

    def part(value: Any, i: int) -> Any:
        if isinstance(value, torch.Tensor | list) and _length(value) == rows:
            return value[i * rows // parts : (i + 1) * rows // parts]
        return value

    return [{key: part(value, i) for key, value in batch.items()} for i in range(parts)]


def _length(value: Any) -> int:
    if isinstance(value, torch.Tensor):
        return value.size(0) if value.dim() else -1
    return len(value)
