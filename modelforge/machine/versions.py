"""Versions of what a run is made of."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, requires, version

_PACKAGES = (
    "modelforge-trl",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "bitsandbytes",
    "unsloth",
    "deepspeed",
    "vllm",
    "wandb",
)


def install(extra: str) -> str:
    """The command that installs what an extra needs, in the versions that work.

    ModelForge itself is on no package index, so the command names the packages.

    >>> install("deepspeed")  # doctest: +SKIP
    "pip install 'deepspeed>=0.18.6'"
    """
    wanted = []
    for line in requires("modelforge-trl") or ():
        package, _, condition = line.partition(";")
        if condition.replace("'", '"').strip() == f'extra == "{extra}"':
            wanted.append(f"'{package.strip()}'")
    return f"pip install {' '.join(wanted)}"


def versions() -> dict[str, str]:
    """Installed versions of what a run is made of."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
