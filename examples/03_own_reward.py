"""A reward function of one's own for GRPO, named in the config as `03_own_reward.py:brief`.

python examples/03_own_reward.py
"""

from pathlib import Path
from typing import Any

import modelforge

HERE = Path(__file__).parent


def brief(completions: list[Any], answer: list[str], **columns: Any) -> list[float]:
    """1 for an answer that holds the right number, less for every word around it.

    Args:
        completions: One a prompt and sample, as messages.
        answer: The data's column of that name, in the same order; so with every other column.
        columns: The rest of what TRL passes.
    """
    rewards = []
    for completion, right in zip(completions, answer, strict=True):
        words = completion[0]["content"].replace(".", " ").split()
        rewards.append(float(right in words) - 0.02 * len(words))
    return rewards


if __name__ == "__main__":
    result = modelforge.train(
        {
            "strategy": "grpo",
            "model_name": str(HERE / "tiny" / "model"),
            "dataset": str(HERE / "tiny" / "data" / "prompts_train.jsonl"),
            "rewards": [{"name": str(HERE / "03_own_reward.py:brief"), "weight": 1.0}],
            "generation": {"max_new_tokens": 32},
            "learning_rate": 1e-3,
            "max_steps": 10,
            "per_device_train_batch_size": 16,
            "max_seq_length": 128,
        }
    )
    print(f"reward: {result.before['eval_reward']:.3f} → {result.after['eval_reward']:.3f}")
