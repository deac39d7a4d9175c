"""What this machine has, and which profile of defaults fits it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from modelforge.common.patch import put
from modelforge.config import Choice
from modelforge.errors import ConfigError, Problem, did_you_mean, slip


@dataclass(frozen=True)
class Hardware:
    """Facts about the machine.

    Attributes:
        device: ``cuda`` or ``cpu``.
        device_name: As the driver or the processor calls itself.
        num_devices: CUDA devices seen; 0 without CUDA.
        vram_gb: Memory of the smallest device, in GiB: a card sold as 16 GB reads as about 15.8.
            0 without CUDA.
        compute_capability: Of the weakest device, such as ``(8, 6)``; None without CUDA.
        bf16: Whether the device computes in bfloat16 at speed.
        ram_gb: Memory of the machine, in GiB.
        cores: Processor cores this process may use.
        free_gb: What of ``vram_gb`` is free for this process: a display and other programs take
            their share. None where it was not looked at.
    """

    device: str
    device_name: str
    num_devices: int
    vram_gb: float
    compute_capability: tuple[int, int] | None
    bf16: bool
    ram_gb: float
    cores: int
    free_gb: float | None = None

    @property
    def usable_gb(self) -> float:
        """What a run may take of a card, in GiB; 0 without CUDA."""
        return self.vram_gb if self.free_gb is None else self.free_gb

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


#: Where none was looked at.
NO_MACHINE = Hardware("cpu", "unknown", 0, 0.0, None, False, 0.0, 1)


@dataclass(frozen=True)
class Profile:
    """Defaults for a size of card.

    Attributes:
        name: What the config calls it.
        summary: What fits, in half a sentence.
        min_vram_gb: From this much VRAM (inclusive); None for the CPU.
        max_vram_gb: Up to this much (exclusive); None for no bound.
        defaults: Key → value.
    """

    name: str
    summary: str
    min_vram_gb: float | None
    max_vram_gb: float | None
    defaults: Mapping[str, Any]


def detect_hardware() -> Hardware:
    """Look at the machine (imports torch)."""
    import platform

    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    ram_gb = round(psutil.virtual_memory().total / 2**30, 1)
    if not torch.cuda.is_available():
        name = platform.processor() or platform.machine()
        return Hardware("cpu", name, 0, 0.0, None, False, ram_gb, cores or 1)
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    capability = min((card.major, card.minor) for card in cards)
    return Hardware(
        device="cuda",
        device_name=cards[0].name,
        num_devices=len(cards),
        vram_gb=round(min(card.total_memory for card in cards) / 2**30, 2),
        compute_capability=capability,
        bf16=capability >= (8, 0),
        ram_gb=ram_gb,
        cores=cores or 1,
        free_gb=_free_gb(len(cards)),
    )


# What CUDA itself takes for this process, of which `mem_get_info` knows nothing apart.
_CONTEXT = 0.5


def _free_gb(cards: int) -> float | None:
    """What the card with the least free memory leaves to this process, in GiB.

    None beside other processes of the same run: what each of them takes would count for the
    others, and all have to come to the same plan.
    """
    import torch

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return None
    free = []
    for i in range(cards):
        left, total = torch.cuda.mem_get_info(i)
        own = torch.cuda.memory_reserved(i) / 2**30 + _CONTEXT
        free.append(round(min(left / 2**30 + own, total / 2**30), 2))
    return min(free)


def list_profiles() -> list[Profile]:
    """The shipped profiles, smallest first."""
    folder = files("modelforge.configs") / "profiles"
    found = [
        Profile(**json.loads(entry.read_text(encoding="utf-8")))
        for entry in folder.iterdir()
        if entry.name.endswith(".json")
    ]
    return sorted(found, key=lambda p: -1.0 if p.min_vram_gb is None else p.min_vram_gb)


def choose_profile(
    hardware: Hardware, *, name: str = "auto", memory_budget_gb: float | None = None
) -> tuple[Profile, Choice]:
    """The profile for these facts, and why.

    Args:
        hardware: The machine; nothing else is looked at.
        name: A profile's name to take it whatever the machine, or ``auto``.
        memory_budget_gb: Takes the place of the card's memory, where given.

    Raises:
        ConfigError: If no profile has that name.
    """
    profiles = {profile.name: profile for profile in list_profiles()}
    if name != "auto":
        if name not in profiles:
            meant, what = slip(name, profiles), f"'{name}' is unknown"
            patch = put(["hardware_profile"], meant) if meant else ()
            fix = did_you_mean(name, profiles)
            raise ConfigError(Problem("hardware_profile", what, fix, patch))
        return profiles[name], Choice(name, "config")
    if hardware.device == "cpu":
        return profiles["cpu"], Choice("cpu", "machine", "no CUDA device was found")
    # A card sold as 16 GB reports up to 0.6 less: its profile begins lower by that.
    vram = memory_budget_gb or hardware.vram_gb + 0.6
    for profile in profiles.values():
        low, high = profile.min_vram_gb, profile.max_vram_gb
        if low is not None and low <= vram and (high is None or vram < high):
            said = "memory_budget_gb" if memory_budget_gb else hardware.device_name
            reason = f"{said}: {memory_budget_gb or hardware.vram_gb} GiB"
            return profile, Choice(profile.name, "machine", reason)
    raise AssertionError("the profiles cover every size")  # held by a test


def device_arguments(hardware: Hardware, given: Mapping[str, Any]) -> dict[str, Choice]:
    """``use_cpu``, ``bf16``, ``fp16`` and what this machine cannot do, each with its reason.

    Args:
        hardware: The machine.
        given: What the user set of them; kept where the machine can do it.
    """
    if hardware.device == "cpu":
        why = "no CUDA device: 32-bit is exact, and 16-bit is not faster on a CPU"
        choices = {
            "use_cpu": Choice(True, "machine", "no CUDA device was found"),
            "bf16": Choice(False, "machine", why),
            "fp16": Choice(False, "machine", why),
        }
        if given.get("activation_offloading"):
            why = "there is no GPU whose memory activations could leave"
            choices["activation_offloading"] = Choice(False, "machine", why)
        return choices
    if given.get("fp16") or (given.get("bf16") is None and not hardware.bf16):
        why = "asked for" if given.get("fp16") else "this card does not compute in bfloat16"
        return {
            "fp16": Choice(True, "machine", why),
            "bf16": Choice(False, "machine", "fp16 is on"),
        }
    if not hardware.bf16:
        return {
            "fp16": Choice(True, "machine", "this card does not compute in bfloat16"),
            "bf16": Choice(False, "machine", "this card does not compute in bfloat16"),
        }
    if given.get("bf16") is False:
        return {"bf16": Choice(False, "config"), "fp16": Choice(False, "config")}
    return {
        "bf16": Choice(True, "machine", "this card computes in bfloat16"),
        "fp16": Choice(False, "machine", "bf16 is on"),
    }
