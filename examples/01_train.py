"""Train the tiny model from Python, and look at what changed.

python examples/01_train.py
"""

from pathlib import Path

import modelforge

TINY = Path(__file__).parent / "tiny"

result = modelforge.train(
    {
        "strategy": "sft",
        "model_name": str(TINY / "model"),
        "dataset": str(TINY / "data" / "sft_train.jsonl"),
        "eval_dataset": str(TINY / "data" / "sft_eval.jsonl"),
        "learning_rate": 2e-3,
        "max_steps": 30,
        "max_seq_length": 128,
    }
)
print(f"held-out loss: {result.before['eval_loss']:.2f} → {result.after['eval_loss']:.2f}")
print(f"the adapter is in {result.model_dir}")
