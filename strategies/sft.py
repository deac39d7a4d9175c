"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelforge.config import Choice, Config, Settings
from modelforge.errors import Problem
from modelforge.models.rates import sft_rate
from modelforge.strategy import STAND_IN_ID, LongestBatch, Measure, Parts, Strategy

if TYPE_CHECKING:
    from modelforge.data import LongRows


class SFTSettings(Settings):
    """What supervised fine-tuning adds to ModelForge's keys."""

    train_on: Annotated[
        Literal["all", "last", "everything"],
        Field(
            description="What of a row is trained on: all assistant turns, the last one alone, or "
            "everything, prompts too."
        ),
    ] = "all"


class SFT(Strategy):
    """Next-token prediction on the completion; the prompt is masked."""

    name = "sft"
    summary = "supervised fine-tuning on demonstrations (LoRA)"
    data_kind = "demonstration"
    settings = SFTSettings
    defaults = {
        "num_train_epochs": (3, "usual for a few thousand demonstrations"),
        "warmup_ratio": (0.03, "a short warm-up steadies the first steps"),
        "lr_scheduler_type": ("cosine", "decays to nothing at the end of the run"),
    }
    measure = Measure("eval_loss", "held-out loss", higher_is_better=False)
    ranks = (16, 64)
    padding_free = True
    unsloth = (True, "its SFTTrainer takes our tokens and labels as they are")

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import SFTConfig

        return SFTConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import SFTTrainer

        return SFTTrainer

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return sft_rate(model_type, weights)

    def check(self, config: Config) -> Iterable[Problem]:
        """What of TRL's keys the rows, which are tokenised here, leave without effect."""
        yield from super().check(config)
        said = config.said
        if said.get("completion_only_loss") is False or said.get("assistant_only_loss") is not None:
            what = "has no effect: train_on says what of a row is trained on"
            fix = "remove it, and set train_on to all, last or everything"
            key = next(k for k in ("completion_only_loss", "assistant_only_loss") if k in said)
            yield Problem(f"{config.name}: {key}", what, fix)

        if said.get("eval_packing"):
            what = "has no effect: held-out rows are measured themselves, each with its own figure"
            yield Problem(f"{config.name}: eval_packing", what, "remove it")

    def arguments(self, config: Config) -> dict[str, Any]:
        # Rows are cut as they are tokenised; TRL wants to be told so where nothing is padded.
        whole = config.get("padding_free") and not config.get("packing")
        length = None if whole else config.settings.max_seq_length
        return {"max_length": length, "eval_packing": False}

    def datasets(self, parts: Parts) -> Any:
        return self.tokenised(parts)

    def figures(self, config: Config) -> Collection[str]:
        return ("loss", "entropy", "mean_token_accuracy", "aux_loss")

    def long_rows(self, config: Config, *, held_out: bool = False) -> LongRows:
        packed = config.get("packing") and not held_out
        return "split" if packed and config.get("packing_strategy") != "bfd" else "cut"

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        choices = dict(super().derived_defaults(config))
        if config.get("packing") and not config.given("packing_strategy"):
            why = "longer rows are split over blocks; TRL's bfd throws away what is beyond one"
            choices["packing_strategy"] = Choice("bfd_split", "default", why)
        return choices

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """Rows of the full length, all of it supervised; packed rows hold many documents."""
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        row = {"input_ids": [STAND_IN_ID] * length, "labels": [STAND_IN_ID] * length}
        rows, padded = [row] * count, count > 1 or args.packing
        if args.packing:
            rows = [{**row, "seq_lengths": [length]}] * count
            # What is here is one packed row already.
            args.dataset_kwargs = {"skip_prepare_dataset": True}
        if config.settings.attn_implementation.startswith(("flash", "sdpa_by_row")):
            # As sdpa without a mask: rows of the full length, one after the other or side by side.
            args.padding_free, args.packing, padded = False, False, False
            rows = [row] * count
        return LongestBatch(rows, tokens=count * length, padded=padded)
