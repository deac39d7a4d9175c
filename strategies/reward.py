"""A reward model from preference pairs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from modelforge.config import Config
from modelforge.models.rates import REWARD_RATES
from modelforge.strategy import STAND_IN_ID, LongestBatch, Measure, Parts, Strategy


class Reward(Strategy):
    """Bradley-Terry: the chosen answer is to score above the rejected one."""

    name = "reward"
    summary = "reward model on preference pairs (LoRA and a score head)"
    data_kind = "preference"
    head = "reward"
    defaults = {
        "num_train_epochs": (1, "reward models overfit after one pass"),
        "warmup_ratio": (0.03, "a short warm-up steadies the fresh score head"),
        "center_rewards_coefficient": (0.01, "keeps scores near zero, comparable between runs"),
    }
    measure = Measure("eval_accuracy", "held-out pair accuracy", higher_is_better=True, chance=0.5)
    ignored = {"label_smoothing_factor": "remove it: there are no labels to smooth"}
    unsloth = (True, "a sequence classifier; that it has a score head is checked")

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import RewardConfig

        return RewardConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import RewardTrainer

        return RewardTrainer

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return REWARD_RATES.rate(weights)

    def arguments(self, config: Config) -> dict[str, Any]:
        return {"max_length": config.settings.max_seq_length}

    def datasets(self, parts: Parts) -> Any:
        return self.tokenised(parts)

    def figures(self, config: Config) -> Collection[str]:
        return ("loss", "accuracy", "margin", "min_reward", "mean_reward", "max_reward")

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """Pairs of the full length."""
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        ids = [STAND_IN_ID] * length
        row = {"chosen_ids": ids, "rejected_ids": ids}
        return LongestBatch([row] * count, tokens=2 * count * length)
