"""Which of several processes this is. Of a run of one process, the main one."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from typing import Any

MOST = 4  # processes or threads that nobody asked for


def rank() -> int:
    """Number of this process, as every launcher says it."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Whether this process writes and speaks for all."""
    return rank() == 0


def own_device(kind: str) -> str:
    """This process's device of a kind: each its own card, all the one CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if kind == "cuda" else kind


def wait_for_everyone() -> None:
    """Until all processes are here."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def anyone(flag: bool) -> bool:
    """Whether it is true in any process."""
    if world_size() == 1:
        return flag
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    flags = torch.tensor(float(flag), device=PartialState().device)
    return bool(reduce(flags, "sum") > 0)


def agreed(value: Any, *, deepspeed: bool) -> Any:
    """The main process's value, in all of them; starts the group of processes.

    Args:
        value: Anything that can be pickled; only the main process's counts.
        deepspeed: Whether DeepSpeed takes part.
    """
    if world_size() == 1:
        return value
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    cpu = not torch.cuda.is_available()  # then they talk by gloo, and not by NCCL
    PartialState(cpu=cpu)
    if deepspeed and find_spec("deepspeed"):
        import deepspeed as library

        # It counts the processes itself, and ZeRO-3 asks it before the trainer has it do so.
        library.init_distributed(dist_backend="gloo" if cpu else "nccl")
    values = [value]
    broadcast_object_list(values)
    return values[0]


def usual_processes() -> int:
    """One for each CPU that this process may use, at most `MOST`."""
    count = os.cpu_count() or 1
    with suppress(AttributeError):  # not on every system
        count = len(os.sched_getaffinity(0))
    return min(MOST, count)
