"""What comes from the Hugging Face hub: pinned to a commit, and said clearly where it is missing.

huggingface_hub downloads, tries lost connections and busy servers again, resumes half a file, and
keeps the cache. Whether there is a hub at all is looked at beforehand (`modelforge.common.hub`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelforge.common.hub import look_for_hub, refusal, why_offline
from modelforge.common.paths import find_path, paths_in
from modelforge.config import Config
from modelforge.data.files import looks_like_hub_id
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


def look_for_what_is_named(config: Config, source: ModelSource) -> None:
    """See whether the hub can be reached, if the model, the data or a reward comes from there."""
    if not Path(source.base).exists() or _names_hub_id(config):
        look_for_hub()


def _names_hub_id(config: Config) -> bool:
    places = paths_in(type(config.settings), config.settings.model_dump())
    return any(p.beside_config and on_the_hub(p.text, config.base_dir) for p in places)


def on_the_hub(text: str, base_dir: Path) -> bool:
    """Whether a text of a config names something of the hub, and nothing that is here.

    Args:
        text: As the config says it.
        base_dir: The config's folder.
    """
    return looks_like_hub_id(text) and find_path(text, base_dir) is None


def absent(name: str, what: str) -> Problem | None:
    """Why a model of the hub cannot be had; None where it can be.

    Its config alone is looked at, or its adapter's: weights may take an hour to download.

    Args:
        name: Its hub id.
        what: How to call it: ``reward model``, ….
    """
    from huggingface_hub import hf_hub_download

    first: Exception | None = None
    for file in ("config.json", "adapter_config.json"):
        try:
            hf_hub_download(name, file)
        except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
            first = first or error
        else:
            return None
    assert first is not None
    return unreadable(name, what, first)


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
    from huggingface_hub.constants import HF_HUB_CACHE

    if name.startswith("runs/") and not Path(name).exists():
        fix = "train the config that makes it first, and run both in the same folder"
        return Problem(name, "there is no such run yet", fix)
    if name.startswith((".", "/", "~")) and not Path(name).expanduser().exists():
        return Problem(name, "there is no such folder", f"give the folder of a {what}, or a hub id")
    offline, advice = why_offline()
    refused, fix = refusal(name, error)
    if refused and not offline and not Path(name).exists():
        return Problem(name, f"the {what} {refused}", fix)
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
    if offline and not Path(name).exists():
        message, fix = f"it is not in the cache {HF_HUB_CACHE}, and {offline}", advice
    elif "safetensors" in message:
        fix = "pickled weights can run code when loaded: convert them to safetensors"
    return Problem(name, f"no usable {what} there: {message}", fix)
