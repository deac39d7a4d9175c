"""``PPOConfig``: GRPO's configuration with PPO's settings, checked as a whole."""

# ruff: noqa: RUF009  (_field gives a dataclasses.field)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from trl import GRPOConfig

from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.ppo.maths import KLEstimator
from modelforge.ppo.shaping import Normalization
from modelforge.ppo.value import ValueMode

Reference = Literal["base", "initial"]


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


CHOICES = {
    "kl_estimator": get_args(KLEstimator),
    "value_mode": get_args(ValueMode),
    "reference": get_args(Reference),
    "reward_normalization": get_args(Normalization),
    # those of TRL's losses that are the clipped surrogate and take an advantage for each token
    "loss_type": ("bnpo", "dapo", "grpo", "dr_grpo"),
    "importance_sampling_level": ("token",),
}


@dataclass
class PPOConfig(GRPOConfig):
    """What PPO can be told. Names of TRL keep their meaning; these carry PPO's own parts:

    ``epsilon`` is the clip range of the surrogate, ``num_iterations`` the PPO epochs over a
    rollout, ``generation_batch_size`` (or ``steps_per_generation``) the size of a rollout,
    ``entropy_coef`` the entropy bonus; a minibatch is device batch × accumulation.
    """

    num_generations: int = _field(1, "Completions a prompt in a rollout.")
    num_iterations: int = _field(4, "PPO epochs: passes over a rollout.")
    loss_type: str = _field("bnpo", "How the surrogate is averaged; bnpo: over all tokens.")
    scale_rewards: str = _field("batch", "Only for TRL's own metrics: PPO uses GAE.")
    beta: float = _field(0.0, "Must stay 0: the KL penalty is in the reward (kl_coef).")
    disable_dropout: bool = _field(True, "Dropout would make old and new policy differ.")

    gamma: float = _field(1.0, "Discount of rewards per token.")
    gae_lambda: float = _field(0.95, "GAE's trade of bias (0) for variance (1).")
    normalize_advantages: bool = _field(True, "Whiten advantages over a rollout.")
    kl_coef: float = _field(0.1, "Weight of the per-token KL to the reference in the reward.")
    kl_target: float | None = _field(None, "KL a completion (nats) to steer kl_coef towards.")
    kl_horizon: int = _field(10_000, "Completions over which the steering moves kl_coef by 20 %.")
    kl_estimator: KLEstimator = _field(
        "k1", "Per-token KL estimate: k1 (unbiased) or k3 (never negative)."
    )
    kl_cap: float | None = _field(None, "Bound of one token's KL estimate, in nats.")
    kl_stop: float | None = _field(
        None, "Skip the rest of a rollout's updates once KL(old ‖ new policy) a token passes this."
    )
    value_mode: ValueMode = _field(
        "trunk_detached",
        "Where the value head reads: the policy's hidden states (trunk_detached: no gradient into "
        "them; trunk) or its own LoRA (adapter).",
    )
    value_coef: float = _field(0.5, "Weight of the value loss.")
    value_clip_range: float | None = _field(0.2, "Clip range of the value loss; none: no clipping.")
    value_learning_rate: float | None = _field(
        None, "Learning rate of value head and value adapter; none: the policy's."
    )
    reference: Reference = _field(
        "base",
        "Reference policy: the base (adapters off), or the policy as it began (initial), as after "
        "SFT.",
    )
    ref_update_steps: int | None = _field(
        None, "Make the current policy the reference every so many steps (reference: initial)."
    )
    reward_normalization: Normalization = _field(
        "none",
        "Running moments of the reward: center, scale (by the standard deviation) or standardize "
        "(both).",
    )
    reward_normalize_sources: bool = _field(False, "Normalise each reward before they are summed.")
    reward_clip: float | None = _field(None, "Bound of the reward's absolute value.")
    reward_std_penalty: float = _field(0.0, "k of mean − k·std over the reward_ensemble.")
    reward_ensemble: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the rewards that estimate the same thing; none: all of them."},
    )
    whiten_rewards: bool = _field(False, "Divide per-token rewards, KL included, by their std.")
    missing_eos_penalty: float | None = _field(
        None, "Taken off the reward of a completion that did not end by itself."
    )

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
    ]  # fmt: skip
    problems = [Problem(key, what, fix) for key, wrong, what, fix in refused if wrong]
    if config.num_generations == 1 and config._local_rollout() < 2:
        what = "a rollout of one completion has nothing to compare it with"
        fix = "raise per_device_train_batch_size or gradient_accumulation_steps"
        problems.append(Problem("generation_batch_size", what, fix))
    return problems


def _out_of_range(config: PPOConfig) -> list[Problem]:
    problems = []
    for key, known in CHOICES.items():
        value = getattr(config, key)
        if value not in known:
            problems.append(Problem(key, f"unknown: '{value}'", did_you_mean(str(value), known)))
    for key in ("gamma", "gae_lambda"):
        if not 0 <= getattr(config, key) <= 1:
            problems.append(Problem(key, f"must be from 0 to 1, not {getattr(config, key)}"))
    for key in ("kl_coef", "value_coef", "reward_std_penalty"):
        if getattr(config, key) < 0:
            problems.append(Problem(key, f"must be at least 0, not {getattr(config, key)}"))
    positive = ("kl_target", "kl_horizon", "kl_cap", "kl_stop", "value_clip_range",
                "value_learning_rate", "ref_update_steps", "reward_clip")  # fmt: skip
    for key in positive:
        value = getattr(config, key)
        if value is not None and value <= 0:
            problems.append(Problem(key, f"must be above 0, not {value}"))
    return problems
