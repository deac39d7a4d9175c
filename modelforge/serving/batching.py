"""Answers by transformers' continuous batching, each request with its own sampling.

`transformers serve --continuous-batching` (5.23) gives every request the sampling of the first one,
drops `stop`, `seed` and `logprobs`, and loads no adapter. So the engine under it is used, and the
next token is chosen here: by the request's own temperature, cut and seed, and not by its batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager

from modelforge.constraints.steering import steer
from modelforge.serving.asked import Refused

_PAGE = 32  # tokens of a page of keys and values
_SHARE = 0.25  # of the free memory, for keys and values on a CPU


@dataclass
class Draw:
    """How the tokens of one answer are chosen, and what was likely.

    Attributes:
        temperature: 0 takes the likeliest token each time.
        top_p: The share of probability that is drawn from.
        top_k: The number of tokens that are drawn from; 0 for all.
        seed: Of the draws; None draws one.
        tops: How many of the likeliest tokens are kept at each place; None keeps no probability.
        forbidden: The tokens that may not follow those so far; None for any.
        ids: The tokens so far.
        logps: Of each token: its log probability, and the likeliest tokens with theirs.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    tops: int | None = None
    forbidden: Callable[[Sequence[int]], list[int]] | None = None
    ids: list[int] = field(default_factory=list)
    logps: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = torch.Generator()
        if self.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self.seed % 2**63)

    def __deepcopy__(self, memo: Any) -> Draw:
        return self  # a request that is taken up again goes on with its draws

    def choose(self, scores: torch.Tensor) -> int:
        """The next token, of the logits (V,) of one place."""
        scores = scores.float().cpu()
        if self.forbidden is not None:
            scores = scores.clone()  # on a CPU it is the engine's own
            steer(scores, self.forbidden(self.ids))
        token = int(scores.argmax()) if self.temperature == 0 else self._drawn(scores)
        self.ids.append(token)
        if self.tops is not None:
            logps = scores.log_softmax(-1)
            best = logps.topk(min(self.tops, len(logps)))
            pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
            self.logps.append((logps[token].item(), list(pairs)))
        return token

    def _drawn(self, scores: torch.Tensor) -> int:
        scores = scores.double() / self.temperature
        shares, order = scores.softmax(-1).sort(descending=True, stable=True)
        if self.top_k:
            shares = shares[: self.top_k]
        reached = shares.cumsum(-1)
        if self.top_p < 1:
            kept = int((reached - shares < self.top_p * reached[-1]).sum())
            reached = reached[:kept]
        # One random number a token: rounding elsewhere does not shift those that follow.
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * reached[-1]
        return int(order[min(int((reached <= point).sum()), len(reached) - 1)])


class _Chooser(ContinuousBatchingLogitsProcessor):
    """Leaves of each place's tokens the one that its request draws."""

    supported_kwargs = {"draw": Draw}
    ignored_kwargs = ()

    def __init__(self) -> None:
        self.draws: list[Draw] = []

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        self.draws = [r.state.logit_processor_kwargs["draw"] for r in requests_with_new_token]
        return torch.zeros(len(self.draws), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        for row, draw in zip(scores, self.draws, strict=False):
            token = draw.choose(row)
            row.fill_(-torch.inf)
            row[token] = 0.0
        return scores


class _Manager(ContinuousBatchingManager):
    """Of one model among several on one base: they take turns, step by step."""

    turn: Callable[[], AbstractContextManager[Any]] = staticmethod(nullcontext)

    def _generation_step(self) -> None:
        with self.turn():
            super()._generation_step()


class Batch:
    """The requests of one model, answered side by side.

    Args:
        model: Of transformers, with its adapters in it.
        turn: Makes the model the one that is asked, for one step.
        ends: The tokens that end an answer.
        context: The most tokens of a prompt and its answer.
        size: The most requests in one step.
    """

    def __init__(
        self,
        model: Any,
        turn: Callable[[], AbstractContextManager[Any]],
        *,
        ends: Sequence[int],
        context: int,
        size: int,
    ) -> None:
        self.ends, self.context = list(ends), context
        given = GenerationConfig(do_sample=False, eos_token_id=self.ends, use_cache=False)
        self._manager = _Manager(model, given, _config(model, context, size))
        self._manager.turn = turn
        chosen = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([_Chooser()]))
        chosen.tensors_required = 1  # else no request is shown to it
        self._manager.logit_processor = chosen

    def start(self) -> None:
        """Begin to answer, in a thread."""
        self._manager.start()

    @property
    def error(self) -> str | None:
        """What ended it, if something did."""
        found = self._manager.background_thread_status.fatal_error
        return None if found is None else str(found)

    def ask(
        self, name: str, ids: Sequence[int], draw: Draw, most: int, seen: Callable[[Any], None]
    ) -> None:
        """Take up a request.

        Args:
            name: Of the request; no two are alike.
            ids: The prompt.
            draw: How its answer is drawn.
            most: The longest answer, in tokens.
            seen: Is given what there is after each token, in the event loop of the caller.

        Raises:
            Refused: If it takes no requests.
        """
        self._manager.register_result_handler(name, seen)
        taken = self._manager.add_request(
            list(ids),
            request_id=name,
            max_new_tokens=most,
            streaming=True,
            eos_token_id=self.ends,
            draw=draw,
        )
        if taken is None:
            self._manager.output_router.result_handlers.pop(name, None)
            raise Refused(503, f"the engine failed: {self.error or 'it takes no requests'}")

    def cancel(self, name: str) -> None:
        """Give a request up; nothing happens if it is answered."""
        self._manager.cancel_request(name)
        self._manager.output_router.result_handlers.pop(name, None)


def _config(model: Any, context: int, size: int) -> ContinuousBatchingConfig:
    said: dict[str, Any] = {
        "max_requests_per_batch": size,
        "max_batch_tokens": max(512, 2 * size),
        "use_cuda_graph": False,  # a request's own draw is made on the host
        "use_async_batching": False,
    }
    if model.device.type == "cpu":  # elsewhere transformers looks at the card
        said["num_blocks"] = _pages(model, context, size)
        said["page_size"] = _PAGE
    return ContinuousBatchingConfig(**said)


def _pages(model: Any, context: int, size: int) -> int:
    """Pages of keys and values: as many as all requests fill, within a share of the memory."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    page = _PAGE * 2 * heads * width * config.num_hidden_layers * model.dtype.itemsize
    room = int(psutil.virtual_memory().available * _SHARE) // page
    return max(2, min(size * -(-context // _PAGE), room))
