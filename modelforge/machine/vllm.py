"""Rollouts by vLLM, through TRL's own fields: what can stand together, and what it takes of a card.

``vllm_mode`` colocate puts an engine beside training on the same card, with sleep mode only while
it generates; server sends the prompts to cards of their own. Imports no ML library.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from modelforge.config import Choice, Config
from modelforge.errors import Problem, did_you_mean
from modelforge.machine.versions import install

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware

_MODES = ("colocate", "server")
_SHARE = 0.3  # TRL's default of vllm_gpu_memory_utilization


def colocated(config: Config) -> bool:
    """Whether an engine is on the training card."""
    return bool(config.get("use_vllm")) and config.get("vllm_mode", "colocate") == "colocate"


def card_share(config: Config) -> float:
    """The share of a card's memory that an engine on it takes, whatever else is there."""
    return float(config.get("vllm_gpu_memory_utilization") or _SHARE)


def vllm_defaults(config: Config) -> dict[str, Choice]:
    """What follows from ``use_vllm``; for keys that the user left open."""
    if not config.get("use_vllm"):
        return {}
    choices: dict[str, Choice] = {}
    if colocated(config):
        why = "vLLM's memory is free while the model trains"
        choices["vllm_enable_sleep_mode"] = Choice(True, "default", why)
    why = "vLLM is sent the weights, and cannot take those of bitsandbytes"
    for key in ("use_4bit", "use_8bit"):
        if config.get(key):
            choices[key] = Choice(False, "default", why)
    return choices


def config_problems(config: Config) -> Iterator[Problem]:
    """What of the config cannot stand with ``use_vllm``."""
    if not config.get("use_vllm"):
        return
    mode = config.get("vllm_mode", "colocate")
    if mode not in _MODES:
        yield Problem(
            f"{config.name}: vllm_mode", f"'{mode}' is unknown", did_you_mean(str(mode), _MODES)
        )
    share = card_share(config)
    if not 0 < share <= 1:
        where = f"{config.name}: vllm_gpu_memory_utilization"
        yield Problem(where, f"is {share:g}", "give a share of the card above 0 and up to 1")
    for key in ("use_4bit", "use_8bit"):
        if config.given(key) and config.get(key):
            # It merges the adapter into them for each rollout, which rounds the base anew, and
            # sends them packed, without the constants that they are packed with.
            what = "TRL cannot send quantised weights to vLLM"
            yield Problem(f"{config.name}: {key}", what, f"set {key} or use_vllm to false")


def machine_problems(config: Config, hardware: Hardware) -> Iterator[Problem]:
    """What ``use_vllm`` needs, and this machine lacks."""
    if not config.get("use_vllm"):
        return
    where = f"{config.name}: use_vllm"
    if hardware.device != "cuda":
        yield Problem(where, "vLLM needs a CUDA device", "set use_vllm to false")
    if find_spec("vllm") is None:
        fix = f"{install('vllm')}, or set use_vllm to false"
        yield Problem(where, "vLLM is not installed", fix)
