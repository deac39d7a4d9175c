"""Direct preference optimisation: preferences without a reward model."""

from __future__ import annotations

from typing import Any

from modelforge.config import Config
from modelforge.strategy import STAND_IN_ID, STAND_IN_WORD, LongestBatch, Measure, Strategy


class DPO(Strategy):
    """DPO (Rafailov et al. 2023); the reference is the model with the adapter off."""

    # TRL's DPOTrainer takes no rows that are tokenised already (1.14 to 1.16: `_prepare_dataset`
    # maps every row from its text). It encodes them again, to the tokens that were checked:
    # tests/test_data_tokens.py holds the two against each other.

    name = "dpo"
    summary = "direct preference optimisation on preference pairs (LoRA)"
    data_kind = "preference"
    defaults = {
        "learning_rate": (5e-6, "usual for DPO with LoRA"),
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
    ignored = {"label_smoothing_factor": "set label_smoothing"}

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import DPOConfig

        return DPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import DPOTrainer

        return DPOTrainer

    def arguments(self, config: Config) -> dict[str, Any]:
        return {"max_length": config.settings.max_seq_length}

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        """Pairs of the full length with a prompt of one token: the most to score."""
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        words = " ".join([STAND_IN_WORD] * 8)
        answer = [STAND_IN_ID] * (length - 1)
        row = {"prompt_ids": [STAND_IN_ID], "chosen_ids": answer, "rejected_ids": answer}
        return LongestBatch(
            [row] * count,
            tokens=2 * count * length,
            dataset=[{"prompt": STAND_IN_WORD, "chosen": words, "rejected": words}],
            # TRL loads it a second time when all weights are trained.
            reference=config.settings.lora_r == 0 and not args.precompute_ref_log_probs,
        )
