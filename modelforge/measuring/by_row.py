"""Evaluation row by row: its figures do not depend on the evaluation batch.

transformers weighs each batch alike, whatever tokens it holds, and repeats the last one; TRL
averages its metrics over batches. Here each row (or pair, or prompt with its answers) is measured
as if it were alone in its batch and in its process, by TRL's own code. The figures of all rows are
weighted means of theirs. The forward pass is one for a whole batch where that changes no figure: in
32 bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from accelerate.utils import gather_object
from pyarrow.compute import list_value_length
from transformers import Trainer

from modelforge.checkpointing.randomness import random_state_kept
from modelforge.measuring.alone import Alone
from modelforge.measuring.greedy import beside
from modelforge.measuring.one_forward import OneForward, RowsToo
from modelforge.measuring.rows import HeldOutRow, by_sign, ties_half, together

#: What of transformers' and TRL's private parts `ByRow` overrides, with the parameters they are
#: called with. A release that changes one fails the contract test, not a run.
HOOKS = {"_get_eval_sampler": ["eval_dataset"]}


class ByRow(Trainer):
    """Mixed into a trainer of TRL, in front of it."""

    # What transformers leaves optional and is always there, and what is TRL's.
    args: Any
    model: Any
    accelerator: Any
    _metrics: Any

    #: The rows of the latest evaluation, in the order of the data.
    held_out: list[HeldOutRow] = []
    _batches: list[list[HeldOutRow]]

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> Any:
        """Evaluate, and keep the figures of each row. Training is not disturbed."""
        self._batches = []
        with random_state_kept(), self._plain_loss():
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
            greedy = self._greedy(dataloader.dataset)
        found = self._rows_of_all(len(dataloader.dataset))
        places = zip(self._order(dataloader.dataset), found, strict=True)
        ordered = [row for _, row in sorted(places, key=lambda place: place[0])]
        self.held_out = beside(ordered, greedy)
        figures = together(self.held_out)
        assert output.metrics is not None, "transformers fills them"
        output.metrics[f"{metric_key_prefix}_loss"] = figures.pop("loss", math.nan)
        metrics = self._eval_metrics()
        for name, value in figures.items():
            metrics[name] = [value]  # TRL logs the mean of what stands here
        return output

    def _greedy(self, dataset: Any) -> list[float]:
        """The rewards of the likeliest answers to the first prompts; none of what answers none."""
        return []

    @contextmanager
    def _plain_loss(self) -> Iterator[None]:
        """Within it, sft's loss is that of the data: smoothed labels and DFT's weights are not."""
        asked = self.label_smoother, getattr(self.args, "loss_type", None)
        self.label_smoother = None
        if asked[1] == "dft":
            self.args.loss_type = "nll"
        try:
            yield
        finally:
            self.label_smoother = asked[0]
            if asked[1] == "dft":
                self.args.loss_type = "dft"

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As ever, and each batch beside its rows alone."""
        with self._rows_too(), self._no_row_dropped():
            return super().get_eval_dataloader(eval_dataset)

    @contextmanager
    def _no_row_dropped(self) -> Iterator[None]:
        """Within it, ``dataloader_drop_last`` is off: it would take held-out rows away too."""
        asked, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = asked

    @contextmanager
    def _rows_too(self) -> Iterator[None]:
        """Within it, what is collated for an evaluation is padded, and holds its rows alone too."""
        collator: Any = self.data_collator
        padded = replace(collator, padding_free=False) if _flattens(collator) else collator
        self.data_collator = RowsToo(padded)
        try:
            yield
        finally:
            self.data_collator = collator

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return self._order(eval_dataset)

    def _order(self, dataset: Any) -> list[int]:
        """The longest first: rows of a batch are alike, and what does not fit shows at once."""
        return longest_first(dataset)

    def prediction_step(
        self,
        model: Any,
        inputs: Any,
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Evaluate each row of a batch as TRL does, and keep its figures."""
        trainer: Any = super()
        forward = self._forward_of(
            inputs, lambda batch: trainer.prediction_step(model, batch, True)
        )
        rows, count = [], len(inputs["rows"])
        for i, row in enumerate(inputs["rows"]):
            with forward.of_row(i, count):
                found, alone = self._measured(model, row, _tokens(row), prediction_loss_only)
            rows.append(alone)
        self._batches.append(rows)
        return found

    def _forward_of(self, inputs: Any, run: Any) -> OneForward:
        """The forward passes of a batch, made once where no figure depends on that.

        Args:
            inputs: As `RowsToo` gives them.
            run: What makes them.
        """
        models = [self.accelerator.unwrap_model(self.model), getattr(self, "ref_model", None)]
        forward = OneForward([model for model in models if model is not None])
        if len(inputs["rows"]) > 1 and self._exact():
            with forward.recording(), self._alone():
                run(inputs["batch"])
        return forward

    def _exact(self) -> bool:
        """Whether a row comes out of a batch as it does alone: in 32 bits, to their noise.

        In 16 bits a logit differs by its batch in the third digit. So it does in 8 bits, whose
        scale is the batch's.
        """
        precise = (torch.float32, torch.float64, torch.uint8)  # 4-bit weights, two in a byte
        return (
            self.accelerator.mixed_precision == "no"
            and not (self.args.tf32 or self.args.torch_compile)
            and all(parameter.dtype in precise for parameter in self.model.parameters())
        )

    def _measured(
        self, model: Any, inputs: Any, weight: float, prediction_loss_only: bool
    ) -> tuple[tuple[Any, Any, Any], HeldOutRow]:
        metrics = self._eval_metrics()
        metrics.clear()
        with self._alone():
            found = super().prediction_step(model, inputs, prediction_loss_only)
        figures = {name: sum(values) / len(values) for name, values in metrics.items() if values}
        metrics.clear()
        figures.pop("num_tokens", None)  # a counter of training
        figures = {"loss": float(found[0]), **figures} if found[0] is not None else figures
        return found, HeldOutRow(weight, by_sign(ties_half(figures)))

    def _eval_metrics(self) -> Any:
        """Where TRL gathers the metrics of an evaluation; nothing for a trainer that does not."""
        return getattr(self, "_metrics", {}).get("eval", {})

    def _rows_of_all(self, count: int) -> list[HeldOutRow]:
        """The rows of all processes in the order of the data, without those given twice.

        Batches go round the processes in turn. The last ones are filled up from the beginning.
        """
        everyone = gather_object([self._batches])
        rows = [row for parts in zip(*everyone, strict=True) for batch in parts for row in batch]
        return rows[:count]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Within it, this process knows of no other one: a figure is its own row's alone."""
        self.accelerator = Alone(self.accelerator)
        try:
            yield
        finally:
            self.accelerator = self.accelerator.whole

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Of held-out rows as they are measured, so that they are those of the start (DPO, KTO)."""
        trainer: Any = super()
        if name == "train":
            return trainer._precompute_ref_logps(dataset, name, batch_size)
        order, size = self._order(dataset), self.args.per_device_eval_batch_size
        with self._rows_too():
            found = trainer._precompute_ref_logps(dataset.select(order), name, size)
        return found.select(sorted(range(len(order)), key=order.__getitem__))

    def compute_ref_log_probs(self, model: Any, inputs: Any) -> Any:
        """Theirs, of a batch; of held-out rows each one's."""
        trainer: Any = super()
        if "rows" not in inputs:
            return trainer.compute_ref_log_probs(model, inputs)
        forward = self._forward_of(inputs, lambda b: trainer.compute_ref_log_probs(model, b))
        found = []
        for i, row in enumerate(inputs["rows"]):
            with forward.of_row(i, len(inputs["rows"])):
                found.append(trainer.compute_ref_log_probs(model, row))
        sides = zip(*found, strict=True)
        return tuple(None if side[0] is None else torch.cat(side) for side in sides)  # kto's KL


def _tokens(inputs: Any) -> float:
    """The tokens that a row's loss is the mean over; 1 where it is of a pair."""
    labels = inputs.get("labels")
    return 1.0 if labels is None else float((labels[..., 1:] != -100).sum())


def longest_first(dataset: Any) -> list[int]:
    """The places of a set's rows by their tokens; as they are where it is not tokenised.

    Args:
        dataset: A set whose columns of token ids end in ``ids``.
    """
    places = list(range(len(dataset)))
    names = [name for name in getattr(dataset, "column_names", ()) if name.endswith("ids")]
    if not names:
        return places
    table = dataset.with_format("arrow")[:]
    lengths = [list_value_length(table[name]).to_pylist() for name in names]
    return sorted(places, key=lambda place: -sum(each[place] for each in lengths))


def _flattens(collator: Any) -> bool:
    """Whether it puts the rows of a batch one after the other, as TRL's for packed rows."""
    return bool(getattr(collator, "padding_free", False))
