"""Rows one after the other in one sequence, each attending to itself alone, on plain PyTorch.

TRL puts the rows of a batch one after the other (`padding_free`, `packing`), so that nothing is
computed on padding. What keeps them apart is one of two:

- the attention here, for models that transformers runs with flash attention. It calls PyTorch's
  attention for each row, with the arguments that flash attention would get. There is no mask, and
  the work is the sum of the rows' squared lengths.
- transformers' mask, made from position ids that begin anew. The work and the mask grow with the
  square of the whole batch's length.

Layers with a state of their own (Mamba, linear attention, short convolutions) carry it from one
row into the next without a kernel of their own. A model that takes no position ids cannot tell
where a row begins.
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from modelforge.machine.attention import BY_ROW

if TYPE_CHECKING:
    import torch
    from torch.utils.weak import WeakTensorKeyDictionary
    from transformers import PretrainedConfig

_KNOWN_LAYERS = {"full_attention", "sliding_attention"}
_MASKED_LAYERS = _KNOWN_LAYERS | {"chunked_attention"}


class RowsApart(NamedTuple):
    """What keeps the rows of one sequence apart in a model on plain PyTorch.

    Attributes:
        by: ``row`` for the attention here, ``mask`` for transformers' mask, None where nothing.
        why: Why, in half a sentence.
    """

    by: Literal["row", "mask"] | None
    why: str


def rows_apart(architecture: PretrainedConfig) -> RowsApart:
    """What keeps rows apart in a language model of this architecture.

    Args:
        architecture: transformers' config of the model.
    """
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    kind = auto._model_mapping.get(type(architecture), None)
    if isinstance(kind, tuple):
        kind = kind[0]
    if kind is None:
        return RowsApart(None, "its code is not transformers' own")
    text = architecture.get_text_config()
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    name = architecture.model_type
    carrying = sorted(layers - _MASKED_LAYERS)
    if carrying:
        return RowsApart(None, f"{name} has {carrying[0]} layers, whose state would go on")
    if getattr(kind, "_is_stateful", False):
        return RowsApart(None, f"{name} has layers with a state, which would go on")
    if "position_ids" not in inspect.signature(kind.forward).parameters:
        return RowsApart(None, f"{name} takes no position ids, so that no row would begin")
    if (
        layers <= _KNOWN_LAYERS
        and kind._supports_sdpa
        and kind._supports_flash_attn
        and kind._can_set_attn_implementation()
    ):
        return RowsApart("row", "each row attends to itself alone")
    if not _masks_by_place(kind):
        return RowsApart(None, f"{name} makes its mask without position ids: rows would mix")
    return RowsApart("mask", "a mask keeps the rows apart")


def _masks_by_place(kind: type) -> bool:
    """Whether the model's own code makes its mask with the position ids, as its source says."""
    source = inspect.getsource(inspect.getmodule(kind) or kind)
    calls = re.findall(r"(?:create_causal_mask\(|mask_kwargs = {)(.{0,600})", source, re.DOTALL)
    return any("position_ids" in call.partition("\n\n")[0] for call in calls)


def register() -> None:
    """Make the attention known to transformers; once is enough."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    def mask(*args: Any, **kwargs: Any) -> Any:
        """transformers' mask; for rows that begin anew an empty one, in place of the whole."""
        packed = kwargs.get("attention_mask") is None and not kwargs.get(
            "allow_is_causal_skip", True
        )
        if packed and not kwargs.get("use_vmap") and kwargs["q_length"] == kwargs["kv_length"] > 1:
            import torch

            return torch.empty((1, 1, 0, 0), dtype=torch.bool, device=kwargs.get("device"))
        return sdpa_mask(*args, **kwargs)

    AttentionInterface.register(BY_ROW, attention_by_row)
    AttentionMaskInterface.register(BY_ROW, mask)


def attention_by_row(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """PyTorch's attention, for each row of a sequence by itself where there are several.

    Args:
        module: The attention layer.
        query: (1, heads, tokens, size); of a batch that is not packed (rows, heads, tokens, size).
        key: The same, with the heads of keys.
        value: The same.
        attention_mask: Empty for a sequence of several rows; else transformers' own.
        cu_seq_lens_q: Where each row begins, and the end: (rows + 1); TRL's collator gives it.
        position_ids: The place of each token in its row: (1, tokens).
        sliding_window: How many tokens back a layer sees; None for all.
        kwargs: As transformers passes them to its attention.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    packed = attention_mask is not None and not attention_mask.numel()
    if not packed and cu_seq_lens_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    lengths = _lengths(cu_seq_lens_q, position_ids)
    parts = [
        sdpa_attention_forward(module, q, k, v, _window(q, sliding_window), **kwargs)[0]
        for q, k, v in zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    ]
    return torch.cat(parts, dim=1), None


def _lengths(begins: torch.Tensor | None, positions: torch.Tensor | None) -> list[int]:
    """Tokens of each row. They are read from the device once for all layers of a forward pass."""
    import torch

    source = positions if begins is None else begins
    assert source is not None, "a packed sequence has position ids"
    known = _known_lengths()  # all layers are given this very tensor
    found = known.get(source)
    if found is None:
        if begins is None:
            starts = (source[0] == 0).nonzero().flatten()
            begins = torch.cat([starts, starts.new_tensor([source.shape[-1]])])
        found = known[source] = begins.diff().tolist()
    return found


@functools.cache
def _known_lengths() -> WeakTensorKeyDictionary:
    """The lengths that were read, for as long as the tensor that tells them is alive."""
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()


def _window(query: torch.Tensor, sliding_window: int | None) -> torch.Tensor | None:
    """The mask of a row that is longer than the window; None where its causal order is enough."""
    import torch

    length = query.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    places = torch.arange(length, device=query.device)
    back = places[:, None] - places[None, :]
    return ((back >= 0) & (back < sliding_window))[None, None]
