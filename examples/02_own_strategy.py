"""Choose a strategy in Python, and make one of your own by subclassing.

    python examples/02_own_strategy.py

A package makes its strategy known to everybody's configs by an entry point:

    [project.entry-points."modelforge.strategies"]
    careful-dpo = "my_package:CarefulDPO"
"""

from collections.abc import Iterable
from pathlib import Path

import modelforge
from modelforge import Config, Problem

TINY = Path(__file__).parent / "tiny"
DPO = modelforge.get_strategy("dpo")


@modelforge.register_strategy
class CarefulDPO(DPO):
    """DPO that stays close to where it starts, and refuses settings that do not."""

    name = "careful-dpo"
    summary = "DPO with a strong pull back to the start"
    defaults = {**DPO.defaults, "beta": (0.5, "five times the usual pull back to the start")}

    def check(self, config: Config) -> Iterable[Problem]:
        """Problems that only this strategy knows; they come with all others, before a load."""
        if config.get("beta", 0.5) < 0.2:
            yield Problem(f"{config.name}: beta", "is not careful", "set 0.2 or more, or use dpo")


print("known:", ", ".join(modelforge.list_strategies()))
result = modelforge.train(
    {
        "strategy": "careful-dpo",
        "model_name": str(TINY / "model"),
        "dataset": str(TINY / "data" / "preference_train.jsonl"),
        "eval_dataset": str(TINY / "data" / "preference_eval.jsonl"),
        "learning_rate": 1e-3,
        "max_steps": 10,
        "max_seq_length": 128,
    }
)
print({name: round(value, 3) for name, value in result.after.items()})
