"""Preference pairs → reward model → PPO: several ordinary runs, one after the other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from modelforge.common.paths import KeysOf
from modelforge.config import LORA_KEYS, REWARD_MODEL, Choice, Config, Settings
from modelforge.errors import Problem
from modelforge.ppo.settings import Share
from modelforge.strategies.ppo import PPO, PPOSettings
from modelforge.strategies.sft import SFTSettings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from modelforge.strategy import Strategy

StageName = Literal["sft", "reward", "ppo"]
ORDER = ("sft", "reward", "ppo")

#: Keys of the whole that its stages do not take over.
OF_THE_WHOLE = ("strategy", "output_dir", "run_name", "resume")
# Those that its stages cannot be given of their own.
_NOT_A_STAGES = (*OF_THE_WHOLE, "model_name", "dataset", "trust_remote_code", "$schema")
# Fields of LoRA with which the mean of adapters is no adapter of the same kind.
_NO_PRODUCTS = {
    *("use_dora", "lora_bias", "target_parameters", "rank_pattern", "alpha_pattern"),
    *("init_lora_weights", "peft_type"),
}


class RLHFSettings(PPOSettings):
    """What rlhf adds to ModelForge's keys."""

    stages: Annotated[
        Annotated[list[StageName], Field(min_length=1)] | None,
        Field(
            description="The stages to run, of sft, reward and ppo (the policy, by `algorithm`); "
            "by default reward and ppo, or ppo alone where a reward_model is given."
        ),
    ] = None
    algorithm: Annotated[
        Literal["ppo", "rloo", "grpo"], Field(description="The algorithm that trains the policy.")
    ] = "ppo"
    sft_stage: Annotated[
        dict[str, Any],
        KeysOf("sft", SFTSettings, without=_NOT_A_STAGES),
        Field(description="The keys for the sft stage alone."),
    ] = Field(default_factory=dict)
    reward_stage: Annotated[
        dict[str, Any],
        KeysOf("reward", Settings, without=_NOT_A_STAGES),
        Field(description="The keys for the reward stage alone."),
    ] = Field(default_factory=dict)
    reward_models: Annotated[
        int,
        Field(
            description="The number of reward models to train, each with a seed of its own. Their "
            "mean is the reward; ppo.reward_aggregation and ppo.reward_std_penalty make it more "
            "careful.",
            ge=1,
        ),
    ] = 1
    average_reward_models: Annotated[
        bool,
        Field(
            description="Whether the reward models are averaged into one, by their weights, before "
            "the policy learns from it."
        ),
    ] = False
    min_reward_accuracy: Annotated[
        Share | None,
        Field(
            description="The held-out pair accuracy below which a reward model is refused; by "
            "default only one that is certainly worse than chance is refused."
        ),
    ] = None


class RLHF(PPO):
    """RLHF (Ouyang et al. 2022); each stage is a run of its own strategy."""

    name = "rlhf"
    summary = "preference pairs to a reward model to PPO, on one base (LoRA)"
    data_kind = "preference"
    settings = RLHFSettings
    unsloth = (
        False,
        "its PPO stage cannot, and all stages share a process, which Unsloth's patches stay in",
    )

    def check(self, config: Config) -> Iterable[Problem]:
        yield from super().check(config)
        settings = config.settings
        assert isinstance(settings, RLHFSettings)
        stages = settings.stages
        if stages is not None and stages != [name for name in ORDER if name in stages]:
            fix = "leave out what is done, keep the order sft, reward, ppo"
            yield Problem(f"{config.name}: stages", f"cannot run as {', '.join(stages)}", fix)
        yield from self._unused_sections(config)
        given = settings.reward_model or settings.rewards or self.functions
        if stages is not None and "reward" not in stages and "ppo" in stages and not given:
            what = "leaves the policy without a reward"
            fix = 'add "reward", or set reward_model to the run of a reward model'
            yield Problem(f"{config.name}: stages", what, fix)
        if settings.algorithm != "ppo" and config.given("ppo"):
            what = f"is set, and algorithm is {settings.algorithm}"
            fix = "remove it: learning_rate, beta and num_generations are set beside it"
            yield Problem(f"{config.name}: ppo", what, fix)
        if settings.resume not in ("auto", "never"):
            fix = "set auto (each stage resumes from its last checkpoint) or never"
            yield Problem(f"{config.name}: resume", "names the checkpoint of one stage", fix)

    def _unused_sections(self, config: Config) -> Iterable[Problem]:
        """What is said of a stage that does not run, or that a later stage cannot keep."""
        settings = config.settings
        assert isinstance(settings, RLHFSettings)
        stages = self.stages(config)
        for key, stage in (
            ("sft_stage", "sft"),
            ("reward_stage", "reward"),
            ("min_reward_accuracy", "reward"),
            ("reward_models", "reward"),
        ):
            if config.said.get(key) and stage not in stages:
                what = f"has no effect: stage {stage} does not run"
                fix = f'remove it, or add "{stage}" to stages'
                yield Problem(f"{config.name}: {key}", what, fix)
        if settings.average_reward_models:
            yield from self._no_average(config.name, settings)
        if "sft" in stages:
            for key in sorted(set(LORA_KEYS) & set(settings.sft_stage)):
                own, whole = settings.sft_stage[key], getattr(settings, key)
                if config.given(key) and own != whole:
                    what = f"is {whole!r}, and the policy trains the adapter of sft_stage further"
                    fix = f"keep one of the two: sft_stage.{key} is {own!r}"
                    yield Problem(f"{config.name}: {key}", what, fix)

    def _no_average(self, name: str, settings: RLHFSettings) -> Iterable[Problem]:
        """Why the reward models have no average."""
        where = f"{name}: average_reward_models"
        if settings.reward_models == 1:
            yield Problem(where, "averages one model", "remove it, or set reward_models to 3")
        if settings.reward_stage.get("lora_r") == 0:
            what = "averages adapters, and reward_stage.lora_r 0 trains all weights"
            yield Problem(where, what, "remove reward_stage.lora_r")
        shape = settings.lora | settings.reward_stage.get("lora", {})
        more = sorted(key for key in _NO_PRODUCTS & set(shape) if shape[key])
        if more:
            what = f"averages products of two matrices, and {', '.join(more)} makes more of them"
            yield Problem(where, what, f"remove {more[0]}")

    def algorithm(self, config: Config) -> str:
        assert isinstance(config.settings, RLHFSettings)
        return config.settings.algorithm

    def begins_adapted(self, config: Config) -> bool:
        return "sft" in self.stages(config) or super().begins_adapted(config)

    def check_data(self, config: Config, rows: Dataset) -> Mapping[str, Choice]:
        return {}  # the rewards read the columns of the prompts, which the policy's stage checks

    def try_out(self, config: Config, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        pass  # as the columns

    def max_row_tokens(self, config: Config) -> int:
        return config.settings.max_seq_length

    def figures(self, config: Config) -> Collection[str]:
        return ()  # each stage has its own

    def build_args(self, config: Config, *, output_dir: Path, device: Mapping[str, Any]) -> Any:
        """The policy's, so that what TRL refuses is refused before the first stage."""
        assert isinstance(config.settings, RLHFSettings)
        if config.settings.algorithm == "ppo":
            return super().build_args(config, output_dir=output_dir, device=device)
        policy = self._policy(config)
        config = config.with_defaults(
            {key: Choice(value, "strategy", why) for key, (value, why) in policy.defaults.items()}
        )
        return policy.build_args(config, output_dir=output_dir, device=device)

    def _policy(self, config: Config) -> Strategy:
        """The strategy of the policy's stage."""
        from modelforge.strategies.grpo import GRPO
        from modelforge.strategies.rloo import RLOO

        assert isinstance(config.settings, RLHFSettings)
        return {"ppo": PPO, "grpo": GRPO, "rloo": RLOO}[config.settings.algorithm]()

    def planned(self, config: Config, *, adapted: bool) -> tuple[Strategy, Config]:
        """The policy's stage: the one that holds all roles, the awaited reward models too."""
        from modelforge.rewards.callables import StandIn

        policy: Any = self._policy(config)
        if "reward" in self.stages(config):
            policy.functions = [(StandIn(REWARD_MODEL), 1.0)] * trained_models(config)
        planned: tuple[Strategy, Config] = policy.planned(config, adapted=adapted)
        return planned

    def reward_models(self, config: Config) -> list[str]:
        """As given; without any reward the one of the stage before, on the policy's base."""
        assert isinstance(config.settings, RLHFSettings)
        given = super().reward_models(config)
        return given if given or config.settings.rewards else [""] * trained_models(config)

    def stages(self, config: Config) -> Sequence[str]:
        settings = config.settings
        assert isinstance(settings, RLHFSettings)
        said = settings.stages or (["ppo"] if settings.reward_model else ["reward", "ppo"])
        return [settings.algorithm if stage == "ppo" else stage for stage in said]


def trained_models(config: Config) -> int:
    """How many reward models the policy is given by the stages before it."""
    settings = config.settings
    assert isinstance(settings, RLHFSettings)
    return 1 if settings.average_reward_models else settings.reward_models
