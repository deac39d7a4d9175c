"""What a plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from modelforge.errors import ConfigError, RunError

GIB = 2**30
# Left free of a budget for what no plan sees: other kernels' workspaces, the display.
MARGIN = 0.02


class NotPlanned(ConfigError):
    """The strategy does not say what a plan needs to know of it."""


class DoesNotFit(RunError):
    """It was planned, and nothing that the plan may change makes it fit."""


@dataclass(frozen=True)
class Calibration:
    """What earlier runs on a machine taught; the defaults are those of no run.

    Attributes:
        context_gb: What CUDA takes besides PyTorch's allocator: driver, kernels, libraries.
            Measured 0.3 to 0.6 GiB on cards since Ampere.
        reserved: Measured ÷ predicted peak reserved.
        flops_per_second: Reached in training; None where none was measured.
        source: For a reader.
    """

    context_gb: float = 0.5
    reserved: float = 1.0
    flops_per_second: float | None = None
    source: str = "no run on this machine yet"


@dataclass(frozen=True)
class Plan:
    """What a run will need of each card. All sizes in bytes.

    Attributes:
        strategy, model: What is trained.
        device: ``cuda`` or ``cpu``.
        settings: The values that decide it: micro-batch, accumulation, length and so on.
        parts: What is alive at the peak, by part; sums to ``peak_allocated``.
        peak_allocated: The most that tensors take at once.
        peak_reserved: The most that PyTorch's allocator holds for them.
        context: What CUDA takes besides.
        phase: In which phase the peak falls.
        phases: The peak of each phase.
        budget: What the run may take, or None.
        tokens_per_step: Tokens of one optimiser step, over all cards.
        flops_per_step: Floating point operations of it on one card, without generation; 0 where
            they were not counted.
        seconds_per_step: As runs on this machine taught, without generation; or as the table of
            cards tells, with it. None where neither knows the card.
        notes: What the figures rest on, and what they leave out.
        seconds_between: Where the table tells them: between which seconds four of five are.
    """

    strategy: str
    model: str
    device: str
    settings: Mapping[str, Any]
    parts: Mapping[str, int]
    peak_allocated: int
    peak_reserved: int
    context: int
    phase: str
    phases: Mapping[str, int]
    budget: int | None
    tokens_per_step: int
    flops_per_step: int
    seconds_per_step: float | None
    notes: tuple[str, ...] = ()
    seconds_between: tuple[float, float] | None = None

    @property
    def total(self) -> int:
        """What the card must hold: reserved and context."""
        return self.peak_reserved + self.context

    @property
    def headroom(self) -> int | None:
        """What is left of the budget; negative where it does not fit."""
        return None if self.budget is None else self.budget - self.total

    @property
    def fits(self) -> bool:
        """Whether it stays within the budget, with a margin."""
        return self.budget is None or self.total <= (1 - MARGIN) * self.budget

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON, sizes in bytes."""
        values = asdict(self)
        return values | {"total": self.total, "headroom": self.headroom, "fits": self.fits}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """What `to_dict` made."""
        return cls(**{f.name: values[f.name] for f in fields(cls)})

    def lines(self) -> list[str]:
        """For the terminal: a bar for each part, then the sums."""
        rows = [*self.parts.items(), ("peak allocated", self.peak_allocated)]
        rows += [("allocator", self.peak_reserved - self.peak_allocated)]
        rows += [("CUDA context", self.context)] if self.context else []
        width = max(len(name) for name, _ in rows)
        scale = self.budget or self.total
        lines = []
        for name, size in rows:
            bar = "" if name == "peak allocated" else "█" * round(40 * size / scale)
            lines.append(f"{name:<{width}} {_gib(size):>10}  {bar}".rstrip())
        lines.append(f"{'total':<{width}} {_gib(self.total):>10}  peak in: {self.phase}")
        if self.headroom is not None:
            state = "fits" if self.fits else "does not fit" if self.headroom < 0 else "too tight"
            budget = f"of {_gib(self.budget or 0)} budget: {state}"
            lines.append(f"{'headroom':<{width}} {_gib(self.headroom):>10}  {budget}")
        return [*lines, *self._speed(), *(f"note: {note}" for note in self.notes)]

    def _speed(self) -> list[str]:
        tokens = f"{self.tokens_per_step:,} tokens a step"
        if self.flops_per_step:
            tokens += f", {self.flops_per_step / 1e12:.0f} TFLOP"
        if self.seconds_per_step is None:
            why = "no run has shown this machine's speed, and no card of the table is named"
            return [f"{tokens}; time not estimated: {why}"]
        rate = self.tokens_per_step / self.seconds_per_step
        between = ""
        if self.seconds_between is not None:
            low, high = self.seconds_between
            between = f" (by the table of cards: {low:.1f} to {high:.1f})"
        return [f"{tokens}, about {self.seconds_per_step:.1f} s{between}, {rate:,.0f} tokens/s"]


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
