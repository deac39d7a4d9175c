"""PPO's keys: each with its default, its bounds and what it means. Imports no torch.

`PPOConfig` takes defaults, help and bounds from here, the schemas take all of it, and the table of
docs/rlhf.md is this list.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modelforge.config import Section

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]

#: The keys of the section that PPOConfig calls otherwise, as TRL does.
TRL_NAMES = {
    "clip_range": "epsilon",
    "ppo_epochs": "num_iterations",
    "rollout_size": "generation_batch_size",
}


class PPOSection(Section):
    """PPO's own settings."""

    kl_coef: Annotated[
        Weight, Field(description="The weight β of the KL to the reference policy in the reward.")
    ] = 0.1
    kl_target: Annotated[
        Positive | None,
        Field(
            description="The KL of a completion, in nats, that β is steered towards; null keeps β."
        ),
    ] = None
    kl_horizon: Annotated[
        int,
        Field(
            description="The number of completions over which the steering moves β by a fifth.",
            ge=1,
        ),
    ] = 10_000
    kl_estimator: Annotated[
        Literal["k1", "k3"],
        Field(description="The KL estimate of a token: k1 has no bias; k3 is never negative."),
    ] = "k1"
    kl_cap: Annotated[
        Positive | None, Field(description="The bound of the KL estimate of a token, in nats.")
    ] = None
    kl_stop: Annotated[
        Positive | None,
        Field(
            description="The KL(old ‖ new) of a token, in nats, at which the updates on a "
            "rollout stop early."
        ),
    ] = None
    clip_range: Annotated[
        float,
        Field(description="The clip range of the probability ratio in the surrogate.", gt=0, lt=1),
    ] = 0.2
    value_clip_range: Annotated[
        Positive | None,
        Field(
            description="The clip range of the value's change in the value loss; null does not "
            "clip."
        ),
    ] = 0.2
    gamma: Annotated[Share, Field(description="The discount factor of the rewards of tokens.")] = (
        1.0
    )
    gae_lambda: Annotated[
        Share, Field(description="The λ of GAE, which trades bias (0) for variance (1).")
    ] = 0.95
    ppo_epochs: Annotated[int, Field(description="The number of passes over a rollout.", ge=1)] = 4
    value_coef: Annotated[Weight, Field(description="The weight of the value loss.")] = 0.5
    value_mode: Annotated[
        Literal["auto", "trunk_detached", "trunk", "adapter", "frozen"],
        Field(
            description="What the value head reads: the policy's hidden states without gradient "
            "into them (trunk_detached) or with it (trunk), a LoRA adapter of its own (adapter), "
            "or the reward model's, which is not trained further (frozen). auto takes frozen where "
            "one reward model is on the policy's base, else trunk_detached."
        ),
    ] = "auto"
    value_learning_rate: Annotated[
        Positive | None,
        Field(description="The learning rate of the value; null takes ten times the policy's."),
    ] = None
    value_warmup_steps: Annotated[
        int,
        Field(description="The number of first steps in which the value learns alone.", ge=0),
    ] = 0
    rollout_size: Annotated[
        Annotated[int, Field(ge=2)] | None,
        Field(
            description="The number of completions of a rollout, in all processes. Null takes 128, "
            "or fewer where there are fewer prompts; where the batch of a step is given, that."
        ),
    ] = None
    entropy_coef: Annotated[Weight, Field(description="The weight of the entropy bonus.")] = 0.0
    normalize_advantages: Annotated[
        bool, Field(description="Whether advantages are whitened over a rollout.")
    ] = True
    reference: Annotated[
        Literal["auto", "base", "initial"],
        Field(
            description="The reference policy: the base, or the policy as it began (initial). "
            "auto takes initial where the run begins with an adapter, or ref_update_steps is set."
        ),
    ] = "auto"
    ref_update_steps: Annotated[
        Annotated[int, Field(ge=1)] | None,
        Field(
            description="The number of steps after which the policy becomes its own reference, "
            "again and again."
        ),
    ] = None
    reward_normalization: Annotated[
        Literal["auto", "none", "center", "scale", "standardize", "reference"],
        Field(
            description="What the running moments of the reward are used for: center, scale, or "
            "both (standardize). reference takes both from the first rollout, which the policy "
            "answers as it began, and keeps them. auto takes reference where reward models alone "
            "reward, since the scale of their scores is chance; else none."
        ),
    ] = "auto"
    reward_normalize_sources: Annotated[
        bool, Field(description="Whether each reward is normalised before they are summed.")
    ] = False
    reward_clip: Annotated[
        Positive | None, Field(description="The bound of the reward's absolute value.")
    ] = None
    reward_std_penalty: Annotated[
        Weight, Field(description="The k in the reward mean − k·std over several reward models.")
    ] = 0.0
    reward_aggregation: Annotated[
        Literal["mean", "worst"],
        Field(
            description="What several reward models come to: their weighted mean, or the least of "
            "their scores (worst)."
        ),
    ] = "mean"
    whiten_rewards: Annotated[
        bool,
        Field(description="Whether the rewards of tokens are divided by their standard deviation."),
    ] = False
    missing_eos_penalty: Annotated[
        Weight | Literal["auto"] | None,
        Field(
            description="The penalty for a completion without an end-of-sequence token. auto takes "
            "1 where reward_normalization is reference or standardize, which make that one "
            "standard deviation of the reward; else none."
        ),
    ] = "auto"
