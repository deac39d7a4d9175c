"""TRL's own reward functions, under TRL's names: what each gives and needs. Imports no TRL.

Each function of the table takes the arguments that TRL's takes from a config, and raises
``ValueError`` where TRL's would fail on them in the middle of a run. A name that begins with
``get_`` makes the reward from its arguments; any other is the reward.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

from modelforge.errors import Problem


def _think_format_reward() -> None: ...


def _accuracy_reward() -> None: ...


def _reasoning_accuracy_reward(*, reasoning_delimiters: list[str] | None = None) -> None: ...


def _get_cosine_scaled_reward(
    *,
    max_len: int,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
) -> None:
    if max_len < 1:
        raise ValueError("max_len must be at least 1")


def _get_repetition_penalty_reward(*, ngram_size: int = 3, max_penalty: float = -1.0) -> None:
    if ngram_size < 1 or max_penalty > 0:
        raise ValueError("ngram_size must be at least 1, and max_penalty at most 0")


def _get_soft_overlong_punishment(*, max_completion_len: int, soft_punish_cache: int) -> None:
    if not 0 <= soft_punish_cache <= max_completion_len:
        raise ValueError("soft_punish_cache must be from 0 to max_completion_len")


@dataclass(frozen=True)
class TRLReward:
    """A reward function of TRL.

    Attributes:
        gives: What it rewards, in one sentence.
        arguments: Takes its arguments, and checks them.
        columns: The columns of the data that it reads.
        package: The package that it needs besides TRL, as it is imported; empty where none.
    """

    gives: str
    arguments: Callable[..., None]
    columns: tuple[str, ...] = ()
    package: str = ""

    def missing(self, name: str, where: str) -> list[Problem]:
        """The package that it needs and that is not installed, if any."""
        if not self.package or importlib.util.find_spec(self.package) is not None:
            return []
        what = f"'{name}' needs the package {self.package}, which is not installed"
        return [Problem(where, what, f"pip install {self.package.replace('_', '-')}")]


FROM_TRL = {
    "accuracy_reward": TRLReward(
        "1 where the completion's LaTeX answer equals the row's `solution` as mathematics.",
        _accuracy_reward,
        ("solution",),
        "math_verify",
    ),
    "get_cosine_scaled_reward": TRLReward(
        "As `accuracy_reward`; a short right answer gains more, a short wrong one loses more.",
        _get_cosine_scaled_reward,
        ("solution",),
        "math_verify",
    ),
    "get_repetition_penalty_reward": TRLReward(
        "`max_penalty` times the share of the completion's n-grams of tokens that are repeats.",
        _get_repetition_penalty_reward,
    ),
    "get_soft_overlong_punishment": TRLReward(
        "0 for a short completion; it falls to −1 over the last `soft_punish_cache` tokens.",
        _get_soft_overlong_punishment,
    ),
    "reasoning_accuracy_reward": TRLReward(
        "As `accuracy_reward`, of what follows the reasoning; 0 where the reasoning has no end.",
        _reasoning_accuracy_reward,
        ("solution",),
        "math_verify",
    ),
    "think_format_reward": TRLReward(
        "1 where the completion begins with one closed `<think>` block.", _think_format_reward
    ),
}
