"""Unsloth: hand-written kernels for a few architectures, on one CUDA GPU.

Importing it rewrites transformers and TRL for the rest of the process. So it is chosen before
either is imported (`providers.choice`), and nothing but its own runs come after it.
"""

from __future__ import annotations

import atexit
import copy
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge.errors import ConfigError, ModelError, Problem, RunError
from modelforge.machine.versions import install
from modelforge.models.providers.base import Loaded
from modelforge.models.providers.huggingface import HuggingFace, weights_dtype
from modelforge.models.source import ModelSource
from modelforge.registry import get_strategy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.machine.hardware import Hardware
    from modelforge.models.vocabulary import Vocabulary
    from modelforge.strategy import Strategy

OTHERWISE = "set provider to huggingface or auto"

# Those that FastLanguageModel has kernels for; it hands all others to a compiler of its own.
ARCHITECTURES = ("gemma", "gemma2", "llama", "mistral", "qwen2", "qwen3")
# The linear layers of all of these: what "all-linear" means there, in the names its kernels know.
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LEAST_CAPABILITY = (7, 0)

# What Unsloth may set otherwise: how it recomputes (the same figures), and its number of workers.
_HARMLESS = {"gradient_checkpointing_kwargs", "dataset_num_proc"}


class Unsloth(HuggingFace):
    """Loads with ``FastLanguageModel`` and adds the adapter itself, as its kernels need it."""

    name = "unsloth"

    def problems(
        self, config: Config, source: ModelSource, hardware: Hardware
    ) -> Iterator[Problem]:
        where = f"{config.name}: provider"
        yield from machine_problems(hardware, where=where)
        yield from config_problems(config)
        if source.adapter is not None:
            yield from _adapter_problems(config, source, source.adapter)
        found = model_type(source)
        if found not in ARCHITECTURES:
            what = f"Unsloth has no kernels for {source.base} ({found or 'unknown architecture'})"
            known = f"it has them for {', '.join(ARCHITECTURES)}: {OTHERWISE}"
            yield Problem(where, what, known)

    def config_problems(self, config: Config) -> Iterator[Problem]:
        return config_problems(config)

    def start(self) -> None:
        # A README is fetched at each load to count users; llama.cpp would be built unasked; and
        # a GPU that torch cannot drive would silently become a run on the CPU.
        os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
        os.environ.setdefault("UNSLOTH_AUTO_INSTALL", "0")
        os.environ.setdefault("UNSLOTH_DISABLE_CPU_FALLBACK", "1")
        if "UNSLOTH_COMPILE_LOCATION" not in os.environ:
            # Else the trainers it writes end up in the working folder.
            folder = tempfile.mkdtemp(prefix="modelforge-unsloth-")
            os.environ["UNSLOTH_COMPILE_LOCATION"] = folder
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        try:
            with redirect_stdout(sys.stderr):
                import unsloth  # noqa: F401  (its import patches the libraries; no name is used)
        except (ImportError, NotImplementedError, RuntimeError) as error:
            what = f"Unsloth cannot be imported: {' '.join(str(error).split())[:300]}"
            raise RunError(Problem("provider", what, OTHERWISE)) from None

    def build_args(
        self, strategy: Strategy, config: Config, *, output_dir: Path, device: Mapping[str, Any]
    ) -> Any:
        """Unsloth's version of the TRL config object, with the values of TRL's own.

        Its rewrite changes defaults (learning rate, optimiser, batch, accumulation, decay,
        warm-up, seed, …), so each field is passed with TRL's; what it changes all the same is
        an error.
        """
        stock: Any = copy.copy(strategy)
        plain = plain_class(strategy.trl_config_class())
        stock.trl_config_class = lambda: plain
        defaults = {
            field.name: field.default
            for field in dataclasses.fields(plain)
            if field.init and field.default is not dataclasses.MISSING
        }
        wanted = stock.build_args(config, output_dir=output_dir, device=device)
        explicit = dataclasses.replace(config, trl={**defaults, **config.trl})
        args = strategy.build_args(explicit, output_dir=output_dir, device=device)
        problems = []
        for field in dataclasses.fields(plain):
            before, after = getattr(wanted, field.name), getattr(args, field.name)
            if before != after and field.name not in _HARMLESS:
                what = f"Unsloth makes it {after!r} where {before!r} is meant"
                problems.append(Problem(f"{config.name}: {field.name}", what, OTHERWISE))
        if problems:
            raise ConfigError(*problems)
        return args

    def load_model(
        self,
        source: ModelSource,
        config: Config,
        hardware: Hardware,
        *,
        head: Literal["causal-lm", "reward"],
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: Vocabulary,
    ) -> Loaded:
        from unsloth import FastLanguageModel

        settings = config.settings
        checkpointing = "unsloth" if config.get("gradient_checkpointing", True) else False
        task = {"num_labels": 1} if head == "reward" else {}
        with redirect_stdout(sys.stderr):
            model, _ = FastLanguageModel.from_pretrained(
                model_name=str(source.adapter or source.base),
                max_seq_length=settings.max_seq_length,
                dtype=weights_dtype(config, hardware),
                load_in_4bit=settings.use_4bit,
                load_in_8bit=False,
                load_in_16bit=not settings.use_4bit,
                full_finetuning=False,
                use_gradient_checkpointing=checkpointing,
                revision=source.revision,
                trust_remote_code=source.trust_remote_code,
                use_safetensors=True,  # pickled weights can run code when loaded
                # Not its own upload of the model under another name.
                use_exact_model_name=True,
                random_state=settings.seed,
                **task,
            )
            _check(model, source, head=head, rows=_vocabulary(self.load_model_config(source)))
            if source.adapter is None:
                targets = settings.lora_target_modules
                model = FastLanguageModel.get_peft_model(
                    model,
                    r=settings.lora_r,
                    target_modules=list(LINEAR) if targets == "all-linear" else targets,
                    lora_alpha=settings.lora_alpha,
                    lora_dropout=settings.lora_dropout,
                    bias="none",
                    use_gradient_checkpointing=checkpointing,
                    random_state=settings.seed,
                )
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        if head == "reward":
            _check_trained_head(model, source)
        return Loaded(model, None)


def machine_problems(hardware: Hardware, *, where: str) -> Iterator[Problem]:
    """Why Unsloth cannot run in this process on this machine, cheapest first."""
    if find_spec("unsloth") is None:
        yield Problem(where, "Unsloth is not installed", install("unsloth"))
    if hardware.device != "cuda":
        yield Problem(where, "Unsloth needs a CUDA GPU, and none was found", OTHERWISE)
    capability = hardware.compute_capability
    if capability is not None and capability < LEAST_CAPABILITY:
        found, least = (".".join(map(str, c)) for c in (capability, LEAST_CAPABILITY))
        what = f"Unsloth needs compute capability {least}, and {hardware.device_name} has {found}"
        yield Problem(where, what, OTHERWISE)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        what = "ModelForge drives Unsloth in one process, and this run has several"
        yield Problem(where, what, f"start one process, or {OTHERWISE}")
    first = [name for name in ("transformers", "trl", "peft") if name in sys.modules]
    if first and "unsloth" not in sys.modules and find_spec("unsloth") is not None:
        what = f"Unsloth must be imported before {first[0]}, which this process has imported"
        yield Problem(where, what, "start it as a command: modelforge train")


def config_problems(config: Config) -> Iterator[Problem]:
    """What of a config Unsloth cannot do; looks at no machine and no model."""
    settings, name = config.settings, config.name
    can, why = get_strategy(settings.strategy).unsloth
    if not can:
        what = f"Unsloth cannot run {settings.strategy}: {why}"
        yield Problem(f"{name}: provider", what, OTHERWISE)
    refused: dict[str, tuple[bool, str]] = {
        "lora": (bool(settings.lora), "is given to PEFT, and Unsloth makes its own adapter"),
        "lora_r": (settings.lora_r == 0, "trains all weights, for which Unsloth keeps no 32-bit"),
        "attn_implementation": (
            settings.attn_implementation != "auto" and config.given("attn_implementation"),
            "has no effect: Unsloth brings attention kernels of its own",
        ),
        "dtype": (settings.dtype == "float32", "is float32, and Unsloth's kernels are for 16 bits"),
        "use_8bit": (settings.use_8bit, "is loaded by another part of Unsloth, without kernels"),
        "bnb_4bit_quant_type": (
            settings.use_4bit and settings.bnb_4bit_quant_type != "nf4",
            "is not Unsloth's: its 4-bit is nf4",
        ),
        "use_double_quant": (
            settings.use_4bit and not settings.use_double_quant,
            "is off, and Unsloth always quantises the constants too",
        ),
        "bf16": (
            config.trl.get("bf16") is False and not config.trl.get("fp16"),
            "is off, and Unsloth turns mixed precision on all the same",
        ),
        "packing": (
            bool(config.trl.get("packing")),
            "joins rows, whose borders Unsloth's collator for rows with labels drops",
        ),
    }
    for key in ("add_tokens", "add_special_tokens", "resize_vocab", "train_tokens"):
        refused[key] = (bool(config.get(key)), "asks for rows that Unsloth's loader does not make")
    whole = bool(settings.lora_modules_to_save)
    refused["lora_modules_to_save"] = (whole, "is trained by another part of Unsloth")
    for key, (wrong, what) in refused.items():
        if wrong:
            yield Problem(f"{name}: {key}", what, OTHERWISE)


def plain_class(config_class: type) -> type:
    """TRL's own config class, below the one that Unsloth put in its place."""
    return next(
        cls
        for cls in config_class.__mro__
        if "_unsloth_patched_rl_config" not in vars(cls) and not cls.__name__.startswith("Unsloth")
    )


def _adapter_problems(config: Config, source: ModelSource, adapter: Path) -> Iterator[Problem]:
    """What Unsloth cannot do with an adapter that is trained further."""
    where = f"{config.name}: provider"
    recorded = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if recorded["base_model_name_or_path"] != source.base:
        what = f"Unsloth looks for the base of {adapter} where it was at training"
        fix = f"set base_model_name_or_path there to {source.base}, or {OTHERWISE}"
        yield Problem(where, what, fix)
    if source.revision is not None:
        what = f"Unsloth cannot load revision {source.revision} under an adapter"
        yield Problem(where, what, OTHERWISE)


def model_type(source: ModelSource) -> str | None:
    """The architecture named in the model's config.json, or None where it cannot be read."""
    path = Path(source.base, "config.json")
    try:
        if not Path(source.base).is_dir():
            from huggingface_hub import hf_hub_download

            path = Path(hf_hub_download(source.base, "config.json", revision=source.revision))
        return json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError):
        return None  # whoever loads the model says what is wrong with it


def _vocabulary(model_config: Any) -> int:
    return model_config.get_text_config().vocab_size


def _check(model: PreTrainedModel, source: ModelSource, *, head: str, rows: int) -> None:
    """See that what was loaded is what was asked for."""
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if head == "reward" and "score" not in names:
        # It would train on at the loss of a coin, ln 2, and nobody would know.
        what = "Unsloth loaded a language model without a score head, where a reward model is meant"
        raise ModelError(Problem(source.base, what, OTHERWISE))
    embeddings: Any = model.get_input_embeddings()
    found = embeddings.weight.shape[0]
    if found != rows:
        what = f"Unsloth gave it {found} embeddings where it has {rows}, for a pad token"
        fix = f"set pad_token in its tokenizer_config.json, or {OTHERWISE}"
        raise ModelError(Problem(source.base, what, fix))


def _check_trained_head(model: PreTrainedModel, source: ModelSource) -> None:
    if not any(p.requires_grad for name, p in model.named_parameters() if ".score." in name):
        what = "Unsloth left the score head untrained"
        raise ModelError(Problem(source.base, what, OTHERWISE))
