"""Learning rates by family and size of the model: what is published, and what we measured.

The one open sweep of LoRA rates is the Tinker cookbook's (its ``hyperparam_utils`` and
``sft_sweep``: tulu3, 780 steps of 128 rows, alpha 32). `SWEPT` holds its best rates. Its authors
dropped their formula in the hidden size for these values. Ours are half of them, for batches of 16
rows: `AT_OUR_BATCH`, a judgement between no change and the square root of the batch (0.35). Full
tuning takes a tenth (Schulman et al., LoRA Without Regret, 2025).

No such sweep is known for preferences and rewards. `Ends` holds what our sweeps found on the
smallest models and what published recipes take on large ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Any

#: What a rate for 128 rows a step is multiplied by for 16.
AT_OUR_BATCH = 0.5
#: What LoRA's rate is divided by where all weights are trained.
FULL = 10


OURS = "models of 0.1 and 0.26 million weights"
#: The weights of the largest of them, and of a model whose size is unknown, in billions.
MEASURED, UNKNOWN = 0.00026, 10.0


@dataclass(frozen=True)
class Swept:
    """A row of the table.

    Attributes:
        families: Which ``model_type`` it holds for; none: for all others.
        below: Weights below which it holds, in billions.
        rate: The best one at 128 rows a step, alpha 32.
        seen: The models that it was seen on; empty where it is interpolated.
    """

    families: tuple[str, ...]
    below: float
    rate: float
    seen: str = ""


#: The first row that holds for a model is taken.
SWEPT: tuple[Swept, ...] = (
    Swept((), 0.01, 1.6e-2, OURS),
    Swept(("gpt_oss",), 1e9, 1e-4, "gpt-oss-20b"),
    Swept(("qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"), 1e9, 3e-4,
          "Qwen3.5-4B and 27B"),
    Swept(("qwen3_moe",), 1e9, 1e-3, "Qwen3-30B-A3B"),
    Swept(("qwen3",), 16, 1e-3, "Qwen3-4B-Instruct-2507 and Qwen3-8B"),
    Swept(("qwen3",), 1e9, 3e-4, "Qwen3-32B"),
    Swept(("llama",), 5, 1e-3, "Llama-3.2-1B and 3B"),
    Swept(("llama",), 1e9, 3e-4, "Llama-3.1-8B and 70B"),
    Swept((), 5, 1e-3),
    Swept((), 1e9, 3e-4),
)  # fmt: skip


def sft_rate(model_type: str, weights: float) -> tuple[float, str]:
    """LoRA's learning rate for supervised fine-tuning in batches of 16 rows, and why.

    Args:
        model_type: As in the model's config.json.
        weights: How many the model has; 0 where that is unknown, which is taken for a large one.
    """
    billions = weights / 1e9 or UNKNOWN
    fitting = (r for r in SWEPT if model_type in r.families or not r.families)
    row = next(r for r in fitting if billions < r.below)
    rate = row.rate * AT_OUR_BATCH
    of = f"seen on {row.seen}" if row.seen else f"taken over for {model_type} ({size(weights)})"
    if row.seen == OURS:
        return rate, f"among the best rates on {OURS} (benchmarks/defaults.py)"
    best = f"half of {row.rate:g}, the best at 8 × the batch in the Tinker cookbook's sweep"
    return rate, f"{best}, {of}"


@dataclass(frozen=True)
class Ends:
    """LoRA's rates of a strategy on the smallest and on large models.

    Between the two, the logarithm of the rate follows that of the weights: an interpolation, which
    no sweep of ours has checked.

    Attributes:
        small: The rate on models of at most `MEASURED` billion weights, a choice from our sweeps.
        large: The rate from `at` billion weights on.
        at: See ``large``.
        seen: Where ``large`` is from.
    """

    small: float
    large: float
    at: float
    seen: str

    def rate(self, weights: float) -> tuple[float, str]:
        """The rate for a model, and why.

        Args:
            weights: How many the model has; 0 where that is unknown, which is taken for a large
                one.
        """
        billions = weights / 1e9 or UNKNOWN
        if billions >= self.at:
            return self.large, self.seen
        if billions <= MEASURED:
            return self.small, f"chosen from our sweeps on {OURS} (benchmarks/defaults.py)"
        share = log(billions / MEASURED) / log(self.at / MEASURED)
        why = (
            f"interpolated for {size(weights)}, between {self.small:g}, chosen on {OURS}, and "
            f"{self.large:g} from {self.at:g} billion weights on ({self.seen})"
        )
        return self.small ** (1 - share) * self.large**share, why


REWARD_RATES = Ends(
    1e-3, 1e-4, 0.5,
    "TRL's reward example with LoRA on Qwen2-0.5B, LLaMA-Factory's on Qwen3-4B, ms-swift's on "
    "Qwen2.5-7B",
)  # fmt: skip
PAIR_RATES = Ends(
    3e-4, 5e-6, 0.5,
    "TRL's DPO example with LoRA on Qwen2-0.5B, LLaMA-Factory's DPO and KTO on Qwen3-4B; half of "
    "Tinker's 1e-5 for 256 pairs a step",
)  # fmt: skip
GROUP_RATES = Ends(
    2e-3, 1e-5, 3,
    "TRL's GRPO with LoRA on SmolLM3-3B; half of Tinker's 2e-5 for 1,024 answers a step on "
    "Qwen3.5-9B",
)  # fmt: skip
PPO_RATES = Ends(
    3e-4, 1e-5, 3,
    "Tinker's RLHF on Llama-3.2-3B, ms-swift's and LLaMA-Factory's PPO with LoRA on Llama 3 8B",
)  # fmt: skip


def size(weights: float) -> str:
    """A number of weights, for a reader."""
    return (
        f"{weights / 1e9:.2g} billion weights"
        if weights >= 1e8
        else f"{weights / 1e6:.2g} million weights"
    )


def model_type(architecture: Any) -> str:
    """The family of a model's config."""
    return str(getattr(architecture.get_text_config(), "model_type", "") or "")
