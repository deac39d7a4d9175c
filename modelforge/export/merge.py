"""An adapter merged into its base: summed in 32 bits, rounded once, and no update rounded away.

The adapter of a run in 4 bits was trained on the rounded base. So that base is what it belongs to:
the 4-bit weights are unpacked and merged into. The base before rounding gives another model
(`docs/use.md` has figures); it is the other choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from modelforge.common.console import say
from modelforge.evaluation.opened import Named, quantised, trained_dtype
from modelforge.export.rounding import at_random
from modelforge.models.attach import rows_of_adapter

if TYPE_CHECKING:
    import torch

Base = Literal["dequantised", "original"]


def merged(found: Named, *, base: Base, dtype: torch.dtype) -> Any:
    """The model with its adapter in its weights, on the CPU.

    What was trained is rounded at random where it began on the grid of ``dtype``, or where nobody
    knows: to the nearest, small updates would be lost (`rounding.py`). Draws are the same each
    time. It takes the memory of the weights in ``dtype``, and of one layer in 32 bits.

    Args:
        found: The trained model.
        base: Which weights a quantised run's adapter is added to.
        dtype: Of the result.
    """
    import torch
    from peft import PeftModel

    from modelforge.models.vocabulary import Vocabulary, grow

    model, drawn = _base(found, base), torch.Generator().manual_seed(0)
    adapter = found.source.adapter
    if adapter is not None:
        if rows := rows_of_adapter(adapter):
            grow(model, Vocabulary(rows, known=0))
        say(f"merging {adapter}")
        model = PeftModel.from_pretrained(model, str(adapter))
        for module in list(model.modules()):
            _sum(module, dtype, drawn)
        model = model.unload()
    else:
        _round(model, dtype, drawn)
    model = model.to(dtype)
    model.config.dtype = dtype
    return model.eval()


def _sum(module: Any, dtype: torch.dtype, drawn: torch.Generator) -> None:
    """Merge one layer of an adapter, or round one that was trained whole."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    if isinstance(module, ModulesToSaveWrapper):
        _round(module, dtype, drawn)
    if not isinstance(module, BaseTunerLayer):
        return
    layer: Any = module
    layer.float()
    inner = layer.get_base_layer()
    on_grid = all(torch.equal(each, each.to(dtype).float()) for each in inner.parameters())
    layer.merge(safe_merge=True)  # NaN is refused
    if on_grid:
        _round(inner, dtype, drawn)
    layer.to(dtype)


def _round(module: Any, dtype: torch.dtype, drawn: torch.Generator) -> None:
    """Round what is in 32 bits at random to what a type holds; it stays in 32 bits."""
    import torch

    kind = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(dtype)
    for weight in module.parameters():
        if kind is not None and weight.dtype == torch.float32:
            weight.data = at_random(weight.data, kind, drawn)


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
