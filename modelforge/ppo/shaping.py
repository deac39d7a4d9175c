"""From the rewards of several sources to one score a completion, with running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modelforge.ppo.maths import RunningMoments

Normalization = Literal["none", "center", "scale", "standardize", "reference"]


@dataclass
class RewardShaper:
    """Weighs, pessimises, normalises and clips the raw rewards of N completions.

    The score is Σ wᵢ rᵢ − k · W · std(ensemble), with W the ensemble's share of the weights:
    for an ensemble alone, W · (mean − k · std), the uncertainty-weighted objective of Coste et
    al. 2023 (arXiv:2310.02743, equation 5, with the standard deviation for the variance). With
    ``worst`` the ensemble counts W times its least score, their worst-case objective.

    Attributes:
        weights: One for each source, (F,).
        ensemble: Indices of the sources that estimate the same thing.
        std_penalty: k above; 0 is a plain weighted sum.
        normalization: What running moments do: nothing, take off the mean, divide by the
            standard deviation, or both. ``reference``: both, by the moments of the first batch
            alone, which the policy answered before it learned: so the reference's answers have
            mean 0 and standard deviation 1, as in Ziegler et al. 2019 (arXiv:1909.08593).
        per_source: Normalise each source before the sum (so that weights compare sources of
            unlike scales), instead of the sum.
        clip: Bound of the score's absolute value; None for no bound.
        worst: Whether the ensemble counts by its least score in place of the weighted mean.
    """

    weights: Tensor
    ensemble: Sequence[int] = ()
    std_penalty: float = 0.0
    normalization: Normalization = "none"
    per_source: bool = False
    clip: float | None = None
    worst: bool = False

    def __post_init__(self) -> None:
        self.moments = RunningMoments(len(self.weights) if self.per_source else 1)

    def __call__(self, raw: Tensor, *, update: bool) -> Tensor:
        """The scores (N,) of raw rewards (N, F), NaN where no source that counts gave one.

        Args:
            raw: NaN where a source left a completion out; gathered over all processes.
            update: Take the batch into the running moments first (training, not evaluation).
        """
        if self.per_source:
            raw = self._normalize(raw, update)
        score = self._combine(raw)
        if not self.per_source:
            score = self._normalize(score[:, None], update)[:, 0]
        return score if self.clip is None else score.clamp(-self.clip, self.clip)

    def _normalize(self, x: Tensor, update: bool) -> Tensor:
        if self.normalization == "none":
            return x
        if update and not (self.normalization == "reference" and self.moments.count.any()):
            self.moments.update(x)
        if self.normalization != "scale":
            x = x - self.moments.mean.to(x)
        if self.normalization != "center":
            x = x / self.moments.std.to(x)
        return x

    def _combine(self, raw: Tensor) -> Tensor:
        weights = self.weights.to(raw)
        score = (raw * weights).nansum(1)
        if (self.std_penalty or self.worst) and len(self.ensemble) > 1:
            score = score - self._below_the_mean(raw, weights)
        unscored = (raw.isnan() | (weights == 0)).all(1)  # a judge's verdict is no reward
        return score.masked_fill(unscored, float("nan"))

    def _below_the_mean(self, raw: Tensor, weights: Tensor) -> Tensor:
        """How much less than its weighted mean the ensemble counts, (N,)."""
        members = raw[:, list(self.ensemble)]
        share = torch.where(members.isnan(), 0, weights[list(self.ensemble)])
        total = share.sum(1)
        share = share / torch.where(total != 0, total, 1.0)[:, None]
        mean = (members.nan_to_num() * share).sum(1)
        if self.worst:
            least = members.masked_fill(share == 0, torch.inf).amin(1)
            return total * torch.where(total != 0, mean - least, 0.0)
        variance = ((members.nan_to_num() - mean[:, None]) ** 2 * share).sum(1)
        return self.std_penalty * total * variance.clamp(min=0).sqrt()
