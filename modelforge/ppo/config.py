"""``PPOConfig``: GRPO's configuration with PPO's settings, checked as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pydantic import ValidationError
from trl import GRPOConfig, GRPOTrainer

from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.ppo.maths import KLEstimator
from modelforge.ppo.settings import TRL_NAMES, PPOSection
from modelforge.ppo.shaping import Normalization
from modelforge.ppo.value import ValueMode

Reference = Literal["base", "initial"]
Aggregation = Literal["mean", "worst"]


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def _key(name: str, **other: Any) -> Any:
    """A key of PPO's section, with its default (or another) and its description."""
    known = PPOSection.model_fields[name]
    return _field(other.get("default", known.default), known.description or "")


# What PPOConfig takes besides the section, or more narrowly than it.
CHOICES = {
    "reference": get_args(Reference),
    "reward_normalization": get_args(Normalization),
    # those of TRL's losses that are the clipped surrogate and take an advantage for each token
    "loss_type": ("bnpo", "dapo", "grpo", "dr_grpo"),
    "importance_sampling_level": ("token",),
}
# Those of the losses that are a mean over completions.
MEANS_OF_ROWS = ("grpo", "dr_grpo")


@dataclass
class PPOConfig(GRPOConfig):
    """What PPO can be told. Names of TRL keep their meaning; these carry PPO's own parts:

    ``epsilon`` is the clip range of the surrogate, ``num_iterations`` the PPO epochs over a
    rollout, ``generation_batch_size`` (or ``steps_per_generation``) the size of a rollout,
    ``entropy_coef`` the entropy bonus; a minibatch is device batch × accumulation.
    """

    num_generations: int = _field(1, "Completions a prompt in a rollout.")
    num_iterations: int = _key("ppo_epochs")
    loss_type: str = _field("bnpo", "How the surrogate is averaged; bnpo: over all tokens.")
    scale_rewards: str = _field("batch", "Only for TRL's own metrics: PPO uses GAE.")
    beta: float = _field(0.0, "Must stay 0: the KL penalty is in the reward (kl_coef).")
    disable_dropout: bool = _field(True, "Dropout would make old and new policy differ.")

    gamma: float = _key("gamma")
    gae_lambda: float = _key("gae_lambda")
    normalize_advantages: bool = _key("normalize_advantages")
    kl_coef: float = _key("kl_coef")
    kl_target: float | None = _key("kl_target")
    kl_horizon: int = _key("kl_horizon")
    kl_estimator: KLEstimator = _key("kl_estimator")
    kl_cap: float | None = _key("kl_cap")
    kl_stop: float | None = _key("kl_stop")
    value_mode: ValueMode = _key("value_mode", default="trunk_detached")
    value_coef: float = _key("value_coef")
    value_clip_range: float | None = _key("value_clip_range")
    value_learning_rate: float | None = _key("value_learning_rate")
    value_warmup_steps: int = _key("value_warmup_steps")
    reference: Reference = _key("reference", default="base")
    ref_update_steps: int | None = _key("ref_update_steps")
    reward_normalization: Normalization = _key("reward_normalization", default="none")
    reward_normalize_sources: bool = _key("reward_normalize_sources")
    reward_clip: float | None = _key("reward_clip")
    reward_std_penalty: float = _key("reward_std_penalty")
    reward_ensemble: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the rewards that estimate the same thing; none: all of them."},
    )
    reward_aggregation: Aggregation = _key("reward_aggregation")
    whiten_rewards: bool = _key("whiten_rewards")
    missing_eos_penalty: float | None = _key("missing_eos_penalty", default=None)

    def __post_init__(self) -> None:
        """Check all of it.

        Raises:
            ConfigError: with every setting that PPO cannot run with.
        """
        problems = [*_unusable(self), *_out_of_range(self)]
        if problems:
            raise ConfigError(*problems)
        if self.ddp_find_unused_parameters is None:
            # Each update uses every trained weight, and the search would not see the value head.
            self.ddp_find_unused_parameters = False
        if self.num_generations > 1:
            super().__post_init__()
            return
        # GRPOConfig refuses one completion a prompt, because a group of one has no baseline;
        # PPO has its value function, and the trainer itself runs with one.
        if self.num_generations_eval is None:
            self.num_generations_eval = 1
        self.num_generations = self._local_rollout()
        super().__post_init__()
        self.num_generations = 1

    def _local_rollout(self) -> int:
        """Completions of one process in a rollout, which GRPOConfig takes for one full group."""
        if self.generation_batch_size is not None:
            return self.generation_batch_size
        steps = self.steps_per_generation or self.gradient_accumulation_steps
        return self.per_device_train_batch_size * steps


def _unusable(config: PPOConfig) -> list[Problem]:
    """Settings of GRPO that have no meaning in PPO, or break it without an error."""
    refused = [
        ("beta", config.beta != 0, "the KL penalty is in the reward", "set kl_coef"),
        ("use_vllm", config.use_vllm, "vLLM would be sent the value head, reward heads and 4-bit "
         "weights of this model", "leave it off"),
        ("mask_truncated_completions", config.mask_truncated_completions,
         "it would leave truncated completions without any reward", "set missing_eos_penalty"),
        ("sync_ref_model", config.sync_ref_model, "the reference is an adapter here",
         "set ref_update_steps"),
        ("off_policy_mask_threshold", config.off_policy_mask_threshold is not None,
         "it needs one advantage a completion", "set kl_stop"),
        ("ref_update_steps", config.ref_update_steps is not None and config.reference == "base",
         "the base cannot be updated", "set reference to 'initial'"),
        ("kl_stop", config.kl_stop is not None and config.fp16,
         "a skipped update breaks the gradient scaler of fp16", "train in bf16"),
        ("kl_target", config.kl_target is not None and config.kl_coef == 0,
         "it steers kl_coef, and 0 stays 0 however it is steered", "set kl_coef above 0"),
        ("use_liger_kernel", config.use_liger_kernel and hasattr(GRPOTrainer, "compute_liger_loss"),
         "the installed TRL would compute GRPO's loss in place of PPO's",
         "remove it, or pip install -U trl"),
        ("epsilon_high", config.epsilon_high is not None and config.epsilon_high <= 0,
         f"must be above 0, not {config.epsilon_high}", ""),
        *_without_effect(config),
    ]  # fmt: skip
    problems = [Problem(key, what, fix) for key, wrong, what, fix in refused if wrong]
    if config.num_generations == 1 and config._local_rollout() < 2:
        what = "a rollout of one completion has nothing to compare it with"
        fix = "raise per_device_train_batch_size or gradient_accumulation_steps"
        problems.append(Problem("generation_batch_size", what, fix))
    return problems


def _without_effect(config: PPOConfig) -> list[tuple[str, bool, str, str]]:
    """Settings that another one leaves without effect."""
    default = {key: known.default for key, known in PPOSection.model_fields.items()}
    return [
        ("kl_horizon", config.kl_horizon != default["kl_horizon"] and config.kl_target is None,
         "it says how fast kl_coef is steered, and nothing steers it", "set kl_target too"),
        ("reward_normalize_sources",
         config.reward_normalize_sources and config.reward_normalization == "none",
         "it says what is normalised, and reward_normalization is none",
         "set reward_normalization to standardize"),
        ("reward_ensemble", config.reward_ensemble is not None and not config.reward_std_penalty
         and config.reward_aggregation == "mean",
         "it names rewards to compare, and nothing compares them",
         "set reward_std_penalty, or reward_aggregation to worst"),
        ("reward_std_penalty", bool(config.reward_std_penalty)
         and config.reward_aggregation == "worst",
         "it is taken off the mean, and reward_aggregation is worst", "remove one of the two"),
        ("multi_objective_aggregation",
         config.multi_objective_aggregation not in ("sum_then_normalize", None),
         "PPO has no groups to normalise within",
         "set reward_normalize_sources and reward_normalization"),
    ]  # fmt: skip


def _out_of_range(config: PPOConfig) -> list[Problem]:
    problems = []
    for key, known in CHOICES.items():
        value = getattr(config, key)
        if value not in known:
            problems.append(Problem(key, f"unknown: '{value}'", did_you_mean(str(value), known)))
    names = {key: TRL_NAMES.get(key, key) for key in PPOSection.model_fields if key not in CHOICES}
    try:
        PPOSection.model_validate({key: getattr(config, name) for key, name in names.items()})
    except ValidationError as error:
        for found in error.errors():
            key = str(found["loc"][0])
            what = f"{found['msg'].replace('Input should be', 'must be')}, not {found['input']!r}"
            known = get_args(PPOSection.model_fields[key].annotation)
            fix = (
                did_you_mean(str(found["input"]), known) if found["type"] == "literal_error" else ""
            )
            problems.append(Problem(names[key], what, fix))
    return problems
