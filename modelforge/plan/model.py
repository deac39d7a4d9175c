"""The model as the provider would load it, on the meta device: shapes and types, no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from modelforge.models.attach import Head, adapter_config, as_asked, rows_of_adapter
from modelforge.models.lora import quantization_config, unlike_linear
from modelforge.models.vocabulary import Vocabulary, grow

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from modelforge.config import Settings
    from modelforge.plan.tracker import Tracker


def meta_model(
    architecture: PretrainedConfig,
    settings: Settings,
    *,
    head: Head,
    dtype: torch.dtype,
) -> PreTrainedModel:
    """A model of this architecture, quantised as the settings ask, of meta tensors.

    Args:
        architecture: transformers' config of the model.
        settings: ModelForge's keys; ``use_4bit``, ``use_8bit`` and what goes with them.
        head: ``causal-lm``, or ``reward`` for one score a sequence.
        dtype: Of the weights that are not quantised.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.quantizers import AutoHfQuantizer

    if head == "reward":
        architecture.num_labels = 1
        auto: Any = AutoModelForSequenceClassification
    else:
        auto = AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(architecture, dtype=dtype)
    as_asked(model)
    quantisation = quantization_config(settings, dtype)
    if quantisation is None:
        return model
    quantizer = AutoHfQuantizer.from_config(quantisation, pre_quantized=False)
    quantizer.preprocess_model(model=model, device_map={"": "meta"})
    for module in list(model.modules()):
        _quantise(module, dtype)
    model.requires_grad_(False)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    return model


def linear_layers(architecture: PretrainedConfig) -> set[str]:
    """What PEFT's ``all-linear`` means: the linear layers but the output head, by their names."""
    model = _on_meta(architecture)
    return {name.rpartition(".")[2] for name, _ in _linear(model)}


def sizes(architecture: PretrainedConfig) -> tuple[int, int]:
    """How many weights a model has, and how many a LoRA of rank 1 on its linear layers adds.

    Both are 0 for a model that transformers cannot make by its config alone.
    """
    try:
        model = _on_meta(architecture)
    except Exception:  # its own code, no language model, or a config that only its own code reads
        return 0, 0
    return model.num_parameters(), sum(sum(m.weight.shape) for _, m in _linear(model))


@dataclass(frozen=True)
class Unquantised:
    """Weights that "4-bit" and "8-bit" leave in 16 bits.

    Attributes:
        share: Of all weights but embedding and head.
        weights: How many there are.
        experts: How many of them are experts, fused into one tensor a layer.
    """

    share: float
    weights: int
    experts: int


def unquantised(architecture: PretrainedConfig) -> Unquantised:
    """What bitsandbytes passes over: it takes plain linear layers alone."""
    from transformers.pytorch_utils import Conv1D

    model = _on_meta(architecture)
    ends = {id(model.get_output_embeddings())}
    all_of_them = left = experts = 0
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding) or id(module) in ends:
            continue
        plain = type(module) is torch.nn.Linear or isinstance(module, Conv1D)
        for weight in module.parameters(recurse=False):
            if weight.dim() < 2:
                continue
            all_of_them += weight.numel()
            left += 0 if plain else weight.numel()
            experts += weight.numel() if weight.dim() == 3 and not plain else 0
    return Unquantised(left / max(1, all_of_them), left, experts)


def _on_meta(architecture: PretrainedConfig) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(architecture)


def _linear(model: PreTrainedModel) -> Iterator[tuple[str, Any]]:
    """The linear layers but the output head, with their names."""
    from transformers.pytorch_utils import Conv1D

    left_out = {id(model.get_output_embeddings()), *(id(m) for _, m in unlike_linear(model))}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and id(module) not in left_out:
            yield name, module


def _quantise(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Give a bitsandbytes layer the packed weight and constants it has after loading."""
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear4bit):
        _quantise_4bit(module, dtype)
    elif isinstance(module, bnb.nn.Linear8bitLt):
        rows, columns = module.out_features, module.in_features
        packed = torch.empty(rows, columns, dtype=torch.int8, device="meta")
        scales = torch.empty(rows, dtype=torch.float32, device="meta")
        module.weight = bnb.nn.Int8Params(
            packed, requires_grad=False, has_fp16_weights=False, CB=packed, SCB=scales
        )
    else:
        return
    if module.bias is not None:
        bias = torch.empty_like(module.bias, dtype=dtype, device="meta")
        module.bias = torch.nn.Parameter(bias, requires_grad=False)


def _quantise_4bit(module: Any, dtype: torch.dtype) -> None:
    """Two weights a byte, a constant for every 64, and those in 8-bit blocks of 256 if nested."""
    import bitsandbytes as bnb

    rows, columns = module.out_features, module.in_features
    weight = module.weight
    nested, quant_type = weight.compress_statistics, weight.quant_type
    blocks = -(-rows * columns // 64)

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    state = bnb.functional.QuantState(
        absmax=empty(blocks, dtype=torch.uint8 if nested else torch.float32),
        shape=torch.Size((rows, columns)),
        dtype=dtype,
        blocksize=64,
        code=empty(16),
        quant_type=quant_type,
        offset=empty() if nested else None,
        state2=bnb.functional.QuantState(
            absmax=empty(-(-blocks // 256)), code=empty(256), blocksize=256, dtype=torch.float32
        )
        if nested
        else None,
    )
    module.weight = bnb.nn.Params4bit(
        empty(-(-rows * columns // 2), 1, dtype=torch.uint8),
        requires_grad=False,
        compress_statistics=nested,
        quant_type=quant_type,
        quant_state=state,
        bnb_quantized=True,
        module=module,
    )
    module.quant_state = state
    # DoRA begins with a copy of the layer. bitsandbytes copies into a tensor of the CPU, which no
    # meta tensor fits into; a weight without values is as good as its copy.
    packed = module.weight
    packed.__deepcopy__ = lambda memo: packed


def track_weights(tracker: Tracker, trainer: Any) -> None:
    """Log every weight, buffer and quantisation constant, in the order of the modules."""
    from modelforge.plan.tracker import Tag

    for part, tensor in weights(trainer.model):
        tracker.add(tensor, tag=Tag("static", part))
    frozen = [getattr(trainer, name, None) for name in ("ref_model", "teacher_model")]
    beside = [*frozen, *getattr(trainer, "models_beside", [])]
    for model in (model for model in beside if model is not None):
        for _, tensor in weights(model):
            tracker.add(tensor, tag=Tag("static", "reference, reward, value"))


def weights(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Part and tensor of every weight, buffer and constant a model holds."""
    for name, parameter in model.named_parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None or parameter.dtype == torch.int8:
            yield "quantised weights", parameter.data
        else:
            yield _part(name, parameter), parameter.data
        yield from (("quantisation constants", t) for t in _constants(parameter, state))
    yield from (("other weights", buffer) for buffer in model.buffers())


def _constants(parameter: Any, state: Any) -> Iterator[torch.Tensor]:
    held = [getattr(parameter, "SCB", None)]
    while state is not None:
        held += [state.absmax, state.code, getattr(state, "offset", None)]
        state = state.state2
    yield from (t for t in held if isinstance(t, torch.Tensor))


def _part(name: str, parameter: torch.nn.Parameter) -> str:
    adapter = "lora_" in name or "modules_to_save" in name
    if "v_head" in name or (adapter and ".default" not in name):
        return "reference, reward, value"
    if "lora_" in name:
        return "LoRA"
    return "trained weights" if parameter.requires_grad else "other weights"


def attach_adapter(model: Any, folder: Path, *, head: Head) -> Any:
    """The base with an adapter of this folder's shape, trainable, as the provider attaches it."""
    from peft import get_peft_model

    grow(model, Vocabulary(rows_of_adapter(folder), known=0))
    return get_peft_model(model, adapter_config(folder, head=head))
