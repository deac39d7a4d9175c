"""The arguments of one pass over the rows of several trainers, from those of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

#: What a decoder takes row by row: name → what fills a shorter row up.
_BY_ROW = {"input_ids": 0, "attention_mask": 0, "position_ids": 0, "token_type_ids": 0}
#: Of rows that stand in one line (packing): what counts places along it, and where it begins.
_IN_LINE = {"cu_seq_lens_q": 1, "cu_seq_lens_k": 1, "seq_idx": 0}
_LONGEST = ("max_length_q", "max_length_k")
#: What a loss is given through the decoder's arguments, which a decoder does not look at.
_OF_THE_LOSS = ("num_items_in_batch",)


class CannotJoinError(Exception):
    """The rows of several trainers cannot be told apart somewhere in this model."""


def row_by_row(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of one pass over the rows of all.

    Raises:
        CannotJoinError: If one of them is not known to be row by row.
    """
    lengths = [inputs["input_ids"].shape[1] for inputs in asked]
    longest = max(lengths)
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for inputs in asked for name in inputs):
        values = [inputs.get(name) for inputs in asked]
        if name in _BY_ROW and any(value is not None for value in values):
            found[name] = _rows_of(name, values, longest)
        elif name not in _OF_THE_LOSS:
            if any(isinstance(value, torch.Tensor) for value in values):
                raise CannotJoinError(f"{name} is not known to be row by row")
            found[name] = values[0]
    masked = found.get("attention_mask") is not None or found.get("position_ids") is not None
    if len(set(lengths)) > 1 and not masked:
        ids = [inputs["input_ids"] for inputs in asked]
        masks: list[Any] = [torch.ones_like(each) for each in ids]
        found["attention_mask"] = _rows_of("attention_mask", masks, longest)
    return found | {"use_cache": False}


def in_line(asked: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of one pass over the lines of all, one after the other.

    Raises:
        CannotJoinError: If one of them is not known.
    """
    found: dict[str, Any] = {"use_cache": False}
    for name in dict.fromkeys(name for inputs in asked for name in inputs):
        values: list[Any] = [inputs.get(name) for inputs in asked]
        if name in _LONGEST:
            found[name] = max(values)
        elif name in _IN_LINE:
            shared, moved, begin = _IN_LINE[name], [], 0
            for place, value in enumerate(values):
                moved.append((value[shared:] if place and shared else value) + begin)
                begin = moved[-1].max() + 1 - shared
            found[name] = torch.cat(moved, dim=-1)
        elif name in _BY_ROW and all(isinstance(value, torch.Tensor) for value in values):
            found[name] = torch.cat(values, dim=1)
        elif name not in _OF_THE_LOSS and name != "use_cache":
            if any(isinstance(value, torch.Tensor) for value in values):
                raise CannotJoinError(f"{name} is not known to follow the tokens")
            found[name] = values[0]
    return found


def _rows_of(name: str, values: Sequence[Any], longest: int) -> torch.Tensor:
    if not all(isinstance(value, torch.Tensor) and value.dim() == 2 for value in values):
        raise CannotJoinError(f"{name} is not one number a token in each")
    fill = _BY_ROW[name]
    return torch.cat([functional.pad(v, (0, longest - v.shape[1]), value=fill) for v in values])
