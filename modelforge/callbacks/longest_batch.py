"""The longest batch first, undone: what does not fit the memory shows in the first minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import DistributedType
from transformers import TrainerCallback

from modelforge.checkpointing.randomness import random_state, set_random_state


class Rehearsal(TrainerCallback):
    """Rehearses when training begins, unless it goes on from a checkpoint: then it has run."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """One step on the longest rows."""
        sharded = (DistributedType.DEEPSPEED, DistributedType.FSDP)
        if (
            self.trainer._resumed is None
            and self.trainer.accelerator.distributed_type not in sharded  # could not be undone
        ):
            rehearse(self.trainer)


def rehearse(trainer: Any) -> None:
    """Forward, backward and optimiser step on the longest rows; then all as it was.

    Answers are sampled to their full length. Reward functions see them, once.

    Raises:
        torch.OutOfMemoryError: If that does not fit.
    """
    rows = longest_rows(trainer)
    inputs = rows if hasattr(trainer, "_step") else trainer.data_collator(rows)
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    trainer.accelerator.gradient_state._set_sync_gradients(True)
    with _undone(trainer), _full_length(trainer):
        trainer.training_step(trainer.model_wrapped, inputs)
        if not trainer.args.optim.startswith("paged_"):  # those states leave a card that is full
            trainer.optimizer.step()


def longest_rows(trainer: Any) -> list[dict[str, Any]]:
    """As many of the longest training rows as a micro-batch holds, or a rollout."""
    dataset = trainer.train_dataset
    count = trainer.args.per_device_train_batch_size
    if hasattr(trainer, "_step"):
        count *= trainer.args.steps_per_generation
    keys = [c for c in dataset.column_names if c == "prompt" or c.endswith("_ids")]
    sizes = [_size(row) for row in dataset.select_columns(keys)]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])[:count]
    # Fewer rows than that: some twice, since the batch is no smaller for it.
    return [dataset[order[i % len(order)]] for i in range(count)]


def _size(row: dict[str, Any]) -> int:
    """Tokens of a row as it is padded; characters of a prompt that is not tokenised yet."""
    if "prompt" in row:
        prompt = row["prompt"]
        return len(prompt) if isinstance(prompt, str) else sum(len(str(m)) for m in prompt)
    pair = max(len(row.get("chosen_ids", ())), len(row.get("rejected_ids", ())))
    return len(row.get("input_ids", ())) + len(row.get("prompt_ids", ())) + pair


@contextmanager
def _full_length(trainer: Any) -> Iterator[None]:
    """Answers that do not end before they must."""
    config = getattr(trainer, "generation_config", None)
    if config is None:
        yield
        return
    before, config.min_new_tokens = config.min_new_tokens, config.max_new_tokens
    try:
        yield
    finally:
        config.min_new_tokens = before


@contextmanager
def _undone(trainer: Any) -> Iterator[None]:
    """Weights, optimiser, random states, counters and metrics as before."""
    state, chances = trainer.whole_state(), random_state()
    seen = trainer.state.num_input_tokens_seen
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    weights = [p.detach().to("cpu", copy=True) for p in trained]
    scaler = trainer.accelerator.scaler
    scale = scaler.state_dict() if scaler is not None else None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weight in zip(trained, weights, strict=True):
                parameter.copy_(weight)
                parameter.grad = None
        trainer.optimizer.state.clear()
        if scaler is not None:
            scaler.load_state_dict(scale)
        if hasattr(trainer, "_step"):
            trainer._buffered_inputs = None
        trainer.set_whole_state(state)
        trainer.state.num_input_tokens_seen = seen
        trainer._micro_batches.clear()
        set_random_state(chances)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
