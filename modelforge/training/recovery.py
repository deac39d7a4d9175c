"""A run that continues after it ran out of memory, or resumes after a signal."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from modelforge.callbacks.signals import Stopper
from modelforge.checkpointing.checkpoints import cannot_write, latest_intact
from modelforge.common.console import say
from modelforge.common.processes import rank, world_size
from modelforge.config import Choice
from modelforge.errors import Interrupted, Problem, RunError
from modelforge.runs import files
from modelforge.runs.folder import choices_json
from modelforge.training.effects import recorded

if TYPE_CHECKING:
    from modelforge.training.prepare import Prepared

_MICRO, _ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"
_EVAL = "per_device_eval_batch_size"


@contextlib.contextmanager
def reported(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a vanished folder raises into a message that says so.

    Args:
        folder: The run's checkpoints.

    Raises:
        RunError: In its place.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        refusal = cannot_write(error, folder)
        if refusal is None:
            raise
        raise refusal from error


def trained(prepared: Prepared, trainer: Any, usage: TrainerCallback) -> bool:
    """Train to the end; False if the memory ran out on the way.

    Args:
        prepared: The run.
        trainer: Its trainer.
        usage: Measures what training takes.

    Raises:
        Interrupted: If a signal asked to stop; a checkpoint was written.
        RunError: If one of several processes ran out of memory.
    """
    from accelerate.utils.memory import should_reduce_batch_size

    stopper = Stopper()
    trainer.add_callback(usage)
    trainer.add_callback(stopper)
    try:
        with stopper.listening():
            trainer.train(
                resume_from_checkpoint=str(prepared.checkpoint) if prepared.checkpoint else None
            )
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        step = trainer.state.global_step + 1
        if world_size() > 1:  # the others are fine, and wait for this one's gradient
            what = f"process {rank()} ran out of memory"
            fix = "lower per_device_train_batch_size or memory_budget_gb; the same command resumes"
            raise RunError(Problem(f"step {step}", what, fix)) from error
        # The error is dropped here: it holds the tensors.
        say(f"out of memory at step {step}")
        return False
    if stopper.asked and trainer.state.global_step < trainer.state.max_steps:
        raise Interrupted(prepared.run.path, trainer.state.global_step)
    return True


def with_less_memory(prepared: Prepared, trainer: Any) -> Prepared:
    """The rest of a run in smaller micro-batches: the same steps over the same rows.

    Writes the checkpoint of the last whole step. The micro-batch is halved (or brought to the
    next lower divisor of the effective batch), the accumulation grows by as much.

    Raises:
        RunError: If the micro-batch is the smallest already.
    """
    from modelforge.training.prepare import build_args

    args = trainer.args
    micro, accumulation = args.per_device_train_batch_size, args.gradient_accumulation_steps
    least = prepared.strategy.least_micro_batch(prepared.config)
    smaller = _smaller(micro, least)
    if smaller == micro:
        rows = "one row at a time does" if least == 1 else f"{least} rows at a time do"
        raise RunError(
            Problem(
                f"step {trainer.state.global_step + 1}",
                f"{rows} not fit the memory",
                "shorten max_seq_length, turn gradient_checkpointing or use_4bit on, lower lora_r, "
                "or see with `modelforge plan` what fits; then the same command resumes the run",
            )
        )
    checkpoint = _last_step(prepared, trainer)
    times = micro // smaller
    why = f"{micro} ran out of memory at step {trainer.state.global_step + 1}"
    kept = f"effective batch stays {micro * accumulation}"
    choices = {
        _MICRO: Choice(smaller, "memory", why),
        _ACCUMULATION: Choice(accumulation * times, "memory", kept),
        _EVAL: Choice(max(args.per_device_eval_batch_size // times, 1), "memory", why),
    }
    if prepared.config.given("steps_per_generation"):
        steps = prepared.config.get("steps_per_generation") * times
        choices["steps_per_generation"] = Choice(steps, "memory", "the rollout stays as it was")
    config = prepared.config.with_choices(choices)
    config = config.with_choices(prepared.strategy.derived_defaults(config))
    say(f"the run continues with micro-batches of {smaller}, {accumulation * times} a step: {kept}")
    prepared.run.write_json(files.CHOICES, choices_json(config))
    prepared.run.write_json(files.CONFIG, recorded(config, prepared.strategy))
    args = build_args(config, prepared.strategy, prepared.provider, prepared.hardware, prepared.run)
    return replace(prepared, config=config, args=args, checkpoint=checkpoint)


def _smaller(micro: int, least: int = 1) -> int:
    """The largest proper divisor from ``least`` on: 8 → 4, 6 → 3, 9 → 3, 5 → 1."""
    return max((n for n in range(least, micro // 2 + 1) if micro % n == 0), default=micro)


def _last_step(prepared: Prepared, trainer: Any) -> Path | None:
    """The checkpoint of the last whole step, written now if need be."""
    if trainer.phase == "optimizer":
        # Some weights may have been changed already: only what is on the disk is of one step.
        return latest_intact(prepared.run.checkpoints)[0]
    if trainer.phase == "forward":
        trainer.undo_step()
    step = trainer.state.global_step
    if step == 0:
        return None
    checkpoint = prepared.run.checkpoints / f"checkpoint-{step}"
    if not checkpoint.is_dir():
        trainer._save_checkpoint(trainer.model, None)
    return checkpoint


def free_memory() -> None:
    """Give back what a dropped trainer held: it is a cycle of references."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
