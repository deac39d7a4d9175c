"""Several cards: what data parallel, ZeRO and FSDP add and take, by arithmetic.

Sizes are those of DeepSpeed's and PyTorch's documentation: ZeRO stage 1 shards the optimiser's
states, 2 the gradients too, 3 (and FSDP's full shard) the weights too. Weights packed in 4 or 8
bits are counted whole: neither shards them safely.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelforge.config import Config

_SHARDED = {
    1: ("optimiser",),
    2: ("optimiser", "gradients"),
    3: ("optimiser", "gradients", "trained weights", "other weights", "LoRA"),
}


def sharding_stage(config: Config) -> int:
    """ZeRO's stage, FSDP as 3, or 0 where every card holds all."""
    fsdp = config.trl.get("fsdp")
    if fsdp:
        return 2 if "shard_grad_op" in str(fsdp) else 3
    deepspeed = config.trl.get("deepspeed")
    if isinstance(deepspeed, str):
        path = config.base_dir / deepspeed
        deepspeed = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if not isinstance(deepspeed, Mapping):
        return 0
    return int(deepspeed.get("zero_optimization", {}).get("stage", 0))


def shard(parts: Mapping[str, int], *, processes: int, stage: int) -> dict[str, int]:
    """Parts of one card of several.

    Args:
        parts: Bytes at the peak of a single card.
        processes: Cards.
        stage: As :func:`sharding_stage` gives it.
    """
    sharded = dict(parts)
    if processes == 1:
        return sharded
    gradients = parts.get("gradients", 0)
    for part in _SHARDED.get(stage, ()):
        if part in sharded:
            sharded[part] = -(-sharded[part] // processes)
    # DDP reduces from buckets that hold a copy of all gradients; ZeRO and FSDP from two buckets
    # of at most 5e8 elements of 16 bits.
    buckets = gradients if stage == 0 else min(gradients, 2 * 2 * 500_000_000)
    if buckets:
        sharded["communication"] = buckets
    return sharded
