"""An adapter merged into its base: summed in 32 bits, rounded once.

The adapter of a run in 4 bits was trained on the rounded base. So that base is what it belongs to:
the 4-bit weights are unpacked and merged into. The base before rounding gives another model
(`docs/use.md` has figures); it is the other choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.console import say
from modelforge.evaluation.opened import Named, quantised, trained_dtype
from modelforge.models.attach import rows_of_adapter

if TYPE_CHECKING:
    import torch

Base = Literal["dequantised", "original"]


def merged(found: Named, *, base: Base, dtype: torch.dtype) -> Any:
    """The model with its adapter in its weights, on the CPU.

    It takes the memory of the weights in ``dtype``, and of one layer in 32 bits.

    Args:
        found: The trained model.
        base: Which weights a quantised run's adapter is added to.
        dtype: Of the result.
    """
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    from modelforge.models.vocabulary import Vocabulary, grow

    model = _base(found, base)
    adapter = found.source.adapter
    if adapter is not None:
        if rows := rows_of_adapter(adapter):
            grow(model, Vocabulary(rows, known=0))
        say(f"merging {adapter}")
        model = PeftModel.from_pretrained(model, str(adapter))
        for module in list(model.modules()):
            if isinstance(module, BaseTunerLayer):
                layer: Any = module.float()
                layer.merge(safe_merge=True)  # NaN is refused
                layer.to(dtype)
        model = model.unload()
    model = model.to(dtype)
    model.config.dtype = dtype
    return model.eval()


def _base(found: Named, base: Base) -> Any:
    import transformers

    kind: Any = transformers.AutoModelForCausalLM
    source = found.source
    arguments: dict[str, Any] = {
        "dtype": trained_dtype(found),
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "use_safetensors": True,
    }
    if found.scores:
        kind = transformers.AutoModelForSequenceClassification
        arguments["num_labels"] = 1
    packed = quantised(found) if base == "dequantised" else None
    if packed is None:
        return kind.from_pretrained(source.base, **arguments)
    model = kind.from_pretrained(source.base, quantization_config=packed, **arguments)
    return model.dequantize().cpu()
