"""Supervised fine-tuning on demonstrations."""

from __future__ import annotations

from typing import Any

from modelforge.config import Config
from modelforge.strategy import Measure, Parts, Strategy


class SFT(Strategy):
    """Next-token prediction on the completion; the prompt is masked."""

    name = "sft"
    summary = "supervised fine-tuning on demonstrations (LoRA)"
    data_kind = "demonstration"
    defaults = {
        "learning_rate": (2e-4, "usual for LoRA fine-tuning"),
        "num_train_epochs": (3, "usual for a few thousand demonstrations"),
        "warmup_ratio": (0.03, "a short warm-up steadies the first steps"),
        "lr_scheduler_type": ("cosine", "decays to nothing at the end of the run"),
    }
    measure = Measure("eval_loss", "held-out loss", higher_is_better=False)

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import SFTConfig

        return SFTConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import SFTTrainer

        return SFTTrainer

    def arguments(self, config: Config) -> dict[str, Any]:
        # Rows are cut as they are tokenised; TRL wants to be told so where nothing is padded.
        whole = config.get("padding_free") and not config.get("packing")
        return {"max_length": None if whole else config.settings.max_seq_length}

    def datasets(self, parts: Parts) -> Any:
        # Packing cuts sequences itself.
        length = None if parts.args.packing else parts.config.settings.max_seq_length
        return self.tokenised(parts, train_length=length)
