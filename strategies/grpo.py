"""Group relative policy optimisation: rewards that can be computed."""

from __future__ import annotations

from collections.abc import Mapping

from modelforge.config import Choice, Config
from modelforge.strategies.rewarded import Rewarded


class GRPO(Rewarded):
    """GRPO (Shao et al. 2024): each completion against the others of its prompt."""

    name = "grpo"
    summary = "reinforcement learning from verifiable or learned rewards (LoRA)"
    defaults = {
        "learning_rate": (1e-5, "usual for GRPO with LoRA"),
        "num_train_epochs": (1, "each prompt is sampled several times a pass"),
        "num_generations": (8, "the paper samples 64; 8 is enough to rank and fits one card"),
        "beta": (0.0, "LoRA stays close to the start without a KL term"),
    }

    @classmethod
    def trl_config_class(cls) -> type:
        from trl import GRPOConfig

        return GRPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from trl import GRPOTrainer

        from modelforge.rewards.prompts import carrying

        return carrying(GRPOTrainer)

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        choices = dict(super().derived_defaults(config))
        if not config.given("per_device_eval_batch_size"):
            group = config.get("num_generations_eval") or config.get("num_generations") or 1
            # As many whole groups as fit into a training batch, and at least one.
            batch = max(config.micro_batch // group, 1) * group
            why = "whole groups, as near to the training batch as they come"
            choices["per_device_eval_batch_size"] = Choice(batch, "default", why)
        return choices
