"""The memory of sampling: the key-value cache as it grows, and the last step at its full length.

The forward passes are the model's own, with transformers' own cache; between the first and the last
token the cache's growth is logged by arithmetic, since every step is alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

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
            shapes = _first_token(model, input_ids, attention_mask, generation_config)
        with tracker.within(phase="generation"):
            _grow(tracker, shapes, prompt, prompt + new - 1)
            _last_token(model, tracker, shapes, rows, prompt + new, generation_config)
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


def _first_token(model: Any, ids: Any, mask: Any, generation_config: Any) -> list[Any]:
    """Read the prompt; returns key and value of every layer, as empty tensors of length 0."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.config.get_text_config())
    output = model(
        input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1
    )
    _sample(output.logits[:, -1], generation_config)
    tensors = [x for layer in cache.layers for x in (layer.keys, layer.values)]
    # Not views: those would keep the cache.
    return [x.new_empty((*x.shape[:2], 0, x.shape[3])) for x in tensors]


def _grow(tracker: Tracker, shapes: list[Any], first: int, last: int) -> None:
    """Each layer's keys and values are copied to a tensor one token longer."""

    def size(one: torch.Tensor, length: int) -> int:
        rows, heads, _, width = one.shape
        return rows * heads * length * width * one.element_size()

    held = [(tracker.born(size(x, first)), size(x, first)) for x in shapes]
    for length in range(first + 1, last, max(1, (last - first) // _STEPS)):
        for i, x in enumerate(shapes):
            longer = (tracker.born(size(x, length)), size(x, length))
            tracker.died(*held[i])
            held[i] = longer
    for identity, nbytes in held:
        tracker.died(identity, nbytes)


def _last_token(
    model: Any,
    tracker: Tracker,
    shapes: list[Any],
    rows: int,
    length: int,
    generation_config: Any,
) -> None:
    """One token more on a cache that lacks only it."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.config.get_text_config())
    with tracker.looking_away():  # filling it takes copies that growing it did not
        for layer in range(len(shapes) // 2):
            filled = [
                x.new_empty((*x.shape[:2], length - 1, x.shape[3]))
                for x in shapes[2 * layer : 2 * layer + 2]
            ]
            cache.update(*filled, layer)
    for layer in cache.layers:
        tracker.add(layer.keys)
        tracker.add(layer.values)
    output = model(
        input_ids=torch.empty((rows, 1), dtype=torch.long, device="meta"),
        attention_mask=torch.empty((rows, length), dtype=torch.long, device="meta"),
        past_key_values=cache,
        use_cache=True,
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
