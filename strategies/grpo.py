"""Group relative policy optimisation: rewards that can be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd
from typing import Annotated

from pydantic import Field

from modelforge.common.console import warn
from modelforge.config import Choice, Config
from modelforge.errors import Problem
from modelforge.machine.launch import processes_of
from modelforge.strategies.rewarded import Rewarded, RewardedSettings

FEW = 8  # prompts a step, below which a step learns from chance


class GroupSettings(RewardedSettings):
    """What learning from groups of answers adds to ModelForge's keys."""

    prompts_per_step: Annotated[
        int,
        Field(
            description="The number of prompts that a step learns from, each with num_generations "
            "answers; the plan fits the micro-batch beneath.",
            ge=1,
        ),
    ] = 16


class GRPO(Rewarded):
    """GRPO (Shao et al. 2024): each completion against the others of its prompt."""

    name = "grpo"
    summary = "reinforcement learning from verifiable or learned rewards (LoRA)"
    settings = GroupSettings
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

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        micro, accumulation = "per_device_train_batch_size", "gradient_accumulation_steps"
        said = [key for key in (micro, accumulation) if config.given(key)]
        if not config.given("prompts_per_step"):
            return
        processes = processes_of(config)
        of_one = processes
        for key in said:
            of_one *= config.get(key)
        rows = config.get("prompts_per_step") * self.group(config)
        if rows == of_one if len(said) == 2 else rows % of_one == 0:
            return
        wanted = f"{config.get('prompts_per_step')} × {self.group(config)} answers"
        factors = [f"{key} {config.get(key)}" for key in said]
        factors += [f"{processes} processes"] if processes > 1 else []
        what = f"says {wanted} a step, and {' × '.join(factors)} do not make them up"
        least = processes // gcd(processes, self.group(config))
        fix = f"leave {' and '.join(said)} out" if said else f"set a multiple of {least}"
        yield Problem(f"{config.name}: prompts_per_step", what, fix)

    def group(self, config: Config) -> int:
        return config.get("num_generations") or self.defaults["num_generations"][0]

    def rows_per_step(self, config: Config) -> tuple[int, str]:
        prompts, group = config.get("prompts_per_step"), self.group(config)
        return prompts * group, f"{prompts} prompts × {group} answers"

    def derived_defaults(self, config: Config) -> Mapping[str, Choice]:
        choices = dict(super().derived_defaults(config))
        group = self.group(config)
        if not config.given("per_device_eval_batch_size"):
            of_one = config.get("num_generations_eval") or group
            batch = choices["per_device_eval_batch_size"].value
            why = "whole groups, as near to a rollout as they come"
            batch = max(batch // of_one, 1) * of_one
            choices["per_device_eval_batch_size"] = Choice(batch, "default", why)
        rows = config.micro_batch * (config.get("gradient_accumulation_steps") or 1)
        rows *= processes_of(config)
        if rows % group == 0:
            prompts = rows // group
            why = f"{rows} answers a step, {group} to a prompt"
            choices["prompts_per_step"] = Choice(prompts, "default", why)
            if prompts < FEW:
                warn(
                    f"a step learns from {prompts} prompt{'s' * (prompts > 1)}: its direction is "
                    f"mostly chance; leave per_device_train_batch_size and "
                    f"gradient_accumulation_steps out, or set prompts_per_step to {FEW} or more"
                )
        return {k: c for k, c in choices.items() if not config.given(k)}
