"""Several trainers, one pass over the frozen base: each trains an adapter of its own.

Each trainer runs as it does alone, in a thread of its own; one thread works at a time. Where it
asks the decoder (the model below the head) for hidden states, it waits for the others. The rows of
all then pass the base together. To the rows of each trainer, each adapted layer adds what that
trainer's adapter gives: this is batch-split LoRA (Ye et al. 2023, "ASPEN: High-Throughput LoRA
Fine-Tuning of Large Language Models with a Single GPU"). PEFT has it for inference alone.

Heads, losses, clipping, optimisers, schedules, random states and checkpoints are each trainer's.
So its losses are those of a run by itself, to the noise of a matrix product in a larger batch.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate.state import GradientState
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch.nn import functional

from modelforge.checkpointing.randomness import random_state, set_random_state
from modelforge.training.together import CannotJoinError, in_line, row_by_row


class _LeftError(Exception):
    """Another trainer failed: this one's thread ends."""


def sharing(model: torch.nn.Module, *, frozen_only: bool) -> torch.nn.Module:
    """A copy of a model with modules of its own that share the weights.

    Args:
        model: The model.
        frozen_only: Whether those that are trained are copied, as in a model with its adapter.
    """
    tensors = [*model.parameters(), *model.buffers()]
    kept = [t for t in tensors if not (frozen_only and t.requires_grad)]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})


def share_alike(model: torch.nn.Module, other: torch.nn.Module) -> None:
    """Give a model the other's tensor wherever its own holds the same values."""
    theirs = dict(other.named_parameters())
    for name, own in list(model.named_parameters()):
        same = theirs.get(name)
        if same is not None and same.shape == own.shape and torch.equal(same, own):
            path, _, last = name.rpartition(".")
            setattr(model.get_submodule(path), last, same)


@dataclass
class _Asked:
    """What a trainer waits for: hidden states of its rows (``inputs``), or their gradients."""

    inputs: Mapping[str, Any] | None
    how: tuple[Any, ...] = ()


@dataclass(eq=False)
class Lane:
    """One trainer and its thread.

    Attributes:
        trainer: The trainer.
        work: What its thread does; the result is `result`.
        random: Its random states while another works.
    """

    trainer: Any
    work: Callable[[], Any]
    random: Any = field(default_factory=random_state)
    result: Any = None
    error: BaseException | None = None
    done: bool = False
    asked: _Asked | None = None
    answer: Any = None
    leave: bool = False

    def __post_init__(self) -> None:
        base = self.trainer.accelerator.unwrap_model(self.trainer.model)
        base = base.get_base_model() if hasattr(base, "get_base_model") else base
        decoder = getattr(base, base.base_model_prefix, None)
        if decoder is None:
            raise CannotJoinError(f"{type(base).__name__} has no decoder apart from its head")
        if any(map(_drops_out, decoder.modules())):
            raise CannotJoinError("the base drops values at random, for each trial others")
        self.decoder: Any = decoder
        self.forward = decoder.forward
        self.names = list(inspect.signature(decoder.forward).parameters)
        self.adapted = dict(_outermost(self.decoder))
        self.alone = {name: layer.forward for name, layer in self.adapted.items()}
        self.sync = {**GradientState._shared_state, "_dataloader_references_ref": [None]}
        self.turn = threading.Semaphore(0)


def _drops_out(module: Any) -> bool:
    share = module.p if isinstance(module, torch.nn.Dropout) else None
    share = getattr(module, "attention_dropout", None) if share is None else share
    return isinstance(share, float) and share > 0


def _outermost(module: torch.nn.Module, path: str = "") -> Iterable[tuple[str, Any]]:
    """The layers that PEFT has put in place of the base's, by name."""
    for name, child in module.named_children():
        if isinstance(child, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield f"{path}{name}", child
        else:
            yield from _outermost(child, f"{path}{name}.")


@dataclass
class _Pass:
    """One pass over the base.

    Attributes:
        lanes: Whose rows, in order.
        rows: How many each; tokens, where all rows stand in one line.
        along: Which dimension they follow one another in: 1 for one line, else 0.
        hidden: What came out, while its gradient is to come.
        parts: What each lane took of it.
    """

    lanes: Sequence[Lane]
    rows: Sequence[int]
    along: int
    hidden: torch.Tensor | None = None
    parts: Sequence[torch.Tensor] = ()


class Joined:
    """Trainers side by side on one base.

    Args:
        lanes: The trainers, whose models share the base's weights.
    """

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self.lanes, self.back = lanes, threading.Semaphore(0)
        self.running: _Pass | None = None
        self.waiting: list[_Pass] = []

    def run(self) -> None:
        """Let all work to their end; each lane then has its result. What one raises ends all.

        Raises:
            CannotJoinError: If the model mixes rows, or does not tell them apart.
        """
        threads = [threading.Thread(target=self._work, args=(lane,)) for lane in self.lanes]
        with self._in_place():
            for thread in threads:
                thread.start()
            live = list(self.lanes)
            try:
                while live:
                    for lane in live:
                        self._give_turn(lane)
                        if lane.error is not None:
                            raise lane.error
                    live = [lane for lane in live if not lane.done]
                    self._serve(live)
            finally:
                for lane in live:
                    lane.leave = True
                    lane.turn.release()
                for thread in threads:
                    thread.join()

    def _work(self, lane: Lane) -> None:
        lane.turn.acquire()
        try:
            if not lane.leave:
                lane.result = lane.work()
        except _LeftError:
            pass
        except BaseException as error:
            lane.error = error
        lane.done = True
        if not lane.leave:
            self.back.release()

    def _give_turn(self, lane: Lane) -> None:
        """One thread works until it asks for something; chance and accelerate's state are its."""
        ours, state = random_state(), dict(GradientState._shared_state)
        set_random_state(lane.random)
        _set_sync(lane.sync)
        lane.turn.release()
        self.back.acquire()
        lane.random, lane.sync = random_state(), dict(GradientState._shared_state)
        set_random_state(ours)
        _set_sync(state)

    def _ask(self, lane: Lane, asked: _Asked) -> Any:
        lane.asked = asked
        self.back.release()
        lane.turn.acquire()
        if lane.leave:
            raise _LeftError
        answer, lane.answer = lane.answer, None
        return answer

    @contextmanager
    def _in_place(self) -> Any:
        """Within it, decoders, adapted layers and backward passes wait for one another."""
        for lane in self.lanes:
            lane.decoder.forward = partial(self._decode, lane)
            lane.trainer.accelerator.backward = partial(
                self._backward, lane, lane.trainer.accelerator.backward
            )
            for name, layer in lane.adapted.items():
                layer.forward = partial(self._adapted, lane, name)
        try:
            yield
        finally:
            for lane in self.lanes:
                del lane.decoder.forward, lane.trainer.accelerator.backward
                for layer in lane.adapted.values():
                    del layer.forward

    # --- in a trainer's thread --------------------------------------------------------------------

    def _decode(self, lane: Lane, *args: Any, **inputs: Any) -> Any:
        inputs |= dict(zip(lane.names, args, strict=False))
        if inputs.get("past_key_values") is not None:  # it generates
            return lane.forward(**inputs)
        if inputs.get("input_ids") is None:
            raise CannotJoinError("the decoder is given vectors in place of tokens")
        device = inputs["input_ids"].device.type
        how = (
            *(torch.is_grad_enabled(), lane.decoder.training, device),
            *(torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)),
        )
        return self._ask(lane, _Asked(inputs, how))

    def _backward(self, lane: Lane, backward: Callable[..., Any], loss: Any, **how: Any) -> None:
        backward(loss, **how)  # down to the hidden states
        self._ask(lane, _Asked(None))

    # --- in the main thread -----------------------------------------------------------------------

    def _serve(self, live: Sequence[Lane]) -> None:
        groups: dict[tuple[Any, ...], list[Lane]] = {}
        for lane in live:
            if lane.asked is not None and lane.asked.inputs is not None:
                groups.setdefault(lane.asked.how, []).append(lane)
        for how, lanes in groups.items():
            self._forward(lanes, *how)
        due = [p for p in self.waiting if any(lane.done or _at_end(lane) for lane in p.lanes)]
        for each in due:
            self._down(each)
        self.waiting = [p for p in self.waiting if p not in due]
        for lane in live:
            lane.asked = None

    def _forward(
        self, lanes: Sequence[Lane], grad: bool, training: bool, device: str, cast: bool, dtype: Any
    ) -> None:
        asked = [lane.asked.inputs or {} for lane in lanes if lane.asked is not None]
        along = int(all(inputs.get("cu_seq_lens_q") is not None for inputs in asked))
        rows = [inputs["input_ids"].shape[along] for inputs in asked]
        self.running = _Pass(lanes, rows, along)
        whole = in_line(asked) if along else row_by_row(asked)
        with torch.set_grad_enabled(grad), torch.autocast(device, dtype=dtype, enabled=cast):
            found = lanes[0].forward(**whole)
        hidden = getattr(found, "last_hidden_state", None)
        if hidden is None or any(
            value is not None for name, value in found.items() if name != "last_hidden_state"
        ):
            raise CannotJoinError("the decoder gives more than hidden states")
        parts = []
        for inputs, part in zip(asked, hidden.split(rows, along), strict=True):
            own = part[:, : inputs["input_ids"].shape[1]]
            parts.append(own.detach().requires_grad_() if grad else own)
        for lane, part in zip(lanes, parts, strict=True):
            lane.answer = type(found)(last_hidden_state=part)
        if grad:
            self.waiting.append(_Pass(lanes, rows, along, hidden, parts))
        self.running = None

    def _down(self, each: _Pass) -> None:
        """The gradients of the heads, through the base, to the adapters."""
        assert each.hidden is not None, "it was made with gradients"
        whole = torch.zeros_like(each.hidden)
        for part, into in zip(each.parts, whole.split(list(each.rows), each.along), strict=True):
            if part.grad is not None:
                into[:, : part.shape[1]] = part.grad
        self.running = each  # a checkpointed layer is computed again
        if each.hidden.requires_grad:
            torch.autograd.backward(each.hidden, whole)
        self.running = None

    def _adapted(self, lane: Lane, name: str, x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """A layer with an adapter: the base's once, each adapter's on the rows of its trainer."""
        running = self.running
        if running is None:
            return lane.alone[name](x, *args, **kwargs)
        along = running.along
        if args or kwargs or x.dim() <= along or x.shape[along] != sum(running.rows):
            raise CannotJoinError(f"{name} does not see its input row by row")
        layers = [other.adapted[name] for other in running.lanes]
        if all(_plain(layer) for layer in layers):
            line = _added(layers, x[0] if along else x, running.rows)
            return line[None] if along else line
        parts = zip(running.lanes, x.split(list(running.rows), along), strict=True)
        return torch.cat([other.alone[name](part) for other, part in parts], along)


def _at_end(lane: Lane) -> bool:
    return lane.asked is not None and lane.asked.inputs is None


def _set_sync(state: Mapping[str, Any]) -> None:
    GradientState._shared_state.clear()
    GradientState._shared_state.update(state)


def _plain(layer: Any) -> bool:
    """Whether all that the layer's adapter adds is B·A·x times its scale."""
    if not isinstance(layer, LoraLayer) or not layer.lora_A or layer.merged:
        return False
    (name, *more) = layer.active_adapters
    return not (
        more
        or layer.lora_variant
        or layer.lora_bias.get(name)
        or name not in layer.lora_A
        or not isinstance(layer.lora_dropout[name], torch.nn.Identity)
    )


def _added(layers: Sequence[Any], x: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The base's output with each adapter's part added to its rows."""
    out = layers[0].base_layer(x)
    on = [not layer.disable_adapters for layer in layers]
    if not any(on):
        return out
    names = [layer.active_adapters[0] for layer in layers]
    down = [layer.lora_A[n].weight for layer, n in zip(layers, names, strict=True)]
    up = [layer.lora_B[n].weight for layer, n in zip(layers, names, strict=True)]
    scale = [layer.scaling[n] * o for layer, n, o in zip(layers, names, on, strict=True)]
    shape, x = out.shape, x.to(down[0].dtype)
    if len(set(rows)) == 1:
        rank, count = max(map(len, down)), len(layers)
        a = torch.stack([functional.pad(w, (0, 0, 0, rank - len(w))) for w in down])
        b = torch.stack([functional.pad(w, (0, rank - w.shape[1])) for w in up])
        low = torch.bmm(x.reshape(count, -1, x.shape[-1]), a.transpose(1, 2))
        low = low * torch.tensor(scale, dtype=low.dtype, device=low.device)[:, None, None]
        return (out + torch.bmm(low, b.transpose(1, 2)).view(shape)).to(out.dtype)
    parts = [
        functional.linear(functional.linear(part, a), b) * s
        for part, a, b, s in zip(x.split(list(rows)), down, up, scale, strict=True)
    ]
    return (out + torch.cat(parts)).to(out.dtype)
