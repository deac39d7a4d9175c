"""The formulas of PPO for language models, each with its source. Tensors in, tensors out.

Shapes: B completions of up to T tokens; ``mask`` (B, T) is 1 on a token that counts and 0 on
padding (and on tokens that a tool wrote). Quantities that must be right over several processes
take ``reduce``, which sums a tensor over them (``accelerator.reduce``); alone, it is the identity.

PPO: Schulman et al. 2017, arXiv:1707.06347. GAE: Schulman et al. 2015, arXiv:1506.02438.
RLHF: Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k3"]
Reduce = Callable[[Tensor], Tensor]


def alone(x: Tensor) -> Tensor:
    """``reduce`` where there is one process."""
    return x


def masked_mean(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> Tensor:
    """The mean of ``x`` where ``mask`` is 1; 0 where it is nowhere."""
    total = reduce(torch.stack([(x * mask).sum(), mask.sum().to(x.dtype)]))
    return total[0] / total[1].clamp(min=1)


def masked_moments(x: Tensor, mask: Tensor, reduce: Reduce = alone) -> tuple[Tensor, Tensor]:
    """Mean and population variance where ``mask`` is 1, in two passes for their accuracy."""
    mean = masked_mean(x, mask, reduce)
    return mean, masked_mean((x - mean) ** 2, mask, reduce)


def whiten(x: Tensor, mask: Tensor, reduce: Reduce = alone, *, shift_mean: bool = True) -> Tensor:
    """``x`` with unit variance, and mean 0 unless ``shift_mean`` is off; 0 outside the mask.

    Advantage normalisation as in Andrychowicz et al. 2020 (arXiv:2006.05990, C.67), over the
    tokens of a whole rollout; rewards are whitened without a shift (Huang et al. 2024,
    arXiv:2403.17031, section 4).
    """
    mean, variance = masked_moments(x, mask, reduce)
    white = (x - mean) * torch.rsqrt(variance + 1e-8)
    return (white if shift_mean else white + mean) * mask


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv:1506.02438, equation 16) and the value's target.

    δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γλ A_{t+1}, where t+1 is the next token that
    counts: what a tool wrote in between is stepped over. After the last one, V = A = 0.

    Returns:
        advantages and returns (advantages + values), both (B, T), 0 outside the mask.
    """
    # The tokens that count, moved to the front: t+1 is then the neighbour.
    order = torch.argsort(mask.bool().logical_not().byte(), dim=1, stable=True)
    counted = torch.arange(mask.size(1), device=mask.device) < mask.bool().sum(1, keepdim=True)
    reward, value = (torch.where(counted, x.gather(1, order), 0) for x in (rewards, values))
    ahead = reward + gamma * _shifted(value, 1) - value
    # A sum over t, t+1, …, doubled in length each time: log2(T) operations instead of T.
    span, decay = 1, gamma * lam
    while span < ahead.size(1):
        ahead = ahead + decay * _shifted(ahead, span)
        span, decay = 2 * span, decay**2
    place = (mask.bool().cumsum(1) - 1).clamp(min=0)
    advantages = torch.where(mask.bool(), ahead.gather(1, place), 0)
    return advantages, (advantages + values) * mask


def _shifted(x: Tensor, by: int) -> Tensor:
    """``x`` of ``by`` tokens later; 0 beyond the end."""
    return torch.nn.functional.pad(x[:, by:], (0, by))


def kl_estimate(
    logps: Tensor, ref_logps: Tensor, kind: KLEstimator, cap: float | None = None
) -> Tensor:
    """Per-token estimate of KL(policy ‖ reference) on tokens that the policy sampled, (B, T).

    With d = log π − log π_ref: k1 = d (unbiased, may be negative), k3 = e^{−d} − 1 + d
    (unbiased, never negative, lower variance); J. Schulman, "Approximating KL Divergence",
    2020. k3's exponent is held at 20, so that one token cannot make a batch infinite.
    ``cap`` bounds each token's estimate to [−cap, cap].
    """
    d = logps - ref_logps
    kl = d if kind == "k1" else torch.exp((-d).clamp(max=20.0)) - 1 + d
    return kl if cap is None else kl.clamp(-cap, cap)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """The clipped value loss: ½ mean max((V − R)², (V_clip − R)²).

    V_clip = V_old + clamp(V − V_old, −clip, clip), as in OpenAI's PPO (Huang et al. 2022, "The
    37 implementation details of PPO", detail 9). ``clip`` None leaves the plain squared error.

    Returns:
        the loss, and the share of tokens whose clipped error was the larger one.
    """
    plain = (values - returns) ** 2
    if clip is None:
        return 0.5 * masked_mean(plain, mask), torch.zeros_like(plain.sum())
    clipped = (old_values + (values - old_values).clamp(-clip, clip) - returns) ** 2
    loss = 0.5 * masked_mean(torch.max(plain, clipped), mask)
    # rounding alone makes the two differ where nothing was clipped
    active = (clipped > plain) & ((values - old_values).abs() > clip)
    return loss, masked_mean(active.to(plain.dtype), mask)


def line(x: Tensor, y: Tensor, mask: Tensor, reduce: Reduce = alone) -> tuple[float, float]:
    """Slope, of 0 or more, and intercept of the least squares of ``y`` on ``x``.

    A slope of 0 where ``x`` is constant, or falls as ``y`` rises.
    """
    mean_x, variance = masked_moments(x, mask, reduce)
    mean_y = masked_mean(y, mask, reduce)
    both = masked_mean((x - mean_x) * (y - mean_y), mask, reduce)
    slope = both.clamp(min=0) / variance if variance > 1e-12 else 0 * both
    return slope.item(), (mean_y - slope * mean_x).item()


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, reduce: Reduce = alone
) -> Tensor:
    """1 − Var(returns − values) / Var(returns): 1 is a perfect critic, 0 a constant one."""
    _, variance = masked_moments(returns, mask, reduce)
    _, residual = masked_moments(returns - values, mask, reduce)
    return 1 - residual / variance.clamp(min=1e-8)


@dataclass
class KLController:
    """The coefficient of the KL penalty: fixed, or steered towards ``target``.

    Adaptive (arXiv:1909.08593, section 2.2): e = clip(KL / target − 1, −0.2, 0.2) and
    β ← β exp(e · n / horizon), after each rollout of n completions. The paper's factor is
    1 + e · n / horizon, which is the same for a long horizon and negative for a short one. A
    rollout changes β at most by a factor of two.

    Attributes:
        coef: β, now.
        target: KL of a completion to the reference, in nats; None keeps β fixed.
        horizon: Completions over which a full error changes β by a fifth.
    """

    coef: float
    target: float | None = None
    horizon: int = 10_000

    def update(self, kl: float, n: int) -> None:
        if self.target is not None:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.coef *= min(2.0, max(0.5, math.exp(error * n / self.horizon)))


@dataclass
class RunningMoments:
    """Mean and variance of everything seen so far, a column each, in float64.

    Batches are merged by Chan, Golub and LeVeque 1983 ("Algorithms for computing the sample
    variance", equation 2.1); a NaN leaves its column untouched.
    """

    columns: int
    mean: Tensor = field(init=False)
    squares: Tensor = field(init=False)  # sum of squared deviations from the mean
    count: Tensor = field(init=False)

    def __post_init__(self) -> None:
        zeros = torch.zeros(self.columns, dtype=torch.float64)
        self.mean, self.squares, self.count = zeros, zeros.clone(), zeros.clone()

    def update(self, x: Tensor) -> None:
        """Take in a batch (N, columns), the same on every process."""
        x = x.detach().to("cpu", torch.float64)
        seen = ~x.isnan()
        n = seen.sum(0).to(torch.float64)
        mean = torch.where(seen, x, 0).sum(0) / n.clamp(min=1)
        squares = torch.where(seen, (x - mean) ** 2, 0).sum(0)
        total = (self.count + n).clamp(min=1)
        delta = mean - self.mean
        self.squares = self.squares + squares + delta**2 * self.count * n / total
        self.mean = self.mean + delta * n / total
        self.count = self.count + n

    @property
    def std(self) -> Tensor:
        """Population standard deviation; 1 where nothing has varied yet."""
        std = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(std > 1e-6, std, 1.0)

    def state(self) -> dict[str, Any]:
        """What ``load`` takes back: plain lists, for JSON."""
        return {name: getattr(self, name).tolist() for name in ("mean", "squares", "count")}

    def load(self, state: dict[str, Any]) -> None:
        for name in ("mean", "squares", "count"):
            setattr(self, name, torch.tensor(state[name], dtype=torch.float64))
