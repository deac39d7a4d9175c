"""Trials of a config: the same run with other rates, ranks and seeds, each in a folder of its own.

A trial is an ordinary run. `modelforge train` goes on with one where it was left.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from accelerate.utils.memory import should_reduce_batch_size
from transformers import TrainerCallback

from modelforge.callbacks.progress import Progress
from modelforge.callbacks.signals import Stopper
from modelforge.checkpointing.checkpoints import step_of
from modelforge.checkpointing.randomness import random_state, set_random_state
from modelforge.checkpointing.resumed import all_steps
from modelforge.common.console import warn
from modelforge.config import Choice
from modelforge.errors import DivergedError, Interrupted
from modelforge.evaluation.samples import undisturbed
from modelforge.measuring.rows import HeldOutRow, together
from modelforge.training.joined import CannotJoinError, Joined, Lane, share_alike, sharing
from modelforge.training.prepare import Prepared, build_args
from modelforge.training.recipe import ACCUMULATION, MICRO
from modelforge.training.recovery import free_memory, reported, trained, with_less_memory
from modelforge.training.run import build_trainer, load, write_start

if TYPE_CHECKING:
    from modelforge.plan import Plan
    from modelforge.strategy import Parts

#: Steps below which a held-out figure says little of a rate: no trial stops before.
LEAST = 10
#: Values of PEFT's ``init_lora_weights`` that leave the base's weights as they are.
_BESIDE = (None, True, False, "gaussian", "orthogonal")


@dataclass(frozen=True)
class Trial:
    """A run to try.

    Attributes:
        name: Its folder, within that of all trials.
        said: What it says over the config.
    """

    name: str
    said: Mapping[str, Any]


@dataclass(frozen=True)
class Reached:
    """How a trial stood after some of its steps.

    Attributes:
        step: How many.
        rows: The figures of each held-out row; none where it diverged.
        why: Why it goes no further; empty where it can.
    """

    step: int
    rows: Sequence[HeldOutRow]
    why: str = ""

    @property
    def figures(self) -> Mapping[str, float]:
        """The held-out figures."""
        return together(self.rows)


def trials_of(
    rate: float, *, count: int, rates: Sequence[float], ranks: Sequence[int], seeds: Sequence[int]
) -> list[Trial]:
    """All combinations; where no rate is named, ``count`` of them from a third to thrice ``rate``.

    Args:
        rate: The config's own, by default or said.
        count: How many rates.
        rates: Rates to try.
        ranks: LoRA ranks; none: the config's.
        seeds: Seeds; none: the config's.
    """
    if not rates:
        steps = [2 * i / (count - 1) - 1 for i in range(count)] if count > 1 else [0.0]
        rates = [float(f"{rate * 3**step:.3g}") for step in steps]
    axes = (("rate", "learning_rate", rates), ("rank", "lora_r", ranks), ("seed", "seed", seeds))
    named = [[(word, key, value) for value in dict.fromkeys(v)] for word, key, v in axes if v]
    return [
        Trial(
            "-".join(f"{word}-{value}" for word, _, value in each).replace("+", ""),
            {key: value for _, key, value in each},
        )
        for each in itertools.product(*named)
    ]


def why_not_joined(prepared: Sequence[Prepared]) -> str | None:
    """Why these cannot be trained in one pass over the base; None where they can."""
    first = prepared[0]
    config, settings = first.config, first.config.settings
    said: tuple[tuple[Any, str], ...] = (
        (len(prepared) == 1, "there is one trial"),
        (first.strategy.generates, f"{first.strategy.name} samples answers"),
        (any(p.config.settings.lora_r == 0 for p in prepared), "all weights are trained"),
        (settings.lora_dropout, "dropout draws for each trial"),
        (first.provider.name != "huggingface", f"{first.provider.name} has passes of its own"),
        (config.get("torch_compile"), "torch_compile knows one trainer"),
        (settings.lora.get("init_lora_weights") not in _BESIDE, "the base's weights are changed"),
        (settings.lora.get("peft_type", "LORA") != "LORA", "it is not LoRA that is trained"),
        (settings.lora.get("target_parameters"), "target_parameters change the base's weights"),
        (settings.lora.get("bias", "none") != "none", "the base's biases are trained"),
    )
    return next((why for hindered, why in said if hindered), None)


def on_one_card(prepared: Sequence[Prepared]) -> tuple[list[Prepared], Plan | None] | None:
    """The trials in micro-batches that fit the card together; None where not even one row does.

    The plan is that of one run whose adapter has the ranks of all, on the rows of all. It counts
    the logits of all, of which there are those of one trial at a time.
    """
    from modelforge.plan import plan
    from modelforge.plan.calibration import recall

    first = prepared[0]
    budget = first.config.settings.memory_budget_gb or first.hardware.vram_gb or None
    if budget is None:
        return list(prepared), None
    ranks, count = sum(p.config.settings.lora_r for p in prepared), len(prepared)
    micro = min(p.config.micro_batch for p in prepared)
    steps = first.config.get(ACCUMULATION) or 1
    rows = first.config.micro_batch * steps
    least = first.strategy.least_micro_batch(first.config)
    fixed = first.config.given(MICRO)
    for size in [micro] if fixed else [n for n in range(micro, least - 1, -1) if rows % n == 0]:
        whole = {MICRO: Choice(size * count, "plan"), "lora_r": Choice(ranks, "plan")}
        planned = plan(
            first.config.with_choices(whole),
            budget_gb=budget, hardware=first.hardware, calibration=recall(first.hardware),
        )  # fmt: skip
        if planned.fits:
            return [_in_micro_batches(p, size, rows // size) for p in prepared], planned
    return None


def _in_micro_batches(prepared: Prepared, size: int, steps: int) -> Prepared:
    if prepared.config.micro_batch == size:
        return prepared
    why = "the trials share the card"
    choices = {MICRO: Choice(size, "plan", why), ACCUMULATION: Choice(steps, "plan", why)}
    config = prepared.config.with_choices(choices)
    config = config.with_choices(prepared.strategy.derived_defaults(config))
    args = build_args(config, prepared.strategy, prepared.provider, prepared.hardware, prepared.run)
    return replace(prepared, config=config, args=args)


def trained_until(
    share: float, prepared: Sequence[Prepared], *, joined: bool
) -> Iterator[tuple[Prepared, Reached]]:
    """Each trial after this share of its steps, from where it was left, as it gets there.

    Args:
        share: Of all steps; 1 for the whole run.
        prepared: The trials.
        joined: Whether all are trained in one pass over the base; else one after the other.

    Raises:
        Interrupted: If a signal asked to stop; each trial has a checkpoint.
        CannotJoinError: If the model does not tell the rows of the trials apart, or the memory
            does not hold them.
    """
    prepared = [replace(each, checkpoint=each.run.last_checkpoint()) for each in prepared]
    with ExitStack() as stack:
        for each in prepared:
            stack.enter_context(each.run.locked())
            stack.enter_context(reported(each.run.checkpoints))
        if joined:
            reached = _together(share, prepared)
            free_memory()
            yield from zip(prepared, reached, strict=True)
            return
        for each in prepared:
            yield each, _alone(share, each)
            free_memory()


def _together(share: float, prepared: Sequence[Prepared]) -> list[Reached]:
    stopper = Stopper()
    lanes: list[Lane] = []
    for each, parts in _parts(prepared):
        trainer = _built(each, parts)
        if lanes:
            trainer.remove_callback(Progress)  # one speaks for all
        trainer.add_callback(stopper)
        lanes.append(Lane(trainer, partial(_in_lane, share, each, trainer)))
    try:
        with stopper.listening():
            Joined(lanes).run()
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        raise CannotJoinError("the memory does not hold the rows of all") from error
    if stopper.asked:
        steps = min(lane.trainer.state.global_step for lane in lanes)
        again = "the same command resumes all trials"
        raise Interrupted(prepared[0].run.path.parent, steps, again=again)
    return [lane.result for lane in lanes]


def _in_lane(share: float, prepared: Prepared, trainer: Any) -> Reached:
    last = _last(share, trainer)
    if _is_there(prepared, trainer, last):
        return _reached(trainer)
    trainer.add_callback(_Until(last))
    begin = str(prepared.checkpoint) if prepared.checkpoint else None
    try:
        trainer.train(resume_from_checkpoint=begin)
    except DivergedError as error:
        return _diverged(prepared, trainer, error)
    return _reached(trainer)


def _alone(share: float, prepared: Prepared) -> Reached:
    trainer = _built(prepared, load(prepared))
    last = _last(share, trainer)
    if _is_there(prepared, trainer, last):
        return _reached(trainer)
    try:
        while not trained(prepared, trainer, _Until(last)):
            prepared = with_less_memory(prepared, trainer)
            del trainer
            free_memory()
            trainer = build_trainer(prepared, load(prepared))
    except DivergedError as error:
        return _diverged(prepared, trainer, error)
    return _reached(trainer)


def _last(share: float, trainer: Any) -> int:
    """The step that a part of the run ends with."""
    steps = all_steps(trainer)
    return max(math.ceil(share * steps), min(LEAST, steps))


def _built(prepared: Prepared, parts: Parts) -> Any:
    checkpoint = prepared.checkpoint
    if checkpoint is None:
        write_start(prepared)
    prepared.run.forget_metrics_after(step_of(checkpoint) if checkpoint else -1)
    return build_trainer(prepared, parts)


def _is_there(prepared: Prepared, trainer: Any, last: int) -> bool:
    """Whether a checkpoint holds this step, which was not measured; then it is taken up."""
    checkpoint = prepared.checkpoint
    if checkpoint is None or step_of(checkpoint) < last:
        return False
    trainer.resumed_from = checkpoint
    done = f"{prepared.run.path.name}: {step_of(checkpoint)} steps are done"
    trainer._take_up_end(checkpoint, done)
    return True


def _diverged(prepared: Prepared, trainer: Any, error: DivergedError) -> Reached:
    why = error.problems[0].what
    warn(f"{prepared.run.path.name} is given up: {why}")
    return Reached(trainer.state.global_step, (), why)


def _reached(trainer: Any) -> Reached:
    """The held-out rows, as an evaluation of the run measures them; nothing is logged."""
    with undisturbed(trainer.model):
        trainer.evaluation_loop(trainer.get_eval_dataloader(), "", True, metric_key_prefix="eval")
        trainer._eval_metrics().clear()
    return Reached(trainer.state.global_step, list(trainer.held_out))


def _parts(prepared: Sequence[Prepared]) -> Iterator[tuple[Prepared, Parts]]:
    """What each trainer is built from; the models share the weights of the first.

    A fresh adapter is drawn as in the trial's own run: after the seed was set and the base loaded.
    """
    loaded: dict[int, tuple[Parts, Any, Any]] = {}
    for each in prepared:
        seed = each.config.settings.seed
        if seed not in loaded:
            parts = load(each)
            if loaded:
                share_alike(parts.model, next(iter(loaded.values()))[1])
            spare = parts.model if len(prepared) == 1 else _copy(parts, parts.model)
            loaded[seed] = parts, spare, random_state()
        parts, spare, drawn = loaded[seed]
        set_random_state(drawn)
        model = parts.model if parts.config is each.config else _copy(parts, spare)
        own: dict[str, Any] = {"config": each.config, "args": each.args}
        own |= {"run_dir": each.run.path, "peft_config": _own_config(parts, each)}
        yield each, replace(parts, model=model, **own)


def _copy(parts: Parts, model: Any) -> Any:
    return sharing(model, frozen_only=parts.peft_config is None)


def _own_config(parts: Parts, each: Prepared) -> Any:
    if parts.peft_config is None:
        return None
    config, settings = copy.deepcopy(parts.peft_config), each.config.settings
    config.r, config.lora_alpha = settings.lora_r, settings.lora_alpha
    return config


class _Until(TrainerCallback):
    """Ends a part of a run after a step, with a checkpoint."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop at the step."""
        if state.global_step >= self.step:
            control.should_save = True
            control.should_training_stop = True
