"""A model's shape: from its folder, from the presets that ship with ModelForge, or from the hub."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.hub import look_for_hub
from modelforge.errors import ModelError, Problem, did_you_mean
from modelforge.models.source import local_folder

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class UnknownShape(ModelError):
    """The shape cannot be read from a folder, a preset or the hub."""


@dataclass(frozen=True)
class Found:
    """A model's shape, and how it is known.

    Attributes:
        architecture: transformers' config.
        adapter: Folder of an adapter that is trained further, or None.
        source: Where the shape comes from, for a reader.
    """

    architecture: PretrainedConfig
    adapter: Path | None
    source: str


def find_architecture(name: str, *, base_dir: Path, revision: str | None, where: str) -> Found:
    """The shape of a model; its weights need not be there.

    Args:
        name: A model, adapter or run folder (only its config is read), the name or hub id of a
            shipped preset, or another hub id, which needs the network.
        base_dir: Relative paths are looked up here first.
        revision: Hub revision.
        where: How to call the key in messages.

    Raises:
        ModelError: If no shape can be found.
    """
    folder = local_folder(name, base_dir)
    if folder is not None:
        return _in_folder(folder, base_dir=base_dir, where=where)
    preset = _preset(name)
    if preset is not None:
        return Found(_build(preset), None, f"shipped preset {preset['name']}")
    return Found(_read(name, revision, where), None, name)


def list_architectures() -> list[dict[str, Any]]:
    """The shipped presets: ``name``, ``published`` parameters, ``config``.

    ``published`` is null where the hub counts the weights of pictures or sound as well.
    """
    folder = files("modelforge.configs") / "architectures"
    return [
        preset
        for entry in sorted(folder.iterdir(), key=lambda e: e.name)
        if entry.name.endswith(".json")
        for preset in json.loads(entry.read_text(encoding="utf-8"))
    ]


def with_layers(architecture: PretrainedConfig, layers: int) -> PretrainedConfig:
    """The same model with fewer layers: the first of them, each of its own kind."""
    shorter = copy.deepcopy(architecture)
    text = shorter.get_text_config()
    whole = text.num_hidden_layers
    for name, value in list(vars(text).items()):
        if isinstance(value, list | tuple) and len(value) == whole and whole != layers:
            setattr(text, name, value[:layers])  # what each layer is, and how it attends
        elif isinstance(value, dict) and value and all(isinstance(key, int) for key in value):
            setattr(text, name, {key: value[key] for key in value if key < layers})
    text.num_hidden_layers = layers
    return shorter


def layer_period(architecture: PretrainedConfig) -> int:
    """After how many layers their kinds repeat (1 where all are alike)."""
    return repeats(architecture)[1]


def repeats(architecture: PretrainedConfig) -> tuple[int, int]:
    """How many layers come before the kinds repeat, and after how many they do."""
    text = architecture.get_text_config()
    whole = text.num_hidden_layers
    # Some configs give their kinds by a property, and refuse to be asked for what layers differ in.
    lists = [getattr(text, "layer_types", None), *vars(text).values()]
    named = [x for x in lists if isinstance(x, list | tuple) and len(x) == whole]
    kinds = [str([values[i] for values in named]) for i in range(whole)]
    # The first layers of some mixtures of experts are dense, which no list says.
    first = getattr(text, "first_k_dense_replace", None) or 0
    first = first if isinstance(first, int) and first < whole else 0
    for period in range(1, whole - first):
        if all(kinds[i] == kinds[i - period] for i in range(first + period, whole)):
            return first, period
    return first, max(1, whole - first)


def _in_folder(folder: Path, *, base_dir: Path, where: str) -> Found:
    if (folder / "model").is_dir() and not (folder / "config.json").is_file():
        folder = folder / "model"
    elif (folder / "model").is_dir() and (folder / "choices.json").is_file():
        folder = folder / "model"  # a run's folder: its config.json is the run's
    if (folder / "adapter_config.json").is_file():
        try:
            adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            base = adapter["base_model_name_or_path"]
        except (ValueError, KeyError, OSError):
            what = f"{folder}/adapter_config.json names no base model"
            raise ModelError(Problem(where, what, "train it again")) from None
        found = find_architecture(
            base, base_dir=base_dir, revision=adapter.get("revision"), where=where
        )
        return Found(found.architecture, folder, found.source)
    return Found(_read(str(folder), None, where), None, str(folder))


# What a hub id may add to a preset's name and still mean that shape: how it was trained on, the
# format, and bitsandbytes' 4 bits. Another quantisation, or a model of pictures too, is another.
_ADDED = re.compile(
    r"instruct|it|base|chat|hf|pt|sft|dpo|thinking|reasoning|plus|bnb|4bit|unsloth|4k|128k"
    r"|bf16|fp16|\d{4}|v\d+(\.\d+)*"
)


def _preset(name: str) -> dict[str, Any] | None:
    """The preset a hub id means: ``owner/Meta-Llama-3.1-8B-Instruct`` is ``llama-3.1-8b``.

    The whole name counts: ``Phi-4-multimodal-instruct`` and ``Qwen3-8B-AWQ`` are no preset's.
    """
    asked = _words(name.rpartition("/")[2].lower().removeprefix("meta-"))
    best: dict[str, Any] | None = None
    for preset in list_architectures():
        words = _words(preset["name"])
        if asked[: len(words)] != words or not all(map(_ADDED.fullmatch, asked[len(words) :])):
            continue
        if best is None or len(words) > len(_words(best["name"])):
            best = preset
    return best


def _words(name: str) -> list[str]:
    return name.split("-")


def _build(preset: dict[str, Any]) -> PretrainedConfig:
    from transformers import AutoConfig

    values = dict(preset["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def _read(name: str, revision: str | None, where: str) -> PretrainedConfig:
    from transformers import AutoConfig

    if not Path(name).exists():
        look_for_hub()
    try:
        return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:  # the checks of a config's class raise kinds of their own
        message = " ".join(str(error).split())[:200]
        near = did_you_mean(name.rpartition("/")[2].lower(), _names())
        raise UnknownShape(
            Problem(
                where,
                f"the shape of {name} is not known: {message}",
                near or "give a folder with its config.json, or one of " + ", ".join(_names()),
            )
        ) from None


def _names() -> Iterator[str]:
    return (preset["name"] for preset in list_architectures())
