"""An accelerator that knows of no other process."""

from __future__ import annotations

from typing import Any


class Alone:
    """The accelerator of a process that has no others."""

    process_index, num_processes = 0, 1

    def __init__(self, whole: Any) -> None:
        self.whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def gather(self, tensor: Any) -> Any:
        return tensor

    def gather_for_metrics(self, data: Any, use_gather_object: bool = False) -> Any:
        return data

    def reduce(self, tensor: Any, reduction: str = "sum", scale: float = 1.0) -> Any:
        return tensor

    def pad_across_processes(self, tensor: Any, **how: Any) -> Any:
        return tensor
