"""A trained model, found by its folder or run and loaded as it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say
from modelforge.errors import ModelError, Problem
from modelforge.evaluation.opened import Named, named, quantised, trained_dtype
from modelforge.models.source import local_folder
from modelforge.runs import files
from modelforge.runs.folder import of_a_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Trained:
    """A trained model, loaded.

    Attributes:
        named: Where it came from.
        model: In evaluation mode.
        tokenizer: With its chat template.
    """

    named: Named
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
        with self.model.disable_adapter() if self.named.source.adapter else nullcontext():
            yield


def find_trained(said: str, *, scores_too: bool = False, trust_remote_code: bool = False) -> Named:
    """A finished run, a model's or an adapter's folder, or a hub id, that answers. Loads nothing.

    Args:
        said: What the user calls it.
        scores_too: Whether it may be a reward model.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        ModelError: If there is no such model, its run is not finished, or it is a reward model.
    """
    folder = local_folder(said, Path())
    if folder is not None and any((folder / n).is_file() for n in (files.CHOICES, files.STAGES)):
        _refuse_unfinished(said, of_a_run(folder))
    found = named(said)
    if found.scores and not scores_too:
        what = "is a reward model: it scores answers and writes none"
        raise ModelError(Problem(said, what, "name the run of a language model"))
    return replace(found, source=replace(found.source, trust_remote_code=trust_remote_code))


def _refuse_unfinished(said: str, folder: Path) -> None:
    if (folder / files.MODEL).is_dir():
        return
    stages = sorted(p for p in folder.iterdir() if (p / files.MODEL).is_dir())
    if (folder / files.STAGES).is_file() and stages:
        fix = f"name one of its stages: {', '.join(map(str, stages))}"
        raise ModelError(Problem(said, "is a run in stages", fix))
    fix = f"run `modelforge train {folder}` to its end"
    raise ModelError(Problem(said, "holds no trained model: the run is not finished", fix))


def weights_of(found: Named) -> str:
    """Where its own weights lie: a folder, or a hub id."""
    return str(found.source.adapter or found.source.base)


def load_tokenizer(found: Named) -> PreTrainedTokenizerBase:
    """Its tokenizer as it was saved, which closes no prompt.

    Raises:
        ModelError: If there is none that can be used.
    """
    from modelforge.data import keep_prompts_open
    from modelforge.models.providers.huggingface import HuggingFace

    tokenizer = HuggingFace().load_tokenizer(found.source)
    keep_prompts_open(tokenizer)
    return tokenizer


def load_trained(found: Named) -> Trained:
    """Load it on this machine's card, or on the CPU.

    Raises:
        ModelError: If it cannot be loaded here.
    """
    from safetensors import SafetensorError

    from modelforge.machine.hardware import detect_hardware
    from modelforge.models.hub import unreadable
    from modelforge.models.saved import load_saved

    source, folder = found.source, weights_of(found)
    tokenizer = load_tokenizer(found)
    say(f"loading {folder}")
    try:
        model = load_saved(
            folder,
            tokenizer=tokenizer,
            head="reward" if found.scores else "causal-lm",
            dtype=trained_dtype(found),
            device=detect_hardware().device,
            quantization=quantised(found),
            revision=source.revision if source.adapter is None else None,
            trust_remote_code=source.trust_remote_code,
        )
    except ImportError as error:
        fix = "install what is missing, or use a merged export of it"
        raise ModelError(Problem(folder, f"cannot be loaded here: {error}", fix)) from None
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(unreadable(folder, "model", error)) from None
    return Trained(found, model, tokenizer)
