"""What trains fastest on the machine found, where transformers and TRL do not choose it themselves.

Set here: the attention kernel, and padding-free batches where that kernel makes them exact and
cheaper. Already theirs: the fused optimiser and the fused LM head; bf16 is `hardware`'s, gradient
checkpointing the plan's. Left to the user, since it would change results or seldom pays: TF32,
packing (more rows a step), sampling by length (another order), `torch.compile` (compiles anew for
each length), workers of the data loader (rows are tokens already).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modelforge.config import Choice, Config
from modelforge.errors import Problem

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

# Package, and from which compute capability on.
_FLASH = {
    "flash_attention_2": ("flash_attn", (8, 0)),
    "flash_attention_3": ("flash_attn_interface", (9, 0)),
}


def installed_kernels() -> frozenset[str]:
    """The attention kernels whose package is installed."""
    return frozenset(name for name, (package, _) in _FLASH.items() if find_spec(package))


def attention_defaults(
    config: Config, hardware: Hardware, *, kernels: Collection[str], padding_free: bool
) -> dict[str, Choice]:
    """Values for keys that the user left open, each with its reason.

    Args:
        config: With a profile's and the strategy's defaults.
        hardware: The machine.
        kernels: As :func:`installed_kernels` gives them.
        padding_free: Whether the strategy's trainer can do without padding.
    """
    if config.settings.provider == "unsloth":
        return {}  # brings kernels of its own
    attention = config.settings.attn_implementation
    choices: dict[str, Choice] = {}
    if attention == "auto":
        # The newer ones compute in other precisions too: to be asked for.
        against = list(_against("flash_attention_2", config, hardware, kernels))
        if config.settings.lora_r == 0:
            against.append("all weights are trained, in 32 bits")
        attention = "sdpa" if against else "flash_attention_2"
        why = against[0] if against else "skips padding, which sdpa computes"
        choices["attn_implementation"] = Choice(attention, "machine", why)
    if (
        attention in _FLASH
        and padding_free
        and config.micro_batch > 1
        and not config.get("packing")
    ):
        why = f"{attention} keeps rows apart without padding them"
        choices["padding_free"] = Choice(True, "machine", why)
    return choices


def warnings(config: Config) -> Iterator[str]:
    """What was asked for and is not exact, or costs more than it saves."""
    strategy = config.get("packing_strategy") or "bfd"
    if config.get("packing") and strategy == "wrapped":
        yield "packing_strategy wrapped: documents of a row see each other; bfd keeps them apart"
    elif config.get("packing") or config.get("padding_free"):
        rows = config.micro_batch
        if rows > 1 and config.settings.attn_implementation not in _FLASH:
            yield (
                f"packed rows are kept apart by a mask here, which is exact, but attention is "
                f"computed over the {rows} rows of a batch as over one: "
                "per_device_train_batch_size 1, with more gradient_accumulation_steps, is faster"
            )


def machine_problems(config: Config, hardware: Hardware) -> Iterator[Problem]:
    """What the attention kernel and the cache asked for need, and this machine lacks."""
    asked = config.settings.attn_implementation
    for what in _against(asked, config, hardware, installed_kernels()):
        yield Problem(f"{config.name}: attn_implementation", what, "set it to auto")
    cache = str(config.get("cache_implementation"))
    if cache.startswith("offloaded") and hardware.device != "cuda":
        what = f"{cache} moves the cache off a CUDA device, and there is none"
        yield Problem(f"{config.name}: cache_implementation", what, "set dynamic or static")


def _against(
    kernel: str, config: Config, hardware: Hardware, kernels: Collection[str]
) -> Iterator[str]:
    """Why a kernel cannot run; nothing for those that PyTorch has."""
    if kernel not in _FLASH:
        return
    package, least = _FLASH[kernel]
    if hardware.device != "cuda":
        yield f"{kernel} needs a CUDA device"
    elif (hardware.compute_capability or (0, 0)) < least:
        yield f"{kernel} needs compute capability {least[0]}.{least[1]}"
    if kernel not in kernels:
        yield f"{kernel} needs the package {package}, which is not installed"
    if config.get("bf16") is False and not config.get("fp16"):
        yield f"{kernel} computes in 16 bits, and bf16 is off"
