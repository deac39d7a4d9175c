"""What else fits the card: the longest rows for other ranks and micro-batches.

Each phase's peak is affine in the tokens of a micro-batch and in the rank. Which phase has the
largest changes with both: autocast keeps 16-bit copies of LoRA's weights in the forward pass alone.
So short models of half the length and of another rank tell each phase's slopes, from the plan's own
peaks. The lengths are rounded down, and are estimates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelforge.config import Choice, Config
from modelforge.plan.result import MARGIN, Plan

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

_STEP = 256
_RANKS = (16, 64, 256)
_MICRO_BATCHES = (1, 2, 4, 8)
# What the allocator holds beyond what tensors take at another rank: 6.4 % at rank 256 of an 8B.
_RESERVED = 1.07


@dataclass(frozen=True)
class Place:
    """One place of the table.

    Attributes:
        rank: Of LoRA; 0 where all weights are trained.
        micro_batch: Rows at once.
        length: Tokens of the longest row that fits; 0 where none does.
        chosen: Whether it is the plan's own rank and micro-batch.
    """

    rank: int
    micro_batch: int
    length: int
    chosen: bool


def frontier(config: Config, plan: Plan, hardware: Hardware) -> tuple[Place, ...]:
    """The longest rows that fit beside a plan.

    Empty without a budget, and where weights are sharded: those are counted by arithmetic.

    Args:
        config: As planned.
        plan: Its plan.
        hardware: Of the machine that it was planned for.
    """
    from modelforge.plan.memory import probe_phases
    from modelforge.plan.planner import find

    here, found = plan.phases, find(config)
    largest = max(here.values())
    if plan.budget is None or plan.total - plan.context < largest:
        return ()
    length, rank, micro = config.settings.max_seq_length, config.settings.lora_r, config.micro_batch
    other = _RANKS[0] if rank >= _RANKS[-1] else _RANKS[-1]

    def slopes(key: str, value: int, change: int) -> dict[str, float]:
        changed = probe_phases(config.with_choices({key: Choice(value, "plan")}), found, hardware)
        return {phase: (changed[phase] - here[phase]) / change for phase in here}

    to = length // 2 if length >= 256 else 2 * length
    each = slopes("max_seq_length", to, micro * (to - length))
    by_rank = slopes("lora_r", other, other - rank) if rank and found.adapter is None else {}
    # What the allocator and other cards add to what tensors take.
    over = (plan.total - plan.context) / largest
    free = (1 - MARGIN) * plan.budget - plan.context

    def longest(rank_: int, micro_: int) -> int:
        limit = free / (over if rank_ == rank else max(over, _RESERVED))
        left = {p: limit - here[p] - by_rank.get(p, 0.0) * (rank_ - rank) for p in here}
        if any(left[p] < 0 for p in here if each[p] <= 0):
            return 0  # no row is short enough
        tokens = micro * length + min(left[p] / each[p] for p in here if each[p] > 0)
        most = int(tokens / micro_ / _STEP) * _STEP
        if (rank_, micro_) == (rank, micro) and plan.fits:
            most = max(most, length)
        return max(0, most)

    if not any(slope > 0 for slope in each.values()):
        return ()
    ranks = sorted({rank, *_RANKS}) if any(by_rank.values()) else [rank]
    generates = "generation" in plan.phases  # what is sampled does not follow the micro-batch
    micros = [micro] if generates else sorted({micro, *_MICRO_BATCHES})
    return tuple(Place(r, m, longest(r, m), (r, m) == (rank, micro)) for r in ranks for m in micros)


def lines(places: tuple[Place, ...]) -> list[str]:
    """For the terminal: a row for each rank, a column for each micro-batch."""
    if not places:
        return []
    micros = list(dict.fromkeys(place.micro_batch for place in places))
    said = ["longest rows that fit, about (* is the plan's own):"]
    said.append(f"{'rank':>9}  " + "".join(f"{f'{m} at once':>12}" for m in micros))
    for rank in dict.fromkeys(place.rank for place in places):
        row = [place for place in places if place.rank == rank]
        cells = (f"{p.length or '-'}{'*' if p.chosen else ' '}" for p in row)
        name = str(rank) if rank else "all"
        said.append(f"{name:>9}  " + "".join(f"{cell:>12}" for cell in cells))
    return said
