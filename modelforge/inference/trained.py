"""A trained model, found by its folder or run and loaded as it was trained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say
from modelforge.errors import ModelError, Problem
from modelforge.models.source import ModelSource, find_model, local_folder
from modelforge.runs import files
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

    from modelforge.models.attach import Head


@dataclass(frozen=True)
class Recorded:
    """What is known of a trained model before it is loaded.

    Attributes:
        name: As the user called it.
        source: Its base and its adapter.
        run: The run that trained it, or None.
        settings: The run's config with every value; empty without a run.
        dtype: That its base was trained in, as torch calls it; ``auto`` where nobody says.
        head: ``causal-lm`` or ``reward``.
    """

    name: str
    source: ModelSource
    run: RunDir | None
    settings: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    head: Head = "causal-lm"

    @property
    def folder(self) -> str:
        """Where its weights lie: a folder, or a hub id."""
        return str(self.source.adapter or self.source.base)

    @property
    def quantised(self) -> bool:
        """Whether its base was quantised while it was trained."""
        return bool(self.settings.get("use_4bit") or self.settings.get("use_8bit"))


@dataclass(frozen=True)
class Trained:
    """A trained model, loaded.

    Attributes:
        recorded: Where it came from.
        model: In evaluation mode.
        tokenizer: With its chat template.
    """

    recorded: Recorded
    model: Any
    tokenizer: PreTrainedTokenizerBase

    @property
    def context(self) -> int | None:
        """The most tokens that its positions reach, where its config says."""
        found = self.model.config.get_text_config()
        return getattr(found, "max_position_embeddings", None)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Within it, the model is the one that the adapter lies on."""
        with self.model.disable_adapter() if self.recorded.source.adapter else nullcontext():
            yield


def find_trained(name: str, *, trust_remote_code: bool = False) -> Recorded:
    """A finished run, a model's or an adapter's folder, or a hub id. Loads nothing.

    Raises:
        ModelError: If there is no such model, or its run is not finished.
    """
    folder = local_folder(name, Path())
    if folder is not None and (folder / files.CHOICES).is_file():
        if (folder / files.STAGES).is_file() and not (folder / files.MODEL).is_dir():
            stages = sorted(p.name for p in folder.iterdir() if (p / files.MODEL).is_dir())
            fix = f"name one of its stages: {', '.join(f'{folder}/{s}' for s in stages)}"
            fix = fix if stages else f"run `modelforge train {folder}` to its end"
            raise ModelError(Problem(name, "is a run in stages", fix))
        if not (folder / files.MODEL).is_dir():
            fix = f"run `modelforge train {folder}` to its end"
            raise ModelError(Problem(name, "holds no trained model: the run is not finished", fix))
    source = find_model(
        name, base_dir=Path(), revision=None, where="model", trust_remote_code=trust_remote_code
    )
    run = _run_of(source)
    if run is None:
        return Recorded(name, source, None, head=_head(source))
    results = run.read_json(files.RESULTS) or {}
    settings = run.read_json(files.CONFIG) or {}
    return Recorded(name, source, run, settings, results.get("dtype", "auto"), _head(source))


def _run_of(source: ModelSource) -> RunDir | None:
    folder = source.adapter or Path(source.base)
    if folder.name == files.MODEL and (folder.parent / files.CHOICES).is_file():
        return RunDir(folder.parent)
    return None


def _head(source: ModelSource) -> Head:
    if source.adapter is not None:
        about = json.loads((source.adapter / "adapter_config.json").read_text(encoding="utf-8"))
        return "reward" if about.get("task_type") == "SEQ_CLS" else "causal-lm"
    path = Path(source.base, "config.json")
    if not path.is_file():
        return "causal-lm"
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    scores = any(name.endswith("ForSequenceClassification") for name in names)
    return "reward" if scores else "causal-lm"


def that_answers(recorded: Recorded) -> Recorded:
    """The same, once it is known that it writes text.

    Raises:
        ModelError: If it is a reward model.
    """
    if recorded.head == "reward":
        what = "is a reward model: it scores answers and writes none"
        raise ModelError(Problem(recorded.name, what, "name the run of a language model"))
    return recorded


def load_trained(recorded: Recorded) -> Trained:
    """Load it on this machine's card, or on the CPU.

    Raises:
        ModelError: If it cannot be loaded here.
    """
    from safetensors import SafetensorError
    from transformers import AutoTokenizer

    from modelforge.machine.hardware import detect_hardware
    from modelforge.models.hub import unreadable
    from modelforge.models.saved import load_saved

    source, name = recorded.source, recorded.folder
    quantization = quantization_of(recorded)
    say(f"loading {name}")
    revision = source.revision if source.adapter is None else None
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.tokenizer,
            revision=revision if source.tokenizer == source.base else None,
            trust_remote_code=source.trust_remote_code,
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        model = load_saved(
            name,
            tokenizer=tokenizer,
            head=recorded.head,
            dtype=recorded.dtype,
            device=detect_hardware().device,
            quantization=quantization,
            revision=revision,
            trust_remote_code=source.trust_remote_code,
        )
    except ImportError as error:
        fix = "install what is missing, or use a merged export of it"
        raise ModelError(Problem(name, f"cannot be loaded here: {error}", fix)) from None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(unreadable(name, "model", error)) from None
    return Trained(recorded, model, tokenizer)


def quantization_of(recorded: Recorded) -> BitsAndBytesConfig | None:
    """How its base was quantised while it was trained, for transformers."""
    if not recorded.quantised:
        return None
    import torch
    from transformers import BitsAndBytesConfig

    if recorded.settings.get("use_8bit"):
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recorded.settings["bnb_4bit_quant_type"],
        bnb_4bit_use_double_quant=recorded.settings["use_double_quant"],
        bnb_4bit_compute_dtype=getattr(torch, recorded.dtype),
    )
