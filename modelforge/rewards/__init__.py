"""Rewards by name from JSON: what GRPO and PPO are asked to raise.

A reward is one entry of the config's ``rewards`` list: a name, a weight, arguments. The name is
one of

- a built-in of the table below (``"numeric_answer"``);
- a reward function of TRL (``"think_format_reward"``);
- a function of the user's own file (``"rewards.py:my_reward"``) or of an installed module
  (``"my_package.rewards:my_reward"``);
- a reward model: a run's ``model`` folder, any folder of a sequence-classification model or of a
  PEFT adapter with its score head, or a hub id (``"org/reward-model"``).

``parse_rewards`` checks a list without loading anything heavy, ``reward_columns`` says which
columns of the data it reads, ``build_rewards`` makes the callables that TRL's trainers take.
"""

from __future__ import annotations

from modelforge.rewards.build import build_rewards
from modelforge.rewards.builtin import BUILTIN, describe
from modelforge.rewards.spec import parse_rewards, reward_columns
from modelforge.rewards.upstream import FROM_TRL

__all__ = [
    "BUILTIN",
    "FROM_TRL",
    "build_rewards",
    "describe",
    "parse_rewards",
    "reward_columns",
]
