"""What comes from the Hugging Face hub: pinned to a commit, and said clearly where it is missing.

Downloads, their retries with growing pauses (five, on time-outs, lost connections and busy
servers), going on with half a file, and the cache are huggingface_hub's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelforge.errors import Problem
from modelforge.models.source import ModelSource


def pinned(source: ModelSource) -> ModelSource:
    """The source at the commit that its config was just read from.

    Tokenizer and weights then come from that commit too, whatever is pushed meanwhile.

    Args:
        source: A hub model, its config in the cache; or a folder, which stays as it is.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(source.base).exists():
        return source
    config = try_to_load_from_cache(source.base, "config.json", revision=source.revision)
    # …/snapshots/<commit>/config.json
    return replace(source, revision=Path(config).parent.name) if isinstance(config, str) else source


def origin(source: ModelSource, sources: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Where model and data came from, for the run's ``environment.json``.

    Args:
        source: The model's, pinned.
        sources: The ledger's: each a file with its SHA-256, or a hub data set with its commit.
    """
    data = [
        {key: s.get(key) for key in ("path", "revision", "sha256") if s.get(key)} for s in sources
    ]
    adapter = str(source.adapter) if source.adapter else None
    return {
        "model": source.base,
        "revision": source.revision,
        "adapter": adapter,
        "dataset": data,
    }


def unreadable(name: str, what: str, error: Exception) -> Problem:
    """Why a model, tokenizer or adapter cannot be loaded, and what to do.

    Args:
        name: Folder or hub id.
        what: How to call it: ``model``, ``tokenizer``, ….
        error: What transformers or PEFT raised.
    """
    from huggingface_hub.constants import HF_HUB_CACHE, is_offline_mode

    message = " ".join(str(error).split())
    if "trust_remote_code" in message:
        return Problem(
            name,
            f"the {what} needs Python code of its own, which would run with your rights",
            'read that code; if you trust it, set "trust_remote_code": true and say '
            "--trust-remote-code on the command line",
        )
    if len(message) > 300:
        message = message[:297] + "…"
    fix = (
        "give a folder with config.json, tokenizer and .safetensors, or a hub id that this "
        "machine can reach"
    )
    if is_offline_mode() and not Path(name).exists():
        message = f"it is not in the cache {HF_HUB_CACHE}, and HF_HUB_OFFLINE is set ({message})"
        fix = f"run `hf download {name}` where there is a network, or give a folder"
    elif "safetensors" in message:
        fix = "pickled weights can run code when loaded: convert them to safetensors"
    return Problem(name, f"no usable {what} there: {message}", fix)
