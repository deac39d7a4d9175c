"""What a run saved, loaded to be used: by the calls of its card, as it was trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.libraries import take_over
from modelforge.models.lora import exact_4bit_on_cpu

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedTokenizerBase

    from modelforge.models.attach import Head


def load_saved(
    folder: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    head: Head,
    dtype: torch.dtype | str,
    device: Any,
    quantization: BitsAndBytesConfig | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A saved model, in evaluation mode.

    Args:
        folder: The model's or the adapter's; or a hub id.
        tokenizer: Saved with it. Its pad token decides which token a score is read at.
        head: ``causal-lm`` or ``reward``.
        dtype: What the weights are loaded in; ``auto``: the type they are saved in.
        device: Where to.
        quantization: That the base was trained under, or None.
        revision: Of a hub model.
        trust_remote_code: Whether the model's own code may run.
    """
    import peft
    import transformers
    from transformers import GenerationConfig

    take_over()  # the bars of what has just been imported
    adapter = Path(folder, "adapter_config.json").is_file()
    task = "SequenceClassification" if head == "reward" else "CausalLM"
    library, kind = (peft, "AutoPeftModelFor") if adapter else (transformers, "AutoModelFor")
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": trust_remote_code,
        "use_safetensors": True,
    }
    if revision is not None and not adapter:
        arguments["revision"] = revision
    if quantization is not None:
        arguments["quantization_config"] = quantization
        arguments["device_map"] = {"": device}
    if adapter and head == "reward":
        arguments["num_labels"] = 1
    model = getattr(library, kind + task).from_pretrained(folder, **arguments)
    exact_4bit_on_cpu(model)
    if head == "reward":
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    elif adapter and Path(folder, "generation_config.json").is_file():
        model.get_base_model().generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval() if quantization is not None else model.to(device).eval()


def saved_as_loaded(tokenizer: Any) -> Any:
    """The tokenizer; what it saves cuts and pads as it did when it was loaded.

    A fast tokenizer keeps the length of its last call. transformers writes that to
    ``tokenizer.json`` and sets it anew in each call. What reads the file by itself would cut every
    text at that length.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        loaded = backend.truncation, backend.padding
        tokenizer.save_pretrained = partial(_save_as_loaded, tokenizer, loaded)
    return tokenizer


def _save_as_loaded(tokenizer: Any, loaded: tuple[Any, Any], *args: Any, **kwargs: Any) -> Any:
    backend, (truncation, padding) = tokenizer.backend_tokenizer, loaded
    backend.no_truncation()
    backend.no_padding()
    if truncation is not None:
        backend.enable_truncation(**truncation)
    if padding is not None:
        backend.enable_padding(**padding)
    return type(tokenizer).save_pretrained(tokenizer, *args, **kwargs)
