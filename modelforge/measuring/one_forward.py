"""One forward pass over a padded batch, and what it gives for each of its rows.

A trainer's loss is computed for each row by the trainer's own code, as if the row were alone. Only
the forward passes that this code asks for are done once for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

Forward = Callable[..., Any]


class RowsToo:
    """A collator that gives ``rows``, each row collated alone, beside the ``batch`` of them all."""

    def __init__(self, collator: Callable[[list[Any]], Any]) -> None:
        """Args:
        collator: The trainer's.
        """
        self.collator = collator

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        alone = [self.collator([row]) for row in rows]
        return {"rows": alone, "batch": self.collator(rows) if len(rows) > 1 else alone[0]}


class OneForward:
    """The forward passes of some models: made once for a batch, and given out row by row.

    A pass that cannot be told apart into rows is made again for each row: where the output holds
    a figure of the whole batch, such as a mixture's auxiliary loss, or where other tokens are
    asked for.
    """

    def __init__(self, models: Sequence[torch.nn.Module]) -> None:
        self._models = models
        self._passes: list[tuple[torch.nn.Module, torch.Tensor, Any]] = []
        self._switched: Callable[[], AbstractContextManager[Any]] = nullcontext

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it, passes over the whole batch are kept."""
        with _in_place_of(self._models, "forward", self._record):
            yield

    @contextmanager
    def of_row(self, index: int, count: int) -> Iterator[None]:
        """Within it, passes over one row alone are answered from those over the batch.

        Args:
            index: The row's place in the batch.
            count: Rows in the batch.
        """
        answer = partial(self._answer, iter(self._passes), index, count)
        with ExitStack() as stack:
            stack.enter_context(_in_place_of(self._models, "forward", answer))
            if self._passes:
                adapted = [model for model in self._models if hasattr(model, "disable_adapter")]
                stack.enter_context(_in_place_of(adapted, "disable_adapter", self._switch_later))
            yield

    def _record(self, model: torch.nn.Module, forward: Forward, *args: Any, **inputs: Any) -> Any:
        output = forward(*args, **inputs)
        ids = inputs.get("input_ids")
        self._passes.append((model, torch.empty(0) if ids is None else ids, output))
        return output

    def _answer(
        self,
        passes: Iterator[tuple[torch.nn.Module, torch.Tensor, Any]],
        index: int,
        count: int,
        model: torch.nn.Module,
        forward: Forward,
        *args: Any,
        **inputs: Any,
    ) -> Any:
        of, whole, output = next(passes, (None, None, None))
        ids = inputs.get("input_ids")
        if of is model and whole is not None and ids is not None and whole.dim() == 2:
            rows = range(index, len(whole), count)  # a pair's sides stand a batch apart
            length = ids.shape[1]
            if torch.equal(whole[list(rows), :length], ids):
                found = _part(output, list(rows), tokens=whole.shape[1], length=length)
                if found is not None:
                    return found
        with self._switched():
            return forward(*args, **inputs)

    @contextmanager
    def _switch_later(self, model: torch.nn.Module, switch: Any) -> Iterator[None]:
        """PEFT walks over all modules for it, which takes longer than the loss of a row."""
        self._switched = switch
        try:
            yield
        finally:
            self._switched = nullcontext


def _part(output: Any, rows: list[int], *, tokens: int, length: int) -> Any:
    """Some rows of a model's output without their padding; None where it is not made of rows.

    Args:
        output: Of the whole batch.
        rows: Those that are asked for.
        tokens: Length of the padded batch.
        length: The rows' own.
    """
    if not isinstance(output, Mapping):
        return None
    found = {}
    for name, value in output.items():
        if name == "loss" and "log_probs" in output:
            continue  # TRL's fused head: its trainers compute the loss from these
        if not isinstance(value, torch.Tensor) or value.dim() == 0 or len(value) <= rows[-1]:
            return None
        part = value[rows]
        if tokens > 2 and part.dim() > 1 and part.shape[1] in (tokens, tokens - 1):
            part = part[:, : part.shape[1] - (tokens - length)]
        found[name] = part
    return type(output)(**found)


@contextmanager
def _in_place_of(models: Sequence[torch.nn.Module], name: str, call: Forward) -> Iterator[None]:
    """Within it, ``call(model, method, …)`` takes the place of a method of each model."""
    before = [vars(model).get(name) for model in models]
    for model in models:
        # A module asks its instance first, which accelerate and TRL use as well.
        vars(model)[name] = partial(call, model, getattr(model, name))
    try:
        yield
    finally:
        for model, own in zip(models, before, strict=True):
            if own is None:
                del vars(model)[name]
            else:
                vars(model)[name] = own
