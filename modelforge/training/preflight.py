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
# Tokens of a row that are looked at, and how far a logit may differ, in deviations of all.
_GLANCE, _NOISE_32, _NOISE_16 = 64, 1e-3, 0.25


def preflight(prepared: Prepared, trainer: Any) -> None:
    """Look at trainable share, disk, untrained adapter, and one row as it is trained on.

    Raises:
        RunError: If the disk cannot hold what the run writes.
        ModelError: If the model answers otherwise with its untrained adapter than without, or
            holds weights that are no numbers.
    """
    headline("Preflight")
    model = trainer.accelerator.unwrap_model(trainer.model)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    say(f"training {trained:,} of {total:,} stored parameters ({trained / total:.2%})")
    enough_disk(prepared, model)
    all_are_numbers(prepared, model)
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
    together = prepared.config.get("padding_free") or prepared.config.get("packing")
    if together and prepared.config.get("packing_strategy") != "wrapped" and not sharded:
        rows_stay_apart(prepared, trainer, model)
    if not prepared.strategy.generates:
        say_step(prepared, trainer)
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


def all_are_numbers(prepared: Prepared, model: Any) -> None:
    """See that no weight is NaN or infinite: each answer and each loss would be.

    Raises:
        ModelError: If one is.
    """
    import torch

    for name, weight in model.named_parameters():
        weight = weight.detach()
        if not weight.is_floating_point() or weight.sum(dtype=torch.float32).isfinite():
            continue  # a sum is no number if one of its numbers is none
        if not bool(weight.isfinite().all()):
            what = f"{name} holds values that are no numbers (NaN or infinite)"
            raise ModelError(Problem(prepared.source.base, what, "copy the model's files again"))


def same_as_base(prepared: Prepared, model: Any) -> None:
    """See that the untrained adapter changes nothing: it is there, and starts at zero.

    Raises:
        ModelError: If it does not.
    """
    import torch

    from modelforge.evaluation.samples import answer, undisturbed

    # Most start at zero to the bit: one pass each shows that. Answers take a pass for each token.
    first = prepared.data.train_tokens[0].ids[0][:_GLANCE].tolist()
    ids = torch.tensor([first], device=model.device)
    with undisturbed(model):
        logits = model(input_ids=ids).logits
        with model.disable_adapter():
            same = torch.equal(logits, model(input_ids=ids).logits)
        if not same:
            limit = prepared.config.settings.max_seq_length
            ask: dict[str, Any] = {"limit": limit, "new_tokens": 8}
            ask["template_kwargs"] = prepared.data.template_kwargs
            rows = prepared.data.train.select([0])
            with_adapter = answer(model, prepared.tokenizer, rows, **ask)
            with model.disable_adapter():
                without = answer(model, prepared.tokenizer, rows, **ask)
            same = with_adapter == without
    if not same:
        raise ModelError(
            Problem(
                prepared.source.base,
                f"answers {with_adapter[0]['completion']!r} with its untrained adapter and "
                f"{without[0]['completion']!r} without",
                "the adapter does not fit this model: set lora_target_modules, or another provider",
            )
        )
    say("the untrained adapter gives the same answers as the base")


def rows_stay_apart(prepared: Prepared, trainer: Any, model: Any) -> None:
    """See that rows that share a sequence get the logits that they get alone.

    Raises:
        ModelError: If they do not.
    """
    import torch

    from modelforge.evaluation.samples import undisturbed

    few = [row.ids[0][:_GLANCE] for row in prepared.data.train_tokens[:2]]
    device = next(model.parameters()).device

    def logits(rows: list[Any]) -> torch.Tensor:
        batch = trainer.data_collator([{"input_ids": ids, "labels": ids} for ids in rows])
        batch.pop("labels")
        placed = {k: v.to(device) if hasattr(v, "to") else v for k, v in batch.items()}
        return model(**placed, use_cache=False).logits[0].float()

    with torch.no_grad(), undisturbed(model), trainer.compute_loss_context_manager():
        apart = torch.cat([logits([ids]) for ids in few])
        difference = float((logits(few) - apart).abs().max() / apart.std())
    rough = prepared.args.bf16 or prepared.args.fp16 or model.dtype != torch.float32
    if difference > (_NOISE_16 if rough else _NOISE_32):
        what = f"mixes rows that share a sequence: a logit differs by {difference:.2g} deviations"
        fix = "set packing and padding_free to false"
        raise ModelError(Problem(prepared.source.base, what, fix))
    say("rows that share a sequence get the logits that they get alone")


def say_step(prepared: Prepared, trainer: Any) -> None:
    """How many rows and tokens a step learns from, and in how many passes."""
    args, tokens = prepared.args, prepared.data.ledger.tokens
    passes = args.gradient_accumulation_steps
    batches = args.per_device_train_batch_size * passes * args.world_size
    count = len(prepared.data.train)
    packed = len(trainer.train_dataset) if prepared.config.get("packing") else count
    rows = batches * count / packed
    about = f"about {rows:.0f}" if packed != count else f"{rows:.0f}"
    in_all = rows * tokens["total"] / count
    each = f"{passes} passes" if passes > 1 else "one pass"
    say(f"a step learns from {about} rows, some {in_all:,.0f} tokens, in {each}")


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
