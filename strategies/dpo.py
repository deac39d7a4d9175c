"""Direct preference optimisation: preferences without a reward model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from modelforge.config import Config
from modelforge.errors import Problem
from modelforge.models.rates import PAIR_RATES
from modelforge.strategy import (
    STAND_IN_ID,
    STAND_IN_WORD,
    LongestBatch,
    Measure,
    Parts,
    Strategy,
)

_SIDES = ("chosen", "rejected")
_MICRO = "per_device_train_batch_size"


def losses_of(config: Config) -> list[str]:
    """The names of the losses that are added up."""
    said = config.get("loss_type") or "sigmoid"
    return [said] if isinstance(said, str) else list(said)


class DPO(Strategy):
    """DPO (Rafailov et al. 2023); the reference is the model with the adapter off."""

    name = "dpo"
    summary = "direct preference optimisation on preference pairs (LoRA)"
    data_kind = "preference"
    defaults = {
        "num_train_epochs": (1, "DPO overfits after one to two passes"),
        "warmup_ratio": (0.1, "usual for DPO"),
        "beta": (0.1, "the paper's trade between preference and closeness to the start"),
    }
    measure = Measure(
        "eval_rewards/accuracies",
        "held-out pairs preferred over the start",
        higher_is_better=True,
        chance=0.5,
    )
    unsloth = (True, "its DPOTrainer")
    ignored = {
        "label_smoothing_factor": "set label_smoothing",
        "dataset_num_proc": "remove it: the rows are tokenised when they are read",
        "padding_free": "remove it: TRL 1.14 to 1.16 has switched it off for pairs",
    }

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import DPOConfig

        return DPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        import trl

        class DPOTrainer(trl.DPOTrainer):
            """TRL's, which takes rows that are tokenised already as they are.

            TRL's own (1.14 to 1.16) maps every row from its text, by the model's own template.
            """

            def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
                if "prompt_ids" in (dataset.column_names or ()):
                    return dataset
                return super()._prepare_dataset(dataset, *args, **kwargs)

        return DPOTrainer

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return PAIR_RATES.rate(weights)

    def check(self, config: Config) -> Iterable[Problem]:
        """What TRL would say at the first step, or not at all."""
        yield from super().check(config)
        losses, weights = losses_of(config), config.get("loss_weights")
        where, smoothing = config.name, config.get("label_smoothing") or 0.0
        if weights is not None and len(weights) != len(losses):
            what = f"has {len(weights)} numbers for {len(losses)} losses"
            yield Problem(f"{where}: loss_weights", what, "give one for each of loss_type")
        if "robust" in losses and not 0 < smoothing < 0.5:
            what = f"is {smoothing:g}: the share of pairs that are labelled the wrong way round"
            fix = "set a share above 0 and below 0.5, or loss_type sigmoid"
            yield Problem(f"{where}: label_smoothing", what, fix)
        if "exo_pair" in losses and not 0 < smoothing < 1:
            what = f"is {smoothing:g}, and exo_pair takes its logarithm"
            yield Problem(f"{where}: label_smoothing", what, "set 0.001, as the paper does")
        if config.given(_MICRO) and config.micro_batch < self.least_micro_batch(config):
            what = "is 1: aot compares sorted rows of a micro-batch, and one row has no order"
            yield Problem(f"{where}: {_MICRO}", what, "set 2 or more, or loss_type sigmoid")

    def least_micro_batch(self, config: Config) -> int:
        return 2 if {"aot", "aot_unpaired"} & set(losses_of(config)) else 1

    def uses_reference(self, config: Config) -> bool:
        return True

    def arguments(self, config: Config) -> dict[str, Any]:
        return {"max_length": config.settings.max_seq_length}

    def datasets(self, parts: Parts) -> Any:
        # Its collator cuts pairs.
        return parts.data.tokenised(train_length=None, eval_length=None, prompt_apart=True)

    def figures(self, config: Config) -> Collection[str]:
        sides = [f"{name}/{side}" for name in ("rewards", "logps", "logits") for side in _SIDES]
        rewards = ("rewards/accuracies", "rewards/margins")
        return ("loss", *rewards, *sides, "entropy", "mean_token_accuracy", "aux_loss")

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """Pairs of the full length with a prompt of one token: the most to score."""
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        words = " ".join([STAND_IN_WORD] * 8)
        answer = [STAND_IN_ID] * (length - 1)
        row: dict[str, Any] = {"prompt_ids": [STAND_IN_ID]}
        row |= {"chosen_ids": answer, "rejected_ids": answer}
        if args.precompute_ref_log_probs:
            row |= {"ref_chosen_logps": 0.0, "ref_rejected_logps": 0.0}
        return LongestBatch(
            [row] * count,
            tokens=2 * count * length,
            dataset=[{"prompt": STAND_IN_WORD, "chosen": words, "rejected": words}],
            # TRL loads it a second time when all weights are trained.
            reference=config.settings.lora_r == 0 and not args.precompute_ref_log_probs,
        )
