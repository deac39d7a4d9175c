"""Proximal policy optimisation against reward models and functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelforge.common.console import say
from modelforge.config import Choice, Config
from modelforge.errors import Problem
from modelforge.machine.launch import processes_of
from modelforge.models.rates import PPO_RATES
from modelforge.models.source import find_model
from modelforge.ppo.settings import TRL_NAMES, PPOSection
from modelforge.strategies.rewarded import Rewarded, RewardedSettings, lora_alone
from modelforge.strategy import Parts, Strategy

# Answers of a rollout. InstructGPT takes 512 in steps of 64, OpenRLHF 1,024 in steps of 128, verl
# 1,024 in steps of 256. This is a small one, for few prompts; with 16, the critic overshoots
# (benchmarks/results/rlhf_real.md).
ROLLOUT = 128
MICRO, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"

# What PPO measures in an evaluation beside TRL's.
_FIGURES = (
    *("reward/score", "reward/total", "kl/reference", "kl/reference_token", "kl/coef"),
    *("kl/old_policy", "policy/loss", "value/loss", "value/clip_fraction", "value/mean"),
    *("value/return", "completions/without_eos"),
)


class PPOSettings(RewardedSettings):
    """What ppo adds to ModelForge's keys."""

    ppo: Annotated[PPOSection, Field(description="KL, clipping, GAE, value and shaping.")] = (
        PPOSection()
    )


class PPO(Rewarded):
    """PPO (Schulman et al. 2017) as in RLHF (Ouyang et al. 2022), all roles on one LoRA base."""

    name = "ppo"
    summary = "proximal policy optimisation against reward models or functions (LoRA)"
    settings = PPOSettings
    defaults = {
        "num_train_epochs": (1, "each rollout is learned from several times"),
    }
    batch_rows = (64, "InstructGPT's minibatch; OpenRLHF takes 128, verl 256")
    # Dropout would make the policy that sampled another than the one that is updated.
    may_drop_out = False
    ignored = {**Rewarded.ignored, "scale_rewards": "set ppo.reward_normalization"}
    unsloth = (
        False,
        "its GRPO trainer computes the loss itself and never calls the one that PPO overrides",
    )

    @classmethod
    def trl_config_class(cls) -> type:
        from modelforge.ppo.config import PPOConfig

        return PPOConfig

    @classmethod
    def trl_trainer_class(cls) -> type:
        from modelforge.ppo.trainer import PPOTrainer
        from modelforge.rewards.prompts import carrying

        return carrying(PPOTrainer)

    def rollout(self, config: Config, prompts: int | None) -> Mapping[str, Choice]:
        """Whole steps that make up `ROLLOUT` answers, or as many as there are prompts for.

        Where the user says the rows of a step, a rollout is one step, as in TRL. Where they say
        the rollout, it is made of whole steps of at most as many rows as by default.
        """
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo
        if any(map(config.given, (MICRO, ACCUMULATION))):
            return {}
        at_once, passes = config.micro_batch * processes_of(config), config.get(ACCUMULATION) or 1
        said = section.rollout_size or config.get("generation_batch_size")
        said = said or at_once * (config.get("steps_per_generation") or 0)
        if said:
            return _whole_steps(config, said)
        most = ROLLOUT if prompts is None else min(ROLLOUT, prompts)
        choices = {}
        if most < at_once * passes:
            passes = max(most // at_once, 1)
            why = f"a step of {at_once * passes} rows: there are {prompts} prompts"
            choices[ACCUMULATION] = Choice(passes, "data", why)
        step = at_once * passes
        size = max(most // step, 1) * step
        times = section.ppo_epochs
        steps = "1 step" if size == step else f"{size // step} steps"
        why = f"a rollout of {size} answers: {steps} of {step}, {times} times over"
        values = section.model_copy(update={"rollout_size": size}).model_dump()
        return choices | {"ppo": Choice(values, "default", why)}

    def learning_rate(self, model_type: str, weights: float) -> tuple[float, str]:
        return PPO_RATES.rate(weights)

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        yield from lora_alone(config, "policy, reward and value share one base")
        assert isinstance(config.settings, PPOSettings)
        for key in type(config.settings.ppo).model_fields:
            theirs = TRL_NAMES.get(key, key)
            if config.given(theirs) and key in (config.said.get("ppo") or {}):
                fix = "keep one of the two"
                yield Problem(f"{config.name}: {theirs}", f"says the same as ppo.{key}", fix)
        if config.get("use_vllm") and self.algorithm(config) == "ppo":
            yield Problem(
                f"{config.name}: use_vllm",
                "PPO's value head and reward adapters are on the policy, and TRL would send them "
                "to vLLM as its weights",
                "set use_vllm to false, or train with grpo or rloo",
            )
        if config.settings.distributed.shards_weights:
            yield Problem(
                f"{config.name}: distributed.backend",
                "PPO switches adapters within a step, which sharded weights do not allow",
                "set ddp or zero2",
            )
        if config.settings.ppo.kl_target is not None and config.settings.ppo.kl_coef == 0:
            what = "steers ppo.kl_coef, and 0 stays 0 however it is steered"
            fix = "set ppo.kl_coef above 0, or remove it"
            yield Problem(f"{config.name}: ppo.kl_target", what, fix)
        if config.settings.lora_r == 0:
            yield Problem(
                f"{config.name}: lora_r",
                "0 trains all weights; the base is PPO's reference and cannot be trained",
                "set lora_r to 8 or more",
            )

    def uses_reference(self, config: Config) -> bool:
        return True  # the KL is measured where it costs nothing, too

    def figures(self, config: Config) -> Collection[str]:
        found = super().figures(config)
        return (*found, *_FIGURES) if found else ()

    def algorithm(self, config: Config) -> str:
        """What trains the policy."""
        return self.name

    def arguments(self, config: Config) -> dict[str, Any]:
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo.model_dump()
        if section["reference"] == "auto":
            # A policy that begins with an adapter is held to what it was with that adapter; and
            # the base cannot follow the policy.
            initial = section["ref_update_steps"] is not None or self.begins_adapted(config)
            section["reference"] = "initial" if initial else "base"
        if section["reward_normalization"] == "auto":
            alone = self._models_alone(config)
            section["reward_normalization"] = "reference" if alone else "none"
        if section["missing_eos_penalty"] == "auto":
            scaled = section["reward_normalization"] in ("reference", "standardize")
            section["missing_eos_penalty"] = 1.0 if scaled else None
        ours = {TRL_NAMES.get(key, key): value for key, value in section.items()}
        return {
            **super().arguments(config),
            **{key: value for key, value in ours.items() if not config.given(key)},
        }

    def _models_alone(self, config: Config) -> bool:
        """Whether reward models reward, and nothing else: the scale of their scores is chance."""
        from modelforge.rewards.of_a_run import is_model_name, names

        counted = [name for name, weight in names(config, self.functions) if weight]
        return all(map(is_model_name, counted))

    def begins_adapted(self, config: Config) -> bool:
        """Whether the policy begins with an adapter that was trained before."""
        source = find_model(
            config.settings.model_name,
            base_dir=config.base_dir,
            revision=None,
            where=f"{config.name}: model_name",
        )
        return source.adapter is not None

    def planned(self, config: Config, *, adapted: bool) -> tuple[Strategy, Config]:
        """With the reference decided, which `arguments` would look for weights for."""
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo
        if section.reference != "auto":
            return self, config
        initial = adapted or section.ref_update_steps is not None
        values = section.model_dump() | {"reference": "initial" if initial else "base"}
        return self, config.with_choices({"ppo": Choice(values, "plan")})

    def build_trainer(self, parts: Parts, *, callbacks: list[Any], **arguments: Any) -> Any:
        """The trainer; a critic with a pass of its own begins as the reward model, if it can."""
        from modelforge.rewards.shared_base import SharedBaseReward

        trainer: Any = super().build_trainer(parts, callbacks=callbacks, **arguments)
        weights = dict(zip(trainer.reward_func_names, parts.args.reward_weights, strict=True))
        shared = [f for f in self.scorers if isinstance(f, SharedBaseReward)]
        models = [f for f in shared if weights[f.__name__]]
        if not trainer.critic.apart:
            return trainer
        if len(models) != 1:
            say(
                f"the critic begins at zero: {len(models)} reward models are on its base, "
                "and it begins as one where that is alone"
            )
        elif trainer.critic.start_from(models[0].adapter, weights[models[0].__name__]):
            say("the critic begins as the reward model")
        else:
            say("the critic begins at zero: the reward model's adapter has another shape")
        return trainer

    def weigh(self, args: Any, rewards: Sequence[tuple[Callable[..., Any], float]]) -> None:
        super().weigh(args, rewards)
        if args.value_mode == "auto":
            args.value_mode = "frozen" if _one_on_the_base(rewards) else "trunk_detached"
        careful = args.reward_std_penalty or args.reward_aggregation == "worst"
        if careful and args.reward_ensemble is None:
            # The models estimate the same thing; functions beside them do not.
            from modelforge.rewards.of_a_run import is_model_name

            names = [function.__name__ for function, _ in rewards]
            args.reward_ensemble = [name for name in names if is_model_name(name)]


def _whole_steps(config: Config, rollout: int) -> dict[str, Choice]:
    """Micro-batch and accumulation of the largest step that makes up a rollout, within today's."""
    processes, micro = processes_of(config), config.micro_batch
    share, most = rollout // processes, micro * (config.get(ACCUMULATION) or 1)
    step = _divisor(share, most)
    if rollout % processes or step == most:
        return {}
    micro, why = _divisor(step, micro), f"a step of {step * processes} rows of {rollout} a rollout"
    return {
        MICRO: Choice(micro, "default", why),
        ACCUMULATION: Choice(step // micro, "default", why),
    }


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is no more than this."""
    return max((n for n in range(1, most + 1) if number % n == 0), default=1)


def _one_on_the_base(rewards: Sequence[tuple[Callable[..., Any], float]]) -> bool:
    """Whether one reward model is learned from, on the policy's base or still to be trained."""
    from modelforge.rewards.callables import StandIn
    from modelforge.rewards.of_a_run import is_model_name
    from modelforge.rewards.shared_base import SharedBaseReward

    models = [f for f, weight in rewards if weight and is_model_name(getattr(f, "__name__", ""))]
    return len(models) == 1 and isinstance(models[0], SharedBaseReward | StandIn)
