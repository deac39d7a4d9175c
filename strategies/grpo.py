"""Group relative policy optimisation: rewards that can be computed."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Mapping
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from modelforge.common.console import warn
from modelforge.common.paths import LocalText
from modelforge.config import Choice, Config
from modelforge.errors import ConfigError, Problem
from modelforge.machine.launch import processes_of
from modelforge.models.rates import GROUP_RATES
from modelforge.strategies.rewarded import Rewarded, RewardedSettings
from modelforge.strategy import Parts

if TYPE_CHECKING:
    from datasets import Dataset

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


Tool = Annotated[LocalText, Field(min_length=1)]


class GRPOSettings(GroupSettings):
    """What GRPO adds: tools that the policy may call, and environments that it acts in."""

    tools: Annotated[
        Tool | Annotated[list[Tool], Field(min_length=1)] | None,
        Field(
            description="The functions that the policy may call: file.py (all of it), "
            "file.py:function or module:function, or a list of these."
        ),
    ] = None
    environment: Annotated[
        LocalText | None,
        Field(
            description="The class that each answer acts in, file.py:Class or module:Class: its "
            "methods are tools, and it may reward.",
            min_length=1,
        ),
    ] = None
    dynamic_sampling: Annotated[
        int,
        Field(
            description="How many times a rollout draws its groups of answers that all score alike "
            "anew, from other prompts; each time costs a generation of these groups.",
            ge=0,
        ),
    ] = 0


class GRPO(Rewarded):
    """GRPO (Shao et al. 2024): each completion against the others of its prompt."""

    name = "grpo"
    summary = "reinforcement learning from verifiable or learned rewards (LoRA)"
    settings = GRPOSettings
    defaults = {
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
        from modelforge.rewards.refill import refilling

        return refilling(carrying(GRPOTrainer))

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return GROUP_RATES.rate(weights)

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        yield from self._unusable_tools(config)
        micro, accumulation = "per_device_train_batch_size", "gradient_accumulation_steps"
        said = [key for key in (micro, accumulation) if config.given(key)]
        processes, group = processes_of(config), self.group(config)
        if not config.given("prompts_per_step"):
            others = any(map(config.given, ("steps_per_generation", "generation_batch_size")))
            rows = config.micro_batch * processes
            if len(said) == 2 and not others and rows * config.get(accumulation) % group:
                what = (
                    f"times {micro} {config.micro_batch} makes no whole groups of {group} answers"
                )
                fix = f"set a multiple of {group // gcd(group, rows)}, or leave it out"
                yield Problem(f"{config.name}: {accumulation}", what, fix)
            return
        of_one = processes
        for key in said:
            of_one *= config.get(key)
        rows = config.get("prompts_per_step") * group
        if rows == of_one if len(said) == 2 else rows % of_one == 0:
            return
        wanted = f"{config.get('prompts_per_step')} × {group} answers"
        factors = [f"{key} {config.get(key)}" for key in said]
        factors += [f"{processes} processes"] if processes > 1 else []
        what = f"says {wanted} a step, and {' × '.join(factors)} do not make them up"
        least = processes // gcd(processes, group)
        fix = f"leave {' and '.join(said)} out" if said else f"set a multiple of {least}"
        yield Problem(f"{config.name}: prompts_per_step", what, fix)

    def _unusable_tools(self, config: Config) -> Iterable[Problem]:
        from modelforge.rewards.tools import environment_problems, tool_problems

        where, names, environment = config.name, tools_of(config), config.get("environment")
        yield from tool_problems(names, f"{where}: tools", config.base_dir)
        if environment:
            yield from environment_problems(environment, f"{where}: environment", config.base_dir)
        if config.given("max_tool_calling_iterations") and not (names or environment):
            fix = "remove it, or set tools or environment"
            yield Problem(
                f"{where}: max_tool_calling_iterations", "has no effect: nothing can be called", fix
            )
        if config.get("dynamic_sampling") and (names or environment):
            what = "draws answers anew, and what tools or an environment did cannot be undone"
            yield Problem(f"{where}: dynamic_sampling", what, "remove it")

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        from modelforge.data.carried import is_special
        from modelforge.rewards.of_a_run import parse
        from modelforge.rewards.tools import owns_reward

        environment = config.get("environment")
        if (tools_of(config) or environment) and any(map(is_special, rows["prompt"])):
            key = "environment" if environment else "tools"
            what = (
                "is set, and rows of the data have functions of their own, which nobody could call"
            )
            raise ConfigError(Problem(f"{config.name}: {key}", what, "remove the column tools"))
        found = parse(config)
        others = self.functions or found["rewards"] or found["reward_model"]
        if environment and not others and owns_reward(environment, config.base_dir):
            return {}
        return super().check_data(config, rows)

    def figures(self, config: Config) -> Collection[str]:
        return () if tools_of(config) or config.get("environment") else super().figures(config)

    def trainer_arguments(self, parts: Parts) -> dict[str, Any]:
        """With the tools and the environment, of which the user's files are run."""
        given, config = super().trainer_arguments(parts), parts.config
        names, environment = tools_of(config), config.get("environment")
        if not (names or environment):
            return given
        from modelforge.rewards.calls import make_readable
        from modelforge.rewards.tools import load_environment, load_tools

        known = inspect.signature(self.trl_trainer_class().__init__).parameters
        for key, theirs in (("tools", names and "tools"),
                            ("environment", environment and "environment_factory")):  # fmt: skip
            if theirs and theirs not in known:
                import trl

                what = f"TRL {trl.__version__} has no {theirs} in its {self.name} trainer"
                raise ConfigError(Problem(f"{config.name}: {key}", what, "pip install -U trl"))
        arguments = config.settings.chat_template_kwargs
        make_readable(parts.tokenizer, f"{config.name}: chat_template", arguments)
        if names:
            given["tools"] = load_tools(names, config.base_dir)
        if environment:
            given["environment_factory"] = load_environment(environment, config.base_dir)
        return given

    def build_args(self, config: Config, *, output_dir: Path, device: Mapping[str, Any]) -> Any:
        args = super().build_args(config, output_dir=output_dir, device=device)
        rows = args.per_device_train_batch_size * args.steps_per_generation
        if config.get("dynamic_sampling") and rows % args.num_generations:
            what = f"draws whole groups anew, and each process has {rows} answers of a rollout"
            fix = f"set prompts_per_step so that they are a multiple of {args.num_generations}"
            raise ConfigError(Problem(f"{config.name}: dynamic_sampling", what, fix))
        return args

    def build_trainer(self, parts: Parts, *, callbacks: list[Any], **arguments: Any) -> Any:
        trainer: Any = super().build_trainer(parts, callbacks=callbacks, **arguments)
        if rounds := parts.config.get("dynamic_sampling"):
            trainer.rounds = rounds
        return trainer

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


def tools_of(config: Config) -> list[str]:
    """The sources of the tools that a config names."""
    said = config.get("tools") or []
    return [said] if isinstance(said, str) else list(said)
