"""Models opened to be measured: several adapters switch on one base, which is loaded once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.constraints import Constraints
from modelforge.constraints.of_a_run import beside
from modelforge.errors import ModelError, Problem
from modelforge.models.attach import rows_of_adapter
from modelforge.models.hub import unreadable
from modelforge.models.source import ModelSource, find_model, local_folder
from modelforge.models.vocabulary import Vocabulary, grow
from modelforge.rewards.folder import folder_problem, reward_folder
from modelforge.runs import files
from modelforge.runs.folder import of_a_run

# What of an adapter is more than low-rank parts beside the base, which PEFT switches off and on.
_MORE = ("modules_to_save", "trainable_token_indices")


@dataclass(frozen=True)
class Named:
    """A model as the user named it; nothing is loaded.

    Attributes:
        name: How it is called in figures.
        said: What the user wrote.
        source: Where base, adapter and tokenizer lie.
        run: The folder of its run, or None.
        scores: Whether it is a reward model, which scores and does not answer.
    """

    name: str
    said: str
    source: ModelSource
    run: Path | None
    scores: bool

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The config of its run; of an export the constraints that it carries; else empty."""
        if self.run is None:
            return beside(Path(self.source.adapter or self.source.base))
        return _object(self.run / files.CONFIG)

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """What its run gave the chat template; empty where nothing."""
        return dict(self.recorded.get("chat_template_kwargs") or {})

    @property
    def start(self) -> str | None:
        """What it began from: its run's model, else its adapter's base."""
        if self.run is not None:
            origin: str | None = self.recorded.get("model_name")
            return origin
        return self.source.base if self.source.adapter is not None else None


def _object(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def named(said: str, *, name: str | None = None, where: str = "MODEL") -> Named:
    """Find a model: a finished run's folder, a model's or an adapter's folder, or a hub id.

    Raises:
        ModelError: If it is a path and no usable model lies there.
    """
    folder = local_folder(said, Path())
    source = find_model(said, base_dir=Path(), revision=None, where=where)
    run = None
    if folder is not None:
        inner = folder.parent if folder.name == files.MODEL else of_a_run(folder)
        run = inner if (inner / files.CHOICES).is_file() else None
    scores = folder is not None and not folder_problem(folder)
    called = name or _called(said, run)
    return Named(called, said, source, run, scores)


def _called(said: str, run: Path | None) -> str:
    """The name of a run's folder, as the user gave it: of a run in stages that of the whole."""
    path = Path(said.rstrip("/"))
    if run is not None:
        path = path.expanduser().resolve()
        path = path.parent if path.name == files.MODEL else path
    return path.name or "model"


def fingerprint(model: Named) -> list[Any]:
    """What tells whether a model's files are those of last time; reads no weights."""
    folders = [model.source.base, *([str(model.source.adapter)] if model.source.adapter else [])]
    found: list[Any] = [model.source.base, model.source.revision]
    for folder in folders:
        for path in sorted(Path(folder).glob("*")) if Path(folder).is_dir() else ():
            if path.suffix in (".safetensors", ".json", ".jinja", ".model"):
                seen = path.stat()
                found.append([path.name, seen.st_size, seen.st_mtime_ns])
    # The same files are asked otherwise with these.
    return [*found, model.template_kwargs] if model.template_kwargs else found


def constraints_key(held: Constraints) -> list[Any]:
    """What tells whether constraints are those of last time: entries, and the models that decide.

    Raises:
        ModelError: If no usable model lies where one of them is named.
    """
    models = [fingerprint(named(str(folder))) for folder in held.folders()]
    return [held.told(), models] if models else held.told()


class Bench:
    """Holds the bases that were loaded, and the adapters on them."""

    def __init__(self) -> None:
        self._bases: dict[Any, Any] = {}
        self._adapters: dict[tuple[Any, Path], str] = {}

    @contextmanager
    def model(self, asked: Named) -> Iterator[Any]:
        """Within it, the model of that name: its base with its adapter alone switched on.

        Raises:
            ModelError: If it cannot be loaded.
        """
        import torch

        key = self._key(asked)
        if key not in self._bases:
            self._bases[key] = _load_base(asked)
        adapter = asked.source.adapter
        if adapter is not None and (key, adapter) not in self._adapters:
            self._attach(key, adapter)
        model = self._bases[key]
        switched: Any = nullcontext()
        if adapter is not None:
            model.set_adapter(self._adapters[key, adapter])
        elif hasattr(model, "peft_config"):
            switched = model.disable_adapter()
        with switched, torch.inference_mode():
            yield model

    def _key(self, asked: Named) -> Any:
        source, adapter = asked.source, asked.source.adapter
        recorded = asked.recorded
        how = [recorded.get(k) for k in ("use_4bit", "use_8bit", "bnb_4bit_quant_type")]
        own = None
        if adapter is not None:
            config = _object(adapter / "adapter_config.json")
            # What reaches into the base does not share it.
            more = any(config.get(name) for name in _MORE) or rows_of_adapter(adapter)
            own = adapter if more or config.get("peft_type") != "LORA" else None
        return source.base, source.revision, tuple(how) if any(how[:2]) else (), own

    def _attach(self, key: Any, adapter: Path) -> None:
        from peft import PeftModel
        from safetensors import SafetensorError

        model, name = self._bases[key], f"m{len(self._adapters)}"
        try:
            if hasattr(model, "peft_config"):
                model.load_adapter(str(adapter), adapter_name=name, is_trainable=False)
            else:
                model = PeftModel.from_pretrained(model, str(adapter), adapter_name=name)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
            raise ModelError(unreadable(str(adapter), "adapter", error)) from None
        self._bases[key] = model.eval()
        self._adapters[key, adapter] = name


def _load_base(asked: Named) -> Any:
    """The base as its run had it, else in the type it was saved in; in 32 bits on a CPU."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    from modelforge.models.lora import exact_4bit_on_cpu

    source, cuda = asked.source, torch.cuda.is_available()
    say(f"loading {source.base}")
    kwargs: dict[str, Any] = {
        "revision": source.revision,
        "dtype": trained_dtype(asked),
        "trust_remote_code": False,
        "use_safetensors": True,
        "quantization_config": quantised(asked),
    }
    if cuda or kwargs["quantization_config"] is not None:
        kwargs["device_map"] = {"": "cuda:0" if cuda else "cpu"}
    try:
        model = AutoModelForCausalLM.from_pretrained(source.base, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(unreadable(source.base, "model", error)) from None
    exact_4bit_on_cpu(model)
    if source.adapter is not None and (rows := rows_of_adapter(source.adapter)):
        grow(model, Vocabulary(rows, known=0))
    return model.eval()


def trained_dtype(asked: Named) -> Any:
    """The type its run had the base in; else the one it was saved in, and 32 bits on a CPU."""
    import torch

    dtype = _object(asked.run / files.RESULTS).get("dtype") if asked.run else None
    if dtype:
        return getattr(torch, dtype)
    return "auto" if torch.cuda.is_available() else torch.float32


def quantised(asked: Named) -> Any:
    """How the base's weights were packed in its run, for transformers; None for not at all."""
    from transformers import BitsAndBytesConfig

    recorded = asked.recorded
    if recorded.get("use_8bit"):
        return BitsAndBytesConfig(load_in_8bit=True)
    if not recorded.get("use_4bit"):
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=recorded["bnb_4bit_quant_type"],
        bnb_4bit_use_double_quant=recorded["use_double_quant"],
        bnb_4bit_compute_dtype=trained_dtype(asked),
    )


def load_tokenizer(asked: Named) -> Any:
    """Its tokenizer, with a chat template.

    Raises:
        ModelError: If there is none that can be used.
    """
    from modelforge.data import keep_prompts_open, load_tokenizer_template
    from modelforge.models.providers.huggingface import HuggingFace

    if asked.scores and asked.source.adapter is None:
        folder = reward_folder(Path(asked.source.base))
        if not any(folder.glob("tokenizer*")):
            raise ModelError(Problem(str(folder), "holds no tokenizer"))
    tokenizer = HuggingFace().load_tokenizer(asked.source)
    recorded = asked.recorded
    load_tokenizer_template(
        tokenizer,
        chat_template="auto",
        task=recorded.get("task", "text-generation"),
        base_dir=Path(),
    )
    keep_prompts_open(tokenizer)
    return tokenizer
