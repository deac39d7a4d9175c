"""What runs on this machine taught: kept between runs, and taken by the next plan."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.files import write_whole
from modelforge.plan.result import GIB, Calibration, Plan

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

# The share of the newest run in what is remembered.
_NEWEST = 0.5
# A ratio beyond these says that something else used the card, or that the plan is wrong.
_CREDIBLE = (0.8, 1.25)


def calibration_file() -> Path:
    """``MODELFORGE_CACHE``/calibration.json, by default in ``~/.cache/modelforge``."""
    folder = os.environ.get("MODELFORGE_CACHE") or Path.home() / ".cache" / "modelforge"
    return Path(folder) / "calibration.json"


def recall(hardware: Hardware) -> Calibration:
    """What is known of this machine; the defaults where nothing is, or where it is unreadable."""
    found = _read().get(hardware.device_name)
    try:
        return Calibration(**found) if found else Calibration()
    except TypeError:
        return Calibration()


def learn(
    hardware: Hardware, plan: Plan, *, reserved: int | None, context: int | None, seconds: float
) -> None:
    """Remember how a run compared with its plan.

    Args:
        hardware: The machine.
        plan: What was predicted.
        reserved: Peak of the allocator, in bytes; None where it was not measured.
        context: What the driver and libraries took besides, in bytes; None likewise.
        seconds: Median time of an optimiser step, without generation.
    """
    known = recall(hardware)
    changes: dict[str, Any] = {"source": f"measured on {hardware.device_name}"}
    if reserved and "vLLM" not in plan.parts:  # whose memory PyTorch does not count
        # Against the bare prediction: the plan was made with what was known before.
        ratio = reserved / (plan.peak_reserved / known.reserved)
        if _CREDIBLE[0] <= ratio <= _CREDIBLE[1]:
            changes["reserved"] = _mixed(known.reserved, ratio)
    if context and "vLLM" not in plan.parts:
        changes["context_gb"] = round(context / GIB, 3)
    if plan.flops_per_step and seconds > 0:
        speed = plan.flops_per_step / seconds
        before = known.flops_per_second
        changes["flops_per_second"] = speed if before is None else _mixed(before, speed)
    if len(changes) == 1:
        return
    path = calibration_file()
    everything = _read() | {hardware.device_name: asdict(replace(known, **changes))}
    try:
        write_whole(path, json.dumps(everything, indent=2))
    except OSError:
        return  # a home that cannot be written to costs a better plan, not a run


def _mixed(before: float, now: float) -> float:
    return (1 - _NEWEST) * before + _NEWEST * now


def _read() -> dict[str, Any]:
    try:
        found = json.loads(calibration_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
