"""What PPO logs of a rollout, besides TRL's own metrics."""

from __future__ import annotations

from torch import Tensor

from modelforge.ppo import maths

#: The metrics of the trainer, each step; those of TRL (reward, rewards/NAME/mean, entropy,
#: clip_ratio/*, completions/*, grad_norm) stand beside them under TRL's names.
METRICS = {
    "reward/score": "reward after normalising, clipping and the missing-EOS penalty",
    "reward/total": "score minus kl_coef times the KL: what PPO raises",
    "kl/reference": "KL to the reference of a completion, in nats",
    "kl/reference_token": "the same for a token",
    "kl/old_policy": "KL between the policy of the rollout and the current one, a token",
    "kl/coef": "weight of the KL in the reward",
    "policy/loss": "clipped surrogate, minus the entropy bonus",
    "value/loss": "clipped value loss",
    "value/clip_fraction": "share of tokens whose value update was clipped",
    "value/grad_norm": "norm of the critic's gradient before it is clipped",
    "value/mean": "mean value at the rollout",
    "value/return": "mean return, which the value learns",
    "value/explained_variance": "1: the critic foresees the returns; 0: no better than a constant",
    "advantage/mean": "mean advantage before whitening",
    "advantage/std": "standard deviation of advantages before whitening",
    "completions/without_eos": "share of completions that did not end by themselves",
    "updates_skipped": "1 where kl_stop skipped this update",
}

# Of these, what speaks of a rollout as a whole: a held-out answer, measured alone, has none.
OF_A_ROLLOUT = ("value/explained_variance", "advantage/mean", "advantage/std")


def of_a_rollout(
    mask: Tensor,
    values: Tensor,
    returns: Tensor,
    advantages: Tensor,
    kl: Tensor,
    score: Tensor,
    total: Tensor,
    truncated: Tensor,
    *,
    reduce: maths.Reduce,
) -> dict[str, float]:
    """The metrics of a rollout by name.

    Args:
        mask: Tokens that count, (B, C); so are values, returns, advantages and kl.
        kl: Of each token, in nats.
        score: Of each completion, (B,).
        total: The same minus what its KL costs.
        truncated: Whether it was cut off.
        reduce: Sums over the processes.
    """
    advantage_mean, advantage_var = maths.masked_moments(advantages, mask, reduce)
    ones = mask.any(1).float()
    found = {
        "reward/score": maths.masked_mean(score, ones, reduce),
        "reward/total": maths.masked_mean(total, ones, reduce),
        "kl/reference": maths.masked_mean(kl.sum(1), ones, reduce),
        "kl/reference_token": maths.masked_mean(kl, mask, reduce),
        "value/mean": maths.masked_mean(values, mask, reduce),
        "value/return": maths.masked_mean(returns, mask, reduce),
        "value/explained_variance": maths.explained_variance(values, returns, mask, reduce),
        "advantage/mean": advantage_mean,
        "advantage/std": advantage_var.sqrt(),
        "completions/without_eos": maths.masked_mean(
            truncated.float(), truncated.new_ones(len(ones)).float(), reduce
        ),
    }
    return {name: float(value) for name, value in found.items()}
