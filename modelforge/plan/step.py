"""The installed trainer's own training step, on meta tensors.

TRL's trainer is built as in a run, from a model without weights and a data set of the longest rows;
its ``training_step``, gradient clipping and optimiser run for two steps. What those versions of
TRL, PEFT, bitsandbytes and transformers do is what is logged; nothing of it is written down here.
"""

from __future__ import annotations

import copy
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from modelforge.checkpointing.randomness import random_state_kept
from modelforge.plan.autocast import replaced
from modelforge.plan.generation import sampling, sampling_elsewhere
from modelforge.plan.kernels import running_as
from modelforge.plan.model import track_weights
from modelforge.plan.tracker import Device, Tracker
from modelforge.strategy import STAND_IN_ID as ID
from modelforge.strategy import STAND_IN_WORD as WORD

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, Trainer


# What torchrun and accelerate tell a process of the others.
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class MetaRun:
    """A trainer to be built on the meta device.

    Attributes:
        trainer_class: TRL's, or the strategy's own.
        arguments: What it is built from.
        batch: One micro-batch of the longest rows, as the trainer's collator takes it.
        tokens: Of that micro-batch.
        share_true: Share of the positions whose next token the loss is computed on.
        padded: Whether rows of a batch may differ in length, or hold several documents: then
            attention takes a mask.
        generates: Sequences, prompt tokens and new tokens of a rollout; None without one.
        by_vllm: Whether vLLM samples them, in memory of its own.
        prepare: Called with the trainer before its first step.
    """

    trainer_class: type[Trainer]
    arguments: dict[str, Any]
    batch: list[dict[str, Any]]
    tokens: int
    share_true: float = 1.0
    padded: bool = False
    generates: tuple[int, int, int] | None = None
    by_vllm: bool = False
    prepare: Callable[[Any], None] = field(default=lambda trainer: None)


@contextmanager
def alone() -> Iterator[None]:
    """Trainers built inside know of no other process and leave no trace, nor a line of output."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    states = [AcceleratorState, GradientState, PartialState]
    shared = [dict(state._shared_state) for state in states]
    launcher = {name: os.environ.pop(name) for name in _LAUNCHER if name in os.environ}
    bars, level = not are_progress_bars_disabled(), logging.root.manager.disable
    disable_progress_bars()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), random_state_kept():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if bars:
            enable_progress_bars()
        os.environ.update(launcher)
        for state, values in zip(states, shared, strict=True):
            state._shared_state.clear()
            state._shared_state.update(values)


def log_steps(meta_run: MetaRun, device: Device, *, timed: bool = True) -> tuple[Tracker, Trainer]:
    """Run a trainer's steps on the meta device and log its memory; to be called :func:`alone`.

    Args:
        meta_run: The trainer and its longest batch.
        device: What kind of device to run as.
        timed: Whether the operators of a step are counted too, which its time follows from.
    """
    tracker = Tracker(device, timed=timed)
    tracker.share_true, tracker.padded = meta_run.share_true, meta_run.padded
    with ExitStack() as stack:
        stack.enter_context(running_as(device, tracker))
        trainer = _stepping(meta_run, tracker)(**meta_run.arguments)
        meta_run.prepare(trainer)
        if meta_run.generates:
            samples = sampling(trainer.model, tracker)
            if meta_run.by_vllm:
                samples = sampling_elsewhere(tracker)
            stack.enter_context(replaced(trainer.model, "generate", samples))
        track_weights(tracker, trainer)
        trainer.train()
    return tracker, trainer


def on_meta(trainer_class: Any) -> Any:
    """The trainer class with its device replaced, and with nothing that reads weights."""

    class OnMeta(trainer_class):
        def __init__(self, model: Any, *args: Any, **kwargs: Any) -> None:
            with _without_weights(trainer_class, model):
                super().__init__(model, *args, **kwargs)

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            """What DPO computes once, before training, with the weights that are not here."""
            zeros = [0.0] * len(dataset)
            with_chosen = dataset.add_column("ref_chosen_logps", zeros)
            return with_chosen.add_column("ref_rejected_logps", zeros)

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            _put_on_meta(self.args)
            _put_on_meta(self.accelerator)

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            """The model is on the meta device and stays there."""

    OnMeta.__name__ = trainer_class.__name__
    return OnMeta


@contextmanager
def _without_weights(trainer_class: type[Any], model: Any) -> Iterator[None]:
    """TRL loads a reference by the model's name, and takes a digest of weights."""
    stand_ins: dict[str, Callable[..., Any]] = {
        "create_model_from_path": lambda *args, **kwargs: copy.deepcopy(model),
        "hash_module": lambda module: "",
    }
    modules = {sys.modules[parent.__module__] for parent in trainer_class.__mro__}
    with ExitStack() as stack:
        for module in modules:
            for name, stand_in in stand_ins.items():
                if hasattr(module, name):
                    stack.enter_context(replaced(module, name, stand_in))
        yield


def _stepping(meta_run: MetaRun, tracker: Tracker) -> type[Trainer]:
    """The trainer class on meta with its outer loop replaced, and phases marked."""

    base: Any = on_meta(meta_run.trainer_class)

    class Stepping(base):
        optimizer: Any

        def _inner_training_loop(self, *args: Any, **kwargs: Any) -> None:
            """A step that makes the optimiser's states, then one in the middle of training."""
            self.create_optimizer()
            self.model.train()
            model, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
            self.create_scheduler(num_training_steps=2)
            self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
            accumulates = self.args.gradient_accumulation_steps > 1
            with tracker, _marked(self, tracker):
                if meta_run.generates:
                    self._make_states(model)  # a rollout of its own would only cost time
                else:
                    self._micro_batch(model)
                    self._update(model)
                if meta_run.generates or not accumulates:
                    model.zero_grad()
                if meta_run.generates and accumulates:
                    tracker.count_work()  # the rollout's, which the next call leaves
                    self._micro_batch(model)
                tracker.count_work()
                self._micro_batch(model)
                self._update(model)

        def _make_states(self, model: Any) -> None:
            with tracker.within(phase="backward", scope="layer"):
                for parameter in model.parameters():
                    if parameter.requires_grad:
                        parameter.grad = torch.empty_like(parameter)
            self._update(model)

        def _micro_batch(self, model: Any) -> None:
            tracker.flops = 0  # those of the last micro-batch stay
            with tracker.within(phase="forward", scope="head"):
                items = torch.ones((), dtype=torch.long, device="meta")
                self.training_step(model, self.data_collator(meta_run.batch), items)
            tracker.gradients |= {
                tracker.identity(p.grad) for p in model.parameters() if p.grad is not None
            }

        def _update(self, model: Any) -> None:
            with tracker.within(phase="optimizer", scope="optimizer"):
                if self.args.max_grad_norm:
                    self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
                self.optimizer.step()

    Stepping.__name__ = meta_run.trainer_class.__name__
    return Stepping


def _put_on_meta(thing: Any) -> None:
    """Let an object's ``device`` be meta."""
    kind = type(thing)
    meta = property(lambda self: torch.device("meta"))
    thing.__class__ = type(kind.__name__, (kind,), {"device": meta})


@contextmanager
def _marked(trainer: Any, tracker: Tracker) -> Iterator[None]:
    """Phases and scopes marked on what the trainer calls."""
    backward = trainer.accelerator.backward

    def marked_backward(loss: torch.Tensor, **kwargs: Any) -> None:
        with tracker.within(phase="backward", scope="head"):
            backward(loss, **kwargs)

    trainer.accelerator.backward = marked_backward
    hooks = list(_scope_hooks(trainer.model, tracker))
    try:
        yield
    finally:
        del trainer.accelerator.backward
        for hook in hooks:
            hook.remove()


def _scope_hooks(model: Any, tracker: Tracker) -> Iterator[Any]:
    """Tell layers from head, and passes that keep nothing from those that do."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    trunk = base.base_model

    def enter(module: Any, args: Any, kwargs: Any) -> None:
        if tracker.phase == "forward" and not torch.is_grad_enabled():
            tracker.phase = "reference"
        tracker.scope = "layer"

    def leave(module: Any, args: Any, output: Any) -> None:
        tracker.scope = "head"
        hidden = output[0]
        if hidden.requires_grad:
            hidden.register_hook(past_head)

    def past_head(gradient: torch.Tensor) -> None:
        tracker.scope = "layer"

    def done(module: Any, args: Any, output: Any) -> None:
        if tracker.phase == "reference":
            tracker.phase = "forward"

    yield trunk.register_forward_pre_hook(enter, with_kwargs=True)
    yield trunk.register_forward_hook(leave)
    yield base.register_forward_hook(done)


def stand_in_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of three words: a trainer wants one, and no row needs more."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, WORD: ID}, unk_token=WORD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token=WORD
    )
