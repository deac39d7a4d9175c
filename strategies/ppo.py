"""Proximal policy optimisation against reward models and functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from modelforge.config import REWARD_MODEL, Choice, Config, Section
from modelforge.errors import Problem
from modelforge.models.source import find_model
from modelforge.strategies.rewarded import Rewarded, RewardedSettings
from modelforge.strategy import Strategy

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]

# The keys of the section that PPOConfig calls otherwise.
_NAMES = {"clip_range": "epsilon", "ppo_epochs": "num_iterations"}


class PPOSection(Section):
    """PPO's own settings."""

    kl_coef: Annotated[Weight, Field(description="Weight of the KL to the reference.")] = 0.1
    kl_target: Annotated[
        Positive | None,
        Field(description="KL of a completion, in nats, that kl_coef is steered towards."),
    ] = None
    kl_horizon: Annotated[
        int, Field(description="Completions over which kl_coef moves by a fifth.", ge=1)
    ] = 10_000
    kl_estimator: Annotated[
        Literal["k1", "k3"], Field(description="k1: unbiased; k3: never negative.")
    ] = "k1"
    kl_cap: Annotated[
        Positive | None, Field(description="Bound of one token's KL estimate, in nats.")
    ] = None
    kl_stop: Annotated[
        Positive | None,
        Field(description="KL a token to the rollout's policy that ends its updates early."),
    ] = None
    clip_range: Annotated[Positive, Field(description="Clip range of the surrogate.")] = 0.2
    value_clip_range: Annotated[
        Positive | None, Field(description="Clip range of the value loss; null: none.")
    ] = 0.2
    gamma: Annotated[Share, Field(description="Discount of rewards a token.")] = 1.0
    gae_lambda: Annotated[Share, Field(description="Bias (0) for variance (1) in GAE.")] = 0.95
    ppo_epochs: Annotated[int, Field(description="Passes over a rollout.", ge=1)] = 4
    value_coef: Annotated[Weight, Field(description="Weight of the value loss.")] = 0.5
    value_mode: Annotated[
        Literal["trunk_detached", "trunk", "adapter"],
        Field(
            description="What the value head reads: the policy's hidden states (without or with "
            "gradient into them) or a LoRA adapter of its own."
        ),
    ] = "trunk_detached"
    value_learning_rate: Annotated[
        Positive | None, Field(description="Learning rate of the value; null: the policy's.")
    ] = None
    entropy_coef: Annotated[Weight, Field(description="Weight of the entropy bonus.")] = 0.0
    normalize_advantages: Annotated[
        bool, Field(description="Whiten advantages over a rollout.")
    ] = True
    reference: Annotated[
        Literal["auto", "base", "initial"],
        Field(description="Reference policy: the base, or the policy as it began."),
    ] = "auto"
    ref_update_steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(description="Make the policy its own reference every so many steps."),
    ] = None
    reward_normalization: Annotated[
        Literal["none", "center", "scale", "standardize"],
        Field(description="What running moments of the reward are used for."),
    ] = "none"
    reward_normalize_sources: Annotated[
        bool, Field(description="Normalise each reward before they are summed.")
    ] = False
    reward_clip: Annotated[Positive | None, Field(description="Bound of the reward.")] = None
    reward_std_penalty: Annotated[
        Weight, Field(description="k of mean − k·std over several reward models.")
    ] = 0.0
    whiten_rewards: Annotated[
        bool, Field(description="Divide the rewards of tokens by their deviation.")
    ] = False
    missing_eos_penalty: Annotated[
        Weight | None, Field(description="Taken off an answer that does not end by itself.")
    ] = None


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
        "learning_rate": (1.41e-5, "usual for PPO on language models"),
        "num_train_epochs": (1, "each rollout is learned from several times"),
    }
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

        return PPOTrainer

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        assert isinstance(config.settings, PPOSettings)
        for key in type(config.settings.ppo).model_fields:
            theirs = _NAMES.get(key, key)
            if config.given(theirs) and key in (config.said.get("ppo") or {}):
                fix = "keep one of the two"
                yield Problem(f"{config.name}: {theirs}", f"says the same as ppo.{key}", fix)
        if config.get("use_vllm") and getattr(config.settings, "algorithm", "ppo") == "ppo":
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
        if config.settings.lora_r == 0:
            yield Problem(
                f"{config.name}: lora_r",
                "0 trains all weights; the base is PPO's reference and cannot be trained",
                "set lora_r to 8 or more",
            )

    def arguments(self, config: Config) -> dict[str, Any]:
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo.model_dump()
        if section["reference"] == "auto":
            source = find_model(
                config.settings.model_name,
                base_dir=config.base_dir,
                revision=None,
                where=f"{config.name}: model_name",
            )
            # A policy that begins with an adapter is held to what it was with that adapter.
            section["reference"] = "base" if source.adapter is None else "initial"
        ours = {_NAMES.get(key, key): value for key, value in section.items()}
        return {
            **super().arguments(config),
            **{key: value for key, value in ours.items() if not config.given(key)},
        }

    def planned(self, config: Config, *, adapted: bool) -> tuple[Strategy, Config]:
        """With the reference decided, which `arguments` would look for weights for."""
        assert isinstance(config.settings, PPOSettings)
        section = config.settings.ppo
        if section.reference != "auto":
            return self, config
        values = section.model_dump() | {"reference": "initial" if adapted else "base"}
        return self, config.with_choices({"ppo": Choice(values, "plan")})

    def weigh(self, args: Any, rewards: Sequence[tuple[Callable[..., Any], float]]) -> None:
        super().weigh(args, rewards)
        if args.reward_std_penalty and args.reward_ensemble is None:
            # The models estimate the same thing; functions beside them do not.
            names = [function.__name__ for function, _ in rewards]
            args.reward_ensemble = [n for n in names if n.startswith(REWARD_MODEL)]
