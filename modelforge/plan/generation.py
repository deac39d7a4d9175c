"""The memory of sampling: the key-value cache as it grows, and the last step at its full length.

The forward passes are the model's own, with transformers' own cache (keys and values, windows of
them, and the states of linear attention); between the first and the last
token the cache's growth is logged by arithmetic, since every step is alike.
"""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from modelforge.plan.tracker import Tracker


# Growth is logged in at most this many steps: enough to see how it fragments.
_STEPS = 128


def sampling(model: Any, tracker: Tracker) -> Callable[..., torch.Tensor]:
    """A stand-in for ``model.generate`` that logs its memory and returns tokens of meta.

    It takes what TRL passes: ``input_ids`` and ``attention_mask`` (n, P) and a
    ``generation_config`` with ``max_new_tokens`` C; returns (n, P + C).
    """

    @torch.no_grad()
    def generate(
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        generation_config: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        rows, prompt = input_ids.shape
        new = generation_config.max_new_tokens
        with tracker.within(phase="prompt"):
            cache = _first_token(model, input_ids, attention_mask, generation_config)
        with tracker.within(phase="generation"):
            _grow(tracker, cache, prompt, prompt + new - 1)
            _last_token(model, tracker, cache, rows, prompt + new, generation_config)
        return torch.empty((rows, prompt + new), dtype=torch.long, device="meta")

    return generate


def sampling_elsewhere(tracker: Tracker) -> Callable[..., torch.Tensor]:
    """As :func:`sampling`, where vLLM samples: marks when, and takes nothing of PyTorch's."""

    def generate(input_ids: torch.Tensor, generation_config: Any, **kwargs: Any) -> torch.Tensor:
        rows, prompt = input_ids.shape
        with tracker.within(phase="generation"):
            tracker.died(tracker.born(0), 0)
        return torch.empty(
            (rows, prompt + generation_config.max_new_tokens), dtype=torch.long, device="meta"
        )

    return generate


def _first_token(model: Any, ids: Any, mask: Any, generation_config: Any) -> Any:
    """Read the prompt; returns the model's cache, or None where the model keeps none.

    What grows with the tokens is left in it as empty tensors; what is of one size, such as the
    state of linear attention, stays.
    """
    name, keeps = _cache_name(model)
    keep = {"logits_to_keep": 1} if keeps else {}
    output = model(input_ids=ids, attention_mask=mask, use_cache=True, **keep)
    _sample(output.logits[:, -1], generation_config)
    cache = getattr(output, name, None)
    for layer, part, shape in list(_growing(cache)):
        # Not views: those would keep the tensor.
        setattr(layer, part, getattr(layer, part).new_empty((*shape[:-2], 0, shape[-1])))
    return cache


def _cache_name(model: Any) -> tuple[str, bool]:
    """What the model's forward calls its cache, and whether it takes ``logits_to_keep``."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = inspect.signature(base.forward).parameters
    name = "cache_params" if "cache_params" in taken else "past_key_values"
    return name, "logits_to_keep" in taken


def _growing(cache: Any) -> Iterator[tuple[Any, str, torch.Size]]:
    """Layer, attribute and shape (…, length, width) of each tensor that has an entry a token."""
    for layer in getattr(getattr(cache, "self_attention_cache", cache), "layers", ()):
        for name in ("keys", "values", "indexer_keys"):
            found = getattr(layer, name, None)
            if isinstance(found, torch.Tensor) and found.dim() >= 3:
                yield layer, name, found.shape


def _kept(layer: Any, length: int) -> int:
    """Entries of so many tokens that a layer keeps: those of its window."""
    window = getattr(layer, "sliding_window", None)
    return length if window is None else min(length, window)


def _grow(tracker: Tracker, cache: Any, first: int, last: int) -> None:
    """Each layer's keys and values are copied to a tensor one token longer."""
    growing = [(layer, getattr(layer, name)) for layer, name, _ in _growing(cache)]

    def size(layer: Any, one: torch.Tensor, length: int) -> int:
        entry = math.prod(one.shape[:-2]) * one.shape[-1] * one.element_size()
        return entry * _kept(layer, length)

    sizes = [size(layer, x, first) for layer, x in growing]
    held = [(tracker.born(nbytes), nbytes) for nbytes in sizes]
    for length in range(first + 1, last, max(1, (last - first) // _STEPS)):
        for i, (layer, x) in enumerate(growing):
            nbytes = size(layer, x, length)
            longer = (tracker.born(nbytes), nbytes)
            tracker.died(*held[i])
            held[i] = longer
    for identity, nbytes in held:
        tracker.died(identity, nbytes)


def _last_token(
    model: Any, tracker: Tracker, cache: Any, rows: int, length: int, generation_config: Any
) -> None:
    """One token more on a cache that lacks only it; all tokens again for a model without one."""
    ids = torch.empty((rows, length), dtype=torch.long, device="meta")
    more = {}
    if cache is not None:
        ids, more = ids[:, -1:].clone(), {_cache_name(model)[0]: cache}
        with tracker.looking_away():  # filling it takes copies that growing it did not
            for layer, name, shape in list(_growing(cache)):
                full = (*shape[:-2], _kept(layer, length) - 1, shape[-1])
                # Held by the layer alone: it is let go as soon as one token longer is there.
                setattr(layer, name, getattr(layer, name).new_empty(full))
                if hasattr(layer, "cumulative_length"):
                    layer.cumulative_length = length - 1
        for layer, name, _ in _growing(cache):
            tracker.add(getattr(layer, name))
    output = model(
        input_ids=ids,
        attention_mask=torch.empty((rows, length), dtype=torch.long, device="meta"),
        use_cache=cache is not None,
        **more,
    )
    _sample(output.logits[:, -1], generation_config)


def _sample(logits: torch.Tensor, generation_config: Any) -> None:
    """What transformers' sampling makes of the logits (n, V): warped in float32, then drawn."""
    scores = logits.to(dtype=torch.float32, copy=True)
    if generation_config.temperature not in (None, 1.0):
        scores = scores / generation_config.temperature
    if generation_config.top_p is not None and generation_config.top_p < 1.0:
        ordered, indices = torch.sort(scores, descending=False)
        removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= generation_config.top_p
        scores = scores.masked_fill(removed.scatter(1, indices, removed), float("-inf"))
    torch.multinomial(scores.softmax(dim=-1), num_samples=1)
