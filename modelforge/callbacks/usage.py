"""What a run takes: seconds a step, and the card's memory at its peak."""

from __future__ import annotations

import statistics
import time
from typing import Any

from transformers import TrainerCallback


class Usage(TrainerCallback):
    """Measures what a run takes, from its first step on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Forget what loading and looking took."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self.start)

    def figures(self) -> dict[str, Any]:
        """Seconds of a step (the median), and a card's peaks in bytes; empty before a step."""
        import torch

        if not self.seconds:
            return {}
        memory = _cuda_peaks() if torch.cuda.is_available() else {}
        return {"seconds_per_step": statistics.median(self.seconds), **memory}


def _cuda_peaks() -> dict[str, int]:
    """Peaks of PyTorch's allocator, and what this process's device holds besides, in bytes."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "peak_allocated": torch.cuda.max_memory_allocated(),
        "peak_reserved": torch.cuda.max_memory_reserved(),
        # Others on the card count as context, which is what they are for the next run.
        "context": total - free - torch.cuda.memory_reserved(),
    }
