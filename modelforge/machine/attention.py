"""What trains fastest on the machine found, where transformers and TRL do not choose it themselves.

Set here: the attention kernel, batches without padding where the model keeps their rows apart, and
batches by length where it does not. Already theirs: the fused optimiser and the fused LM head; bf16
is `hardware`'s, gradient checkpointing the plan's. Left to the user, since it would change results
or seldom pays: TF32, packing (batches without padding do as much work, and keep the rows of a
step), Liger (TRL's own head is fused already, and a card is needed), `torch.compile` (compiles anew
for each length), workers of the data loader (rows are tokens already).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modelforge.config import Choice, Config
from modelforge.errors import Problem

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

#: PyTorch's attention for each row by itself: `modelforge.models.documents`.
BY_ROW = "sdpa_by_row"
# Package, and from which compute capability on.
_FLASH = {
    "flash_attention_2": ("flash_attn", (8, 0)),
    "flash_attention_3": ("flash_attn_interface", (9, 0)),
}


def installed_kernels() -> frozenset[str]:
    """The attention kernels whose package is installed."""
    return frozenset(name for name, (package, _) in _FLASH.items() if find_spec(package))


def attention_defaults(
    config: Config,
    hardware: Hardware,
    *,
    kernels: Collection[str],
    padding_free: bool,
    apart: tuple[str | None, str] | None = None,
) -> dict[str, Choice]:
    """Values for keys that the user left open, each with its reason.

    Args:
        config: With a profile's and the strategy's defaults.
        hardware: The machine.
        kernels: As :func:`installed_kernels` gives them.
        padding_free: Whether the strategy's trainer can do without padding.
        apart: What keeps rows of one sequence apart on plain PyTorch (``row``, ``mask`` or None),
            and why.
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
    if not padding_free:
        return choices
    return choices | _without_padding(config, attention, apart)


def _without_padding(
    config: Config, attention: str, apart: tuple[str | None, str] | None
) -> dict[str, Choice]:
    """Batches without padding where rows stay apart, and by length where they do not."""
    together = config.get("packing") or config.said.get("padding_free")
    if attention in _FLASH:
        if config.micro_batch == 1 or config.get("packing"):
            return {}
        why = f"{attention} keeps rows apart without padding them"
        return {"padding_free": Choice(True, "machine", why)}
    if apart is None:
        return {}
    by, why = apart
    asked = config.given("attn_implementation")
    if by == "row" and (attention == BY_ROW or (attention == "sdpa" and not asked)):
        kernel = {"attn_implementation": Choice(BY_ROW, "machine", why)}
        if together:
            return kernel
        if config.said.get("padding_free") is False or config.micro_batch == 1:
            return {}
        if config.settings.lora_dropout or config.get("torch_compile"):
            return {}  # other draws of dropout; and it would compile anew for each batch
        how = "nothing is computed on padding, and the losses are the same"
        return kernel | {"padding_free": Choice(True, "model", how)}
    if by is None and not together and config.micro_batch > 1:
        why = f"less padding in a batch; rows cannot share a sequence here ({why})"
        return {"train_sampling_strategy": Choice("group_by_length", "model", why)}
    return {}


def warnings(config: Config) -> Iterator[str]:
    """What was asked for and is not exact, or costs more than it saves."""
    strategy = config.get("packing_strategy") or "bfd"
    if config.get("packing") and strategy == "wrapped":
        yield "packing_strategy wrapped: documents of a row see each other; bfd keeps them apart"
    elif config.get("packing") or config.get("padding_free"):
        rows = config.micro_batch
        if rows > 1 and config.settings.attn_implementation not in (*_FLASH, BY_ROW):
            yield (
                f"packed rows are kept apart by a mask here, which is exact, but attention is "
                f"computed over the {rows} rows of a batch as over one: "
                "per_device_train_batch_size 1, with more gradient_accumulation_steps, is faster"
            )


def together_problems(config: Config, by: str | None, why: str) -> Iterator[Problem]:
    """Rows that the user puts into one sequence, of a model that does not keep them apart."""
    attention = config.settings.attn_implementation
    if attention == BY_ROW and by != "row":
        what = f"{BY_ROW} is not for this model: {why}"
        yield Problem(f"{config.name}: attn_implementation", what, "set it to auto")
    if by is not None or attention in _FLASH:
        return
    for key in ("packing", "padding_free"):
        if config.said.get(key) and config.get("packing_strategy") != "wrapped":
            what = f"rows of one sequence would see each other: {why}"
            fix = "remove it, and set train_sampling_strategy to group_by_length"
            yield Problem(f"{config.name}: {key}", what, fix)


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
