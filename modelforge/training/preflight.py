"""Seconds before hours: what would spoil a run is looked for before its first step."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from rich.text import Text

from modelforge.common.console import headline, say, show_line
from modelforge.errors import ModelError, Problem, RunError
from modelforge.models.lora import starts_as_base

if TYPE_CHECKING:
    from modelforge.training.prepare import Prepared

# Bytes of optimiser state that a trained parameter costs in a checkpoint: two float32 moments.
_MOMENTS = 8
# Beside weights and optimiser: tokenizer, metrics, curves, the report.
_REST = 64 * 2**20


def preflight(prepared: Prepared, trainer: Any) -> None:
    """Look at trainable share, disk, untrained adapter, and one row as it is trained on.

    Raises:
        RunError: If the disk cannot hold what the run writes.
        ModelError: If the model answers otherwise with its untrained adapter than without.
    """
    headline("Preflight")
    model = trainer.accelerator.unwrap_model(trainer.model)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"training {trained:,} of {total:,} stored parameters ({trained / total:.2%})")
    enough_disk(prepared, model)
    fresh = prepared.source.adapter is None and prepared.checkpoint is None
    sharded = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    if (
        fresh
        and not sharded
        and prepared.config.settings.lora_r
        and starts_as_base(prepared.config.settings)
        and prepared.strategy.head == "causal-lm"
    ):
        same_as_base(prepared, model)
    show_row(prepared)


def enough_disk(prepared: Prepared, model: Any) -> None:
    """See that the checkpoints and the model fit on the disk.

    Raises:
        RunError: If they do not.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() * p.element_size() for p in trained)
    checkpoint = weights + _MOMENTS * sum(p.numel() for p in trained)
    # One more than are kept: the newest is written before the oldest is deleted.
    kept = 0 if prepared.args.save_strategy == "no" else prepared.args.save_total_limit or 10
    count = kept + 1
    needed = count * checkpoint + weights + _REST
    free = shutil.disk_usage(prepared.run.path).free
    say(f"disk: the run needs up to {needed / 2**30:.2f} GiB of {free / 2**30:.1f} GiB free")
    if free < needed:
        what = f"has {free / 2**30:.2f} GiB free, and the run needs up to {needed / 2**30:.2f} GiB"
        fix = "free some space, set another output_dir, or lower save_total_limit"
        raise RunError(Problem(str(prepared.run.path), what, fix))


def same_as_base(prepared: Prepared, model: Any) -> None:
    """See that the untrained adapter changes nothing: it is there, and starts at zero.

    Raises:
        ModelError: If it does not.
    """
    from modelforge.evaluation.samples import answer, undisturbed

    rows = prepared.data.train.select([0])
    with undisturbed(model):
        limit = prepared.config.settings.max_seq_length
        ask: dict[str, Any] = {"limit": limit, "new_tokens": 8}
        ask["template_kwargs"] = prepared.data.template_kwargs
        with_adapter = answer(model, prepared.tokenizer, rows, **ask)
        with model.disable_adapter():
            without = answer(model, prepared.tokenizer, rows, **ask)
    if with_adapter != without:
        raise ModelError(
            Problem(
                prepared.source.base,
                f"answers {with_adapter[0]['completion']!r} with its untrained adapter and "
                f"{without[0]['completion']!r} without",
                "the adapter does not fit this model: set lora_target_modules, or another provider",
            )
        )
    say("the untrained adapter gives the same answers as the base")


def show_row(prepared: Prepared) -> None:
    """The first row, what is trained on in green."""
    from modelforge.data import preview

    limit = prepared.strategy.max_row_tokens(prepared.config)
    row = prepared.data.train_tokens[0]
    segments = preview(row, tokenizer=prepared.tokenizer, max_length=limit)
    line = Text("row 1: ")
    for segment in segments:
        line.append(segment.text, style="green" if segment.trained else "dim")
    show_line(line)
    learned = "".join(segment.text for segment in segments if segment.trained)
    if prepared.strategy.data_kind != "prompt":
        say(f"the model is trained on this part: {learned[:200]!r}")
