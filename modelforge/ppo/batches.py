"""The rows of a rollout: put together, masked, and drawn into minibatches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import shuffle_sequence_dict, split_tensor_dict


def drawn_anew(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a rollout in other minibatches."""
    rows: dict[str, Any] = {
        key: torch.cat([part[key] for part in parts]) if _has_rows(value) else value
        for key, value in parts[0].items()
    }
    shuffled: dict[str, Any] = shuffle_sequence_dict(rows)
    return split_tensor_dict(shuffled, len(parts))


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def whole(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Ids and attention mask (B, P + C) of prompts and completions."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)


def completion_mask(batch: dict[str, Any]) -> Tensor:
    mask = batch["completion_mask"]
    return (mask * batch["tool_mask"] if "tool_mask" in batch else mask).float()


def last_of(mask: Tensor) -> Tensor:
    """Index (B,) of the last 1 in each row of a mask; 0 where there is none."""
    places = torch.arange(mask.size(1), device=mask.device)
    return torch.where(mask.bool(), places, 0).amax(1)
