"""The trainer of a run, built on the meta device: what it refuses, it refuses before the weights.

The model has its shape and no weights. TRL's trainer is built from it with the run's arguments,
tokenizer and first rows, and so are optimiser, schedule and data loaders. Whatever transformers,
PEFT or TRL refuse there, `check` refuses.
"""

from __future__ import annotations

import copy
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Any

from modelforge.common.console import warn
from modelforge.common.progress import doing
from modelforge.errors import ConfigError, Problem, UserError
from modelforge.strategy import Parts, Strategy
from modelforge.training.shape import model_without_weights

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.data import Data
    from modelforge.training.read import Read
    from modelforge.training.resolve import Resolved

# Rows of each set that the trainer is built from.
_ROWS = 4
_DEVICE = {"use_cpu": True, "bf16": False, "fp16": False}
# What belongs to the machine, the hub or another program; and processes for a few rows.
_LEFT_OUT = """
    deepspeed fsdp fsdp_config torch_compile torch_compile_backend torch_compile_mode push_to_hub
    use_vllm ddp_backend dataset_num_proc debug
"""


def rehearse(config: Config, resolved: Resolved, read: Read, data: Data) -> None:
    """Build the run's trainer without weights. Changes nothing and writes nothing.

    Args:
        config: With every value filled in.
        resolved: The first step's.
        read: The second step's.
        data: The rows at the config's length.

    Raises:
        ModelError: If model, adapter, tokenizer and LoRA's keys do not go together.
        ConfigError: If TRL, PEFT or transformers refuse a value.
    """
    if resolved.provider.name != "huggingface" or resolved.source.trust_remote_code:
        return  # Unsloth's patches need the weights; others' code may too
    from modelforge.plan.kernels import cpu, running_as
    from modelforge.plan.step import alone
    from modelforge.plan.tracker import Tracker

    adapted = resolved.source.adapter is not None
    strategy, config = resolved.strategy.planned(config, adapted=adapted)
    with ExitStack() as stack:
        stack.enter_context(doing("building the trainer without weights"))
        stack.enter_context(_refused(config))  # outermost, since the others silence the console
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(alone())
        stack.enter_context(running_as(cpu(), Tracker(cpu())))
        model, peft_config = model_without_weights(config, resolved, read.vocabulary)
        args = strategy.build_args(_here(config), output_dir=folder, device=_DEVICE)
        args.report_to = []
        tokenizer = copy.deepcopy(read.tokenizer)
        parts = Parts(config, model, tokenizer, peft_config, _few(data), args, folder)
        trainer = _trainer(strategy, parts)
        _schedule(trainer, rows=len(data.train))
        loaders = [trainer.get_train_dataloader()]
        if data.eval is not None:
            loaders.append(trainer.get_eval_dataloader())
        if not args.dataloader_num_workers:  # no processes for a few rows
            for loader in loaders:
                next(iter(loader), None)


def _schedule(trainer: Any, *, rows: int) -> None:
    """Make optimiser and schedule, and ask for the rates at both ends of the run."""
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = (
        args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * rows / batch)
    )
    trainer.create_optimizer_and_scheduler(num_training_steps=steps)
    try:
        for rate in getattr(trainer.lr_scheduler, "lr_lambdas", ()):
            for step in (0, 1, steps):
                rate(step)
    except ZeroDivisionError:
        what = f"leaves no step to decay in: {steps} in all, and the warm-up"
        fix = "train longer, shorten the warm-up, or set another schedule"
        raise ConfigError(Problem("lr_scheduler_type", what, fix)) from None


def _here(config: Config) -> Config:
    """The config without what a rehearsal cannot use."""
    left_out = set(_LEFT_OUT.split())
    if find_spec("liger_kernel"):
        left_out.add("use_liger_kernel")  # it rewrites transformers for the rest of the process
    kept = {key: value for key, value in config.trl.items() if key not in left_out}
    return replace(config, trl=kept)


def _trainer(strategy: Strategy, parts: Parts) -> Any:
    """The strategy's trainer on the meta device."""
    from modelforge.plan.step import on_meta

    given = strategy.all_arguments(parts) | strategy.stand_ins(parts)
    return on_meta(strategy.trl_trainer_class())(**given)


def _few(data: Data) -> Data:
    """The first rows of each set."""
    few = range(min(_ROWS, len(data.train)))
    evaluation = data.eval and data.eval.select(range(min(_ROWS, len(data.eval))))
    return replace(
        data,
        train=data.train.select(few),
        eval=evaluation,
        train_tokens=data.train_tokens[:_ROWS],
        eval_tokens=data.eval_tokens[:_ROWS],
    )


@contextmanager
def _refused(config: Config) -> Iterator[None]:
    """Turn what the libraries refuse into a problem of the config.

    What fails in ModelForge's own code, or for want of weights, is only said: it is no fault of
    the user's, and the run itself will show it with its traceback.

    Raises:
        ConfigError: In place of a library's refusal.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # they raise whatever they like
        message = " ".join(str(error).split()) or "without a message"
        *_, (frame, _line) = walk_tb(error.__traceback__)
        ours = frame.f_globals.get("__name__", "").startswith("modelforge.")
        if ours or "meta" in re.findall(r"\w+", message.lower()):
            warn(f"the trainer was not tried before loading ({type(error).__name__}: {message})")
            return
        what = f"refused before training ({type(error).__name__}): {message[:600]}"
        raise ConfigError(Problem(config.name, what, _FIX)) from error


_FIX = "change the key that the message names"
