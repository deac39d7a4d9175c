"""A run and its card: the config fitted before it starts, the plan compared with what was used."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from modelforge.config import Choice, Config
from modelforge.console import headline, say
from modelforge.hardware import Hardware
from modelforge.plan import Plan, fit
from modelforge.plan.calibration import learn, recall
from modelforge.processes import world_size
from modelforge.rundir import RunDir

if TYPE_CHECKING:
    from modelforge.job import Prepared

# Choices that a run goes on with, whatever would be chosen by now.
_KEPT = ("plan", "memory")


def within_budget(
    config: Config, hardware: Hardware, *, longest_row: int | None, run: RunDir, resumed: bool
) -> tuple[Config, Plan | None]:
    """The config fitted to the card, or to ``memory_budget_gb``; as it was where a run goes on.

    Args:
        config: With every value filled in.
        hardware: The machine.
        longest_row: Tokens of the longest row; None where the data do not tell.
        run: The run's folder.
        resumed: Whether a checkpoint there is gone on from.

    Raises:
        RunError: If nothing fits, with the smallest budget that does.
    """
    if resumed:
        recorded = (run.read_json("choices.json") or {}).get("choices", {})
        kept = {k: Choice(**c) for k, c in recorded.items() if c["source"] in _KEPT}
        planned = run.read_json("plan.json")
        return config.with_choices(kept), planned and Plan.from_dict(planned["predicted"])
    budget = config.settings.memory_budget_gb or hardware.vram_gb or None
    if budget is None:
        return config, None  # a CPU without a budget swaps where a card would stop
    headline("Plan")
    config, planned = fit(
        config,
        budget_gb=budget,
        hardware=hardware,
        num_processes=world_size(),
        calibration=recall(hardware),
        longest_row=longest_row,
    )
    for line in planned.lines():
        say(line)
    return config, planned


class Gauge(TrainerCallback):
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

    def write(self, job: Prepared) -> None:
        """Put what was measured beside what was planned, and remember it for the next plan."""
        planned = job.plan
        if planned is None or not self.seconds:
            return
        seconds = statistics.median(self.seconds)
        measured: dict[str, Any] = {"seconds_per_step": seconds}
        memory = _cuda_peaks() if job.hardware.device == "cuda" else {}
        measured |= memory
        row: dict[str, Any] = {"predicted": planned.to_dict(), "measured": measured}
        if memory:
            error = planned.peak_reserved / memory["peak_reserved"] - 1
            row["error"] = error
            say(
                f"memory: {memory['peak_reserved'] / 2**30:.2f} GB reserved at the peak, "
                f"{planned.peak_reserved / 2**30:.2f} GB planned ({error:+.1%})"
            )
        job.run.write_json("plan.json", row)
        if any(choice.source == "memory" for choice in job.config.choices.values()):
            return  # it ran otherwise than planned
        learn(
            job.hardware,
            planned,
            reserved=memory.get("peak_reserved"),
            context=memory.get("context"),
            seconds=seconds if planned.phases.get("generation") is None else 0.0,
        )


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
