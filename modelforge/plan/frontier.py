"""What else fits the card: the longest rows for other ranks and micro-batches.

Peaks are affine in the tokens of a micro-batch and in the rank, as long as the same phase has them.
So two peaks of short models tell the table, with what LoRA takes of the plan's own; its lengths are
rounded down, and are estimates.
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
    """The longest rows that fit beside a plan; empty without a budget.

    Args:
        config: As planned.
        plan: Its plan.
        hardware: Of the machine that it was planned for.
    """
    from modelforge.plan.memory import probe
    from modelforge.plan.planner import find

    if plan.budget is None:
        return ()
    found, settings = find(config), config.settings
    length, rank, micro = settings.max_seq_length, settings.lora_r, config.micro_batch

    def peak(**changes: int) -> float:
        choices = {key: Choice(value, "plan") for key, value in changes.items()}
        return probe(config.with_choices(choices), found, hardware)

    here, shorter = peak(), peak(max_seq_length=max(128, length // 2))
    each = (here - shorter) / max(1, micro * (length - max(128, length // 2)))
    trained = sum(plan.parts.get(part, 0) for part in ("LoRA", "gradients", "optimiser"))
    by_rank = trained / rank if rank else 0.0
    # What the allocator and other cards add to the peak of the short models.
    over = (plan.total - plan.context) / here
    limit = ((1 - MARGIN) * plan.budget - plan.context) / over

    def longest(rank_: int, micro_: int) -> int:
        left = limit - here - by_rank * (rank_ - rank)
        tokens = micro * length + left / each if each > 0 else 0
        most = int(tokens / micro_ / _STEP) * _STEP
        if (rank_, micro_) == (rank, micro) and plan.fits:
            most = max(most, length)
        return max(0, most)

    ranks = sorted({rank, *_RANKS}) if rank else [0]
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
