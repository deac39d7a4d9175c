"""A strategy on a trainer of its own: all of it is this class.

    python examples/04_orpo.py

What each hook is for, in the order a run asks them, stands in docs/architecture.md.
"""

from pathlib import Path
from typing import Any

import modelforge
from modelforge import Config, Measure, Strategy
from modelforge.strategy import STAND_IN_ID, STAND_IN_WORD, LongestBatch

TINY = Path(__file__).parent / "tiny"


@modelforge.register_strategy
class ORPO(Strategy):
    """ORPO (Hong et al. 2024): learn the chosen answer, and make the rejected one less likely."""

    name = "orpo"
    summary = "odds ratio preference optimisation, in one stage from a base (LoRA)"
    data_kind = "preference"
    defaults = {
        "learning_rate": (8e-6, "the paper's"),
        "num_train_epochs": (1, "a pass over the pairs is usual"),
    }
    measure = Measure("eval_rewards/accuracies", "held-out pair accuracy", higher_is_better=True)

    @classmethod
    def trl_config_class(cls) -> type:
        from trl.experimental.orpo import ORPOConfig

        return ORPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl.experimental.orpo import ORPOTrainer

        return ORPOTrainer

    def arguments(self, config: Config) -> dict[str, Any]:
        return {"max_length": config.settings.max_seq_length}

    def longest_batch(self, config: Config, args: Any) -> LongestBatch:
        count, length = args.per_device_train_batch_size, config.settings.max_seq_length
        ids, word = [STAND_IN_ID] * length, STAND_IN_WORD
        side = {"input_ids": ids, "labels": ids, "attention_mask": [1] * length}
        row = {f"{name}_{k}": v for name in ("chosen", "rejected") for k, v in side.items()}
        texts = [{"prompt": word, "chosen": word, "rejected": word}]
        return LongestBatch([row] * count, tokens=2 * count * length, dataset=texts)


if __name__ == "__main__":
    files = {"dataset": "preference_train", "eval_dataset": "preference_eval"}
    values = {key: str(TINY / "data" / f"{name}.jsonl") for key, name in files.items()}
    values |= {"strategy": "orpo", "model_name": str(TINY / "model"), "learning_rate": 1e-3}
    print(modelforge.train(values, overrides=["max_steps=10", "max_seq_length=128"]).after)
