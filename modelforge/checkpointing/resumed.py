"""A checkpoint taken up by a run that is longer, or lies elsewhere, than the one that wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, TrainerState

from modelforge.checkpointing.randomness import random_state_kept
from modelforge.common.console import say


def state_of(checkpoint: Path) -> TrainerState:
    """What transformers wrote of how far the run was."""
    return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))


def all_steps(trainer: Any) -> int:
    """The optimiser steps of the whole run by the trainer's arguments as they are now."""
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    with random_state_kept():
        batches = trainer.get_train_dataloader()
        return int(trainer.set_initial_training_values(trainer.args, batches)[-1])


def patience_used(checkpoint: Path) -> int:
    """The evaluations in a row without a gain, when a checkpoint was written."""
    states: Any = state_of(checkpoint).stateful_callbacks or {}
    found = states.get(EarlyStoppingCallback.__name__) or []
    rows = found if isinstance(found, list) else [found]
    counts = [int(row["attributes"]["early_stopping_patience_counter"]) for row in rows]
    return max(counts, default=0)


def watched(trainer: Any) -> EarlyStoppingCallback | None:
    """What stops the trainer early, if anything does."""
    callbacks = trainer.callback_handler.callbacks
    return next((each for each in callbacks if isinstance(each, EarlyStoppingCallback)), None)


def why_ended(trainer: Any, checkpoint: Path) -> str | None:
    """Why a run has ended with a checkpoint by what is asked for now; None where it has not."""
    step = state_of(checkpoint).global_step
    if step >= all_steps(trainer):
        return f"all {step} steps are done"
    watch = watched(trainer)
    if watch is not None and patience_used(checkpoint) >= watch.early_stopping_patience:
        return f"the run stopped early, at step {step}"
    return None


def best_of(checkpoint: Path) -> str | None:
    """The best checkpoint seen until then: where it was, or beside this one, if it is there."""
    best = state_of(checkpoint).best_model_checkpoint
    if best is None:
        return None
    places = (Path(best), checkpoint.parent / Path(best).name)
    return next((str(place) for place in places if place.is_dir()), None)


def take_up_as_asked(trainer: Any, checkpoint: Path) -> None:
    """Say by the trainer's arguments what transformers takes from the checkpoint at the start.

    Args:
        trainer: When its training begins.
        checkpoint: That it resumes from.
    """
    then, now = state_of(checkpoint), trainer.state
    now.compute_steps(trainer.args, now.max_steps)  # when to log, evaluate and save
    now.best_model_checkpoint = best_of(checkpoint)
    watch = watched(trainer)
    if watch is not None:  # transformers would bring back the patience asked for then, too
        watch.early_stopping_patience_counter = patience_used(checkpoint)
    if then.max_steps != now.max_steps:
        rates = ", ".join(f"{r:.3g}" for r in dict.fromkeys(trainer.lr_scheduler.get_last_lr()))
        say(
            f"the run is {now.max_steps} steps long now, and was {then.max_steps}: it trains on "
            f"from step {now.global_step} on the learning-rate schedule of {now.max_steps} steps, "
            f"after a rate of {rates}"
        )
