"""Proximal policy optimisation against reward models and functions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from modelforge.common.console import say
from modelforge.config import Choice, Config
from modelforge.errors import Problem
from modelforge.models.rates import PPO_RATES
from modelforge.models.source import find_model
from modelforge.ppo.rollout import sized
from modelforge.ppo.settings import TRL_NAMES, PPOSection
from modelforge.strategies.rewarded import Rewarded, RewardedSettings, lora_alone
from modelforge.strategy import Parts, Strategy

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
        """Its answers, in whole steps, and the scale that their rewards get."""
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo
        batch, size, why = sized(config, section, prompts)
        values, reasons = self._scale(config), [why] if size else []
        if values.get("reward_normalization") == "reference":
            reasons.append("the scale of a reward model's scores is chance")
        if values.get("missing_eos_penalty"):
            reasons.append("a cut answer loses one standard deviation of the reward")
        values |= {"rollout_size": size} if size else {}
        if not values:
            return batch
        whole = section.model_copy(update=values).model_dump()
        return batch | {"ppo": Choice(whole, "default", "; ".join(reasons))}

    def _scale(self, config: Config) -> dict[str, Any]:
        """What ``auto`` takes for the scale of the reward and for the penalty in its units."""
        assert isinstance(config.settings, PPOSettings)
        section, found = config.settings.ppo, dict[str, Any]()
        scale: str = section.reward_normalization
        if scale == "auto":
            found["reward_normalization"] = scale = (
                "reference" if self._models_alone(config) else "none"
            )
        if section.missing_eos_penalty == "auto":
            scaled = scale in ("reference", "standardize")
            found["missing_eos_penalty"] = 1.0 if scaled else None
        return found

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
        section = config.settings.ppo.model_dump() | self._scale(config)
        if section["reference"] == "auto":
            # A policy that begins with an adapter is held to what it was with that adapter; and
            # the base cannot follow the policy.
            initial = section["ref_update_steps"] is not None or self.begins_adapted(config)
            section["reference"] = "initial" if initial else "base"
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
        assert isinstance(parts.config.settings, PPOSettings)
        if parts.config.settings.ppo.value_mode == "auto":
            mode = parts.args.value_mode
            count = "one reward model is" if mode == "frozen" else "no reward model is alone"
            say(f"ppo.value_mode is {mode}: {count} on the policy's base")
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


def _one_on_the_base(rewards: Sequence[tuple[Callable[..., Any], float]]) -> bool:
    """Whether one reward model is learned from, on the policy's base or still to be trained."""
    from modelforge.rewards.callables import StandIn
    from modelforge.rewards.of_a_run import is_model_name
    from modelforge.rewards.shared_base import SharedBaseReward

    models = [f for f, weight in rewards if weight and is_model_name(getattr(f, "__name__", ""))]
    return len(models) == 1 and isinstance(models[0], SharedBaseReward | StandIn)
