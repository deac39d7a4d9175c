"""A model's weights held against its shape: by the heads of its files, and as they were loaded.

transformers fills a weight that is not there with random numbers, and passes over one that the
config has no place for. A run would train such a model to its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.errors import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIX = "copy the whole model there, or correct its config.json"


def misfits(folder: Path, model: PreTrainedModel, where: str) -> Iterator[Problem]:
    """What the heads of a folder's files say against its shape; no weight is read.

    A model whose files name their weights otherwise than the model does is left to `refilled`.

    Args:
        folder: With its safetensors.
        model: Of that shape, as its config says it; on the meta device.
        where: How to call the key in messages.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping

    held = shapes(folder)
    if not held or get_model_conversion_mapping(model, add_legacy=False):
        return
    prefix = f"{model.base_model_prefix}."
    wanted = dict(_of_its_own(model))
    found = {
        name: next((other for other in _spelt(name, prefix) if other in held), None)
        for name in wanted
    }
    missing = [name for name, other in found.items() if other is None]
    if 2 * len(missing) > len(wanted):
        return  # other names altogether
    if missing:
        yield lacking(str(folder), missing, where)
    for name, other in found.items():
        shape = list(wanted[name].shape)
        whole = wanted[name].is_floating_point()  # else it is to be packed into 4 bits
        if other is not None and whole and held[other] != shape:
            what = f"{other} is {held[other]} in {folder}, and {shape} by its config.json"
            yield Problem(where, what, _FIX)
            return


def lacking(model: str, names: Collection[str], where: str) -> Problem:
    """The problem of weights that a model's files do not hold."""
    what = f"the files of {model} lack {len(names)} of its weights, such as {min(names)}: they "
    return Problem(where, what + "would be random", _FIX)


def refilled(model: PreTrainedModel, told: Mapping[str, Any], *, scores: bool) -> list[str]:
    """The weights that were filled with random numbers, by what transformers tells of loading.

    Args:
        model: As it was loaded.
        told: Its loading info.
        scores: Whether it is loaded under a score head, which a language model does not have.
    """
    trunk = f"{model.base_model_prefix}."
    return [name for name in told["missing_keys"] if not scores or name.startswith(trunk)]


def shapes(folder: Path) -> dict[str, list[int]]:
    """Name → shape of each weight in a folder's safetensors, by their heads; empty without any.

    What cannot be read is left out: loading says why.
    """
    from safetensors import SafetensorError, safe_open

    index = folder / "model.safetensors.index.json"
    files = {"model.safetensors"}
    found: dict[str, list[int]] = {}
    try:
        if index.is_file():
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for name in sorted(files):
            with safe_open(folder / name, framework="pt") as file:
                names = file.keys()
                found |= {key: list(file.get_slice(key).get_shape()) for key in names}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return {}
    return found


def _of_its_own(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """The weights that a file must hold: not those of a score head, nor the tied ones."""
    ignored = [*(model._keys_to_ignore_on_load_missing or ())]
    tied: list[Any] = []
    if model.config.get_text_config().tie_word_embeddings:
        ends = (model.get_input_embeddings(), model.get_output_embeddings())
        tied = [end.weight for end in ends if end is not None]
    language = model.get_output_embeddings() is not None
    for name, each in model.named_parameters():
        head = not language and not name.startswith(f"{model.base_model_prefix}.")
        if head or any(each is end for end in tied):
            continue
        if not any(re.search(pattern, name) for pattern in ignored):
            yield name, each


def _spelt(name: str, prefix: str) -> tuple[str, ...]:
    """A weight's name as files of a model with and without a head have it."""
    return name, name.removeprefix(prefix), f"{prefix}{name}"
