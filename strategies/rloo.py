"""REINFORCE leave-one-out: rewards against the mean of the prompt's other answers."""

from __future__ import annotations

from modelforge.strategies.grpo import GRPO, GroupSettings


class RLOO(GRPO):
    """RLOO (Ahmadian et al. 2024): as GRPO, with the others' mean as baseline, KL in the reward."""

    name = "rloo"
    settings = GroupSettings  # TRL's trainer has no tools
    summary = "REINFORCE with a leave-one-out baseline, from rewards (LoRA)"
    defaults = {
        "num_train_epochs": (1, "each prompt is sampled several times a pass"),
        "num_generations": (8, "as grpo: the baseline is the mean of the other seven"),
        "beta": (0.05, "the paper's weight of the KL to the start"),
    }

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import RLOOConfig

        return RLOOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import RLOOTrainer

        from modelforge.rewards.prompts import carrying

        return carrying(RLOOTrainer)
