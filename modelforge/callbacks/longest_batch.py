"""The longest batch is tried first: what does not fit the memory shows in the first minute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback


class LongestBatchFirst(TrainerCallback):
    """Tries the longest batch when training begins; not after a resume: then it has run.

    Args:
        trainer: A resumable one.
        generates: As its strategy says.
    """

    def __init__(self, trainer: Any, *, generates: bool) -> None:
        self.trainer, self.generates = trainer, generates

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """One step on the longest rows."""
        if self.trainer.resumed_from is None and self.trainer.can_undo:
            try_longest_batch(self.trainer, generates=self.generates)


def try_longest_batch(trainer: Any, *, generates: bool) -> None:
    """Do one step on the longest rows (forward, backward, optimiser), and take it back.

    Answers are sampled to their full length. Reward functions see them, once.

    Raises:
        torch.OutOfMemoryError: If that does not fit.
    """
    rows = longest_rows(trainer, generates=generates)
    inputs = rows if generates else trainer.data_collator(rows)
    with trainer.undone(), _full_length(trainer):
        trainer.single_step(inputs)


def longest_rows(trainer: Any, *, generates: bool) -> list[dict[str, Any]]:
    """As many of the longest training rows as a micro-batch holds, or a rollout."""
    dataset = trainer.train_dataset
    count = trainer.args.per_device_train_batch_size
    if generates:
        args = trainer.args  # distillation samples once a step, and has no key for it
        count *= getattr(args, "steps_per_generation", args.gradient_accumulation_steps)
    names = dataset.column_names
    keys = [name for name in names if name.endswith("_ids") and not generates]
    keys = keys or [name for name in names if name == "prompt"]
    sizes = _sizes(dataset.select_columns(keys)) if keys else [0] * len(dataset)
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])[:count]
    # Fewer rows than that: some twice, since the batch is no smaller for it.
    return [dataset[order[i % len(order)]] for i in range(count)]


def _sizes(dataset: Any) -> list[int]:
    """The size of each row, without a list of Python's numbers for each."""
    import pyarrow.compute

    if dataset.column_names == ["prompt"]:
        return [_size(row) for row in dataset]
    sizes: list[int] = []
    for table in dataset.with_format("arrow").iter(10_000):
        names = table.column_names
        lengths = (pyarrow.compute.list_value_length(table[name]).to_pylist() for name in names)
        rows = (dict(zip(names, row, strict=True)) for row in zip(*lengths, strict=True))
        sizes.extend(map(_size, rows))
    return sizes


def _size(row: dict[str, Any]) -> int:
    """Tokens of a row as it is padded, from those of its columns; characters of a prompt."""
    if "prompt" in row:
        prompt = row["prompt"]
        return len(prompt) if isinstance(prompt, str) else sum(len(str(m)) for m in prompt)
    sides = dict(row)
    answers = [sides.pop(key) for key in list(sides) if key.startswith(("chosen_", "rejected_"))]
    return sum(sides.values()) + max(answers, default=0)


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
