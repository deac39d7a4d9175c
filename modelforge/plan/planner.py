"""``plan``: what a config needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from modelforge.errors import Problem
from modelforge.machine.cards import known_card
from modelforge.machine.hardware import Hardware
from modelforge.machine.vllm import card_share, colocated
from modelforge.plan.result import GIB, Calibration, DoesNotFit, Plan

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.plan.architectures import Found
    from modelforge.plan.memory import Engine, Simulation

_SHOWN = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "max_seq_length",
    "gradient_checkpointing",
    "optim",
    "lora_r",
    "use_4bit",
    "use_8bit",
)


def plan(
    config: Config,
    *,
    budget_gb: float | None = None,
    hardware: Hardware | None = None,
    num_processes: int = 1,
    calibration: Calibration | None = None,
) -> Plan:
    """What a config needs of each card; loads no weights and needs no GPU.

    Args:
        config: With every value filled in.
        budget_gb: What the run may take of a card, in GiB.
        hardware: Of the machine to plan for; by default a CUDA card with bfloat16.
        num_processes: Cards that train together.
        calibration: What earlier runs on that machine taught.

    Raises:
        NotPlanned: If the strategy does not say what its longest batch is.
        ConfigError: If TRL refuses a value.
        ModelError: If the model's shape cannot be found.
    """
    from modelforge.plan.memory import simulate

    hardware = hardware or card(budget_gb)
    found = find(config)
    simulation = simulate(config, found, hardware)
    return assemble(
        config, found, hardware, simulation,
        budget_gb=budget_gb, num_processes=num_processes, calibration=calibration or Calibration(),
    )  # fmt: skip


def expandable() -> bool:
    """Whether PyTorch's segments grow: as the environment says, else where they can (Linux)."""
    said = os.environ.get("PYTORCH_CUDA_ALLOC_CONF", os.environ.get("PYTORCH_ALLOC_CONF", ""))
    if "expandable_segments:" in said:
        return "expandable_segments:True" in said
    return sys.platform == "linux"


def card(vram_gb: float | None) -> Hardware:
    """A CUDA card of this size with bfloat16 and flash attention, as all since Ampere have."""
    return Hardware(
        device="cuda",
        device_name="a CUDA card" if vram_gb is None else f"a CUDA card of {vram_gb:g} GiB",
        num_devices=1,
        vram_gb=vram_gb or 0.0,
        compute_capability=(8, 6),
        bf16=True,
        ram_gb=0.0,
        cores=0,
    )


def find(config: Config) -> Found:
    """The shape of the config's model.

    Raises:
        ModelError: If it cannot be found.
    """
    from modelforge.plan.architectures import find_architecture

    settings = config.settings
    return find_architecture(
        settings.model_name,
        base_dir=config.base_dir,
        revision=settings.model_revision,
        where=f"{config.name}: model_name",
    )


def assemble(
    config: Config,
    found: Found,
    hardware: Hardware,
    simulation: Simulation,
    *,
    budget_gb: float | None,
    num_processes: int,
    calibration: Calibration,
) -> Plan:
    """A plan of a simulation."""
    from modelforge.plan.memory import engine_of, parts_at_peak, reserved
    from modelforge.plan.shards import shard, sharding_stage

    tracker, engine = simulation.tracker, engine_of(config, hardware)
    single = parts_at_peak(tracker, engine=engine)
    parts = shard(single, processes=num_processes, stage=sharding_stage(config))
    difference = sum(parts.values()) - sum(single.values())
    on_card = hardware.device == "cuda"
    held = reserved(tracker, expandable=expandable()) + difference
    phases = tracker.peaks()
    if engine is not None:
        _refuse_too_small(config, engine, found)
        held += 0 if engine.sleeps else engine.nbytes
        phases = engine.beside(phases)
    took, between = _time(simulation, hardware, calibration)
    return Plan(
        strategy=config.settings.strategy,
        model=config.settings.model_name,
        device=hardware.device,
        settings={key: config.get(key) for key in _SHOWN if config.get(key) is not None},
        parts=parts,
        peak_allocated=sum(parts.values()),
        peak_reserved=max(round(held * calibration.reserved), sum(parts.values())),
        context=round(calibration.context_gb * GIB) if on_card else 0,
        phase=max(phases, key=lambda phase: phases[phase]),
        phases=phases,
        budget=None if budget_gb is None else round(budget_gb * GIB),
        tokens_per_step=simulation.tokens * num_processes,
        flops_per_step=simulation.flops,
        seconds_per_step=took,
        seconds_between=between,
        notes=tuple(_notes(config, found, hardware, num_processes, calibration)),
    )


def _time(
    simulation: Simulation, hardware: Hardware, calibration: Calibration
) -> tuple[float | None, tuple[float, float] | None]:
    """Seconds of a step, and between which they are where no run has measured them."""
    from modelforge.plan.speed import FASTER, SLOWER

    if calibration.flops_per_second and simulation.flops:
        return simulation.flops / calibration.flops_per_second, None
    of_the_table = known_card(hardware.device_name)
    if of_the_table is None or hardware.device != "cuda":
        return None, None
    took = simulation.seconds(of_the_table)
    return took, (FASTER * took, SLOWER * took)


def _refuse_too_small(config: Config, engine: Engine, found: Found) -> None:
    """See that vLLM's share of the card holds at least the weights.

    Raises:
        DoesNotFit: If it does not.
    """
    import torch

    from modelforge.plan.model import meta_model

    model = meta_model(found.architecture, config.settings, head="causal-lm", dtype=torch.bfloat16)
    weights = sum(p.numel() * 2 for p in model.parameters())
    weights //= config.get("vllm_tensor_parallel_size") or 1
    if weights < engine.nbytes:
        return
    share, card_gb = card_share(config), engine.nbytes / card_share(config) / GIB
    what = (
        f"{share:g} of a card of {card_gb:.1f} GiB does not hold the model's weights "
        f"({weights / GIB:.1f} GiB), which vLLM keeps a copy of"
    )
    least = weights / GIB / card_gb
    fix = (
        f"raise it above {least:.2f}, put vLLM on another card (vllm_mode server), or set "
        "use_vllm to false"
    )
    raise DoesNotFit(Problem(f"{config.name}: vllm_gpu_memory_utilization", what, fix))


def _notes(
    config: Config,
    found: Found,
    hardware: Hardware,
    num_processes: int,
    calibration: Calibration,
) -> list[str]:
    notes = [f"shape of the model: {found.source}"]
    if hardware.device == "cuda":
        notes.append(f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:{expandable()}")
        notes.append(f"CUDA context {calibration.context_gb:g} GiB: {calibration.source}")
    if str(config.get("optim", "")).startswith("paged_") and hardware.device == "cuda":
        notes.append(
            "paged optimiser states move to RAM when the card is full; the plan does not count that"
        )
    if num_processes > 1:
        notes.append(f"{num_processes} cards: the plan adds sharding and buckets by arithmetic")
    if config.get("use_vllm"):
        notes.append(_where_vllm_is(config))
    notes += [f"the plan does not simulate {key}" for key in _ignored(config.trl)]
    if (config.get("per_device_eval_batch_size") or 1) > config.micro_batch:
        notes.append(
            "the plan does not simulate evaluation, whose batches are larger than training's"
        )
    return notes


def _where_vllm_is(config: Config) -> str:
    if not colocated(config):
        return "vLLM has cards of its own"
    when = "while it generates" if config.get("vllm_enable_sleep_mode") else "all the time"
    return f"vLLM takes {card_share(config):g} of the card's memory, {when}"


def _ignored(values: Mapping[str, Any]) -> list[str]:
    ignored = ("activation_offloading", "torch_compile", "use_liger_kernel")
    return [key for key in ignored if values.get(key)]
