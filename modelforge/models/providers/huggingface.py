"""Plain transformers, PEFT and bitsandbytes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.console import say
from modelforge.common.processes import own_device
from modelforge.errors import ModelError, Problem
from modelforge.machine import attention as throughput
from modelforge.machine import precision, vllm
from modelforge.models.attach import Head, as_asked, attach_adapter
from modelforge.models.documents import register
from modelforge.models.hub import unreadable
from modelforge.models.lora import exact_4bit_on_cpu, lora_config, quantization_config
from modelforge.models.providers.base import Loaded
from modelforge.models.saved import saved_as_loaded
from modelforge.models.source import ModelSource
from modelforge.models.stored import stored_as
from modelforge.models.vocabulary import Vocabulary, grow
from modelforge.models.weights import lacking, refilled

if TYPE_CHECKING:
    import torch
    from transformers import (
        GenerationConfig,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    from modelforge.config import Config
    from modelforge.machine.hardware import Hardware
    from modelforge.strategy import Strategy


class HuggingFace:
    """Loads with transformers; TRL adds the adapter itself, as in a script written by hand."""

    name = "huggingface"

    def problems(
        self, config: Config, source: ModelSource, hardware: Hardware
    ) -> Iterator[Problem]:
        if "unsloth" in sys.modules:
            what = "Unsloth was imported in this process, and its patches of TRL stay in it"
            fix = "start it as a command of its own: modelforge train"
            yield Problem(f"{config.name}: provider", what, fix)
        yield from throughput.machine_problems(config, hardware)
        yield from vllm.machine_problems(config, hardware)
        yield from precision.machine_problems(config, hardware)

    def config_problems(self, config: Config) -> Iterable[Problem]:
        return ()

    def start(self) -> None:
        pass

    def build_args(
        self, strategy: Strategy, config: Config, *, output_dir: Path, device: Mapping[str, Any]
    ) -> Any:
        return strategy.build_args(config, output_dir=output_dir, device=device)

    def load_model_config(self, source: ModelSource) -> PreTrainedConfig:
        from transformers import AutoConfig
        from transformers.utils import find_adapter_config_file

        try:
            found = AutoConfig.from_pretrained(
                source.base, revision=source.revision, trust_remote_code=source.trust_remote_code
            )
            adapter = find_adapter_config_file(source.base, revision=source.revision)
        except Exception as error:  # the checks of a config's class raise kinds of their own
            raise ModelError(unreadable(source.base, "model", error)) from None
        if adapter is not None:
            # transformers would follow it to another model, and take a pickled adapter too.
            what = "is an adapter, and a model is needed here"
            fix = "download it (`hf download`) and give its folder as model_name"
            raise ModelError(Problem(source.base, what, fix))
        return found

    def stop_tokens(self, source: ModelSource) -> list[int]:
        from transformers import GenerationConfig

        try:
            found = GenerationConfig.from_pretrained(
                source.base, revision=source.revision or "main"
            )
        except OSError:
            return []  # many base models have none
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelError(unreadable(source.base, "generation config", error)) from None
        ids = found.eos_token_id
        return ids if isinstance(ids, list) else [] if ids is None else [ids]

    def load_tokenizer(self, source: ModelSource) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        revision = source.revision if source.tokenizer == source.base else None
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source.tokenizer, revision=revision, trust_remote_code=source.trust_remote_code
            )
        except Exception as error:  # its parser, written in Rust, raises a plain Exception
            raise ModelError(unreadable(source.tokenizer, "tokenizer", error)) from None
        if tokenizer.eos_token is None:
            raise ModelError(
                Problem(
                    source.tokenizer,
                    "its tokenizer has no EOS token, so the model could never stop",
                    "set eos_token in its tokenizer_config.json",
                )
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return saved_as_loaded(tokenizer)

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
        import transformers
        from safetensors import SafetensorError

        settings = config.settings
        dtype = weights_dtype(config, hardware)
        kwargs: dict[str, Any] = {
            "dtype": dtype,
            "revision": source.revision,
            "trust_remote_code": source.trust_remote_code,
            "use_safetensors": True,
        }
        if head == "reward":
            kwargs["num_labels"] = 1
            auto: Any = transformers.AutoModelForSequenceClassification
        else:
            auto = transformers.AutoModelForCausalLM
        kwargs["attn_implementation"] = self._attention(source, config, auto)
        quantization = quantization_config(settings, dtype)
        if quantization is not None:
            if stored_as(self.load_model_config(source)) is None:
                kwargs["quantization_config"] = quantization
            if not settings.distributed.shards_weights:  # those place the weights themselves
                kwargs["device_map"] = {"": own_device(hardware.device)}
        try:
            model, told = auto.from_pretrained(source.base, output_loading_info=True, **kwargs)
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise ModelError(unreadable(source.base, "model", error)) from None
        random = refilled(model, told, scores=head == "reward")
        if random:
            raise ModelError(lacking(source.base, random, f"{config.name}: model_name"))
        if hardware.device == "cpu":
            exact_4bit_on_cpu(model)
        as_asked(model)
        grow(model, vocabulary)
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        make_savable(getattr(model, "generation_config", None))
        if source.adapter is None:
            rows = vocabulary.trained
            return Loaded(model, lora_config(settings, head=head, model=model, rows=rows))
        return Loaded(_with_adapter(model, source, head=head), None)

    def _attention(self, source: ModelSource, config: Config, auto: Any) -> str | None:
        """The attention kernel to load with; what was not asked for, only where the model can."""
        name = config.settings.attn_implementation
        if name == "auto":
            return None
        if name == throughput.BY_ROW:
            register()
        choice = config.choices.get("attn_implementation")
        if choice is not None and choice.source == "machine" and name.startswith("flash"):
            known = auto._model_mapping.get(type(self.load_model_config(source)), None)
            if not getattr(known, "_supports_flash_attn", False):
                say(f"attention: sdpa, since this model does not support {name}")
                return "sdpa"
        return name


def weights_dtype(config: Config, hardware: Hardware) -> torch.dtype:
    """The type the base weights are loaded in: `dtype`, or by what becomes of them.

    Frozen weights may be 16-bit; weights that are trained stay 32-bit, since small updates vanish
    in bfloat16.
    """
    import torch

    if config.settings.dtype != "auto":
        named: torch.dtype = getattr(torch, config.settings.dtype)
        return named
    if hardware.device == "cpu" or config.settings.lora_r == 0:
        return torch.float32
    return torch.bfloat16 if hardware.bf16 and not config.get("fp16") else torch.float16


def make_savable(generation: GenerationConfig | None) -> None:
    """Drop sampling values beside ``do_sample`` false: transformers refuses to save them.

    Several published models have them. They have no effect, and the run would end at its first
    checkpoint.
    """
    if generation is not None and not generation.do_sample:
        for name in ("temperature", "top_p", "top_k", "min_p", "typical_p"):
            setattr(generation, name, None)


def _with_adapter(model: PreTrainedModel, source: ModelSource, *, head: Head) -> Any:
    """The base with an existing adapter, trainable.

    The base is frozen as it was loaded. PEFT's preparation for quantised training would lift its
    embeddings, head and norms to 32 bits (2.5 GiB of an 8B). TRL does not do so for a new adapter.
    """
    from safetensors import SafetensorError

    model.requires_grad_(False)
    try:
        assert source.adapter is not None
        return attach_adapter(model, source.adapter, head=head)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(unreadable(str(source.adapter), "adapter", error)) from None
