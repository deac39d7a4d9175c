"""hh-rlhf end to end: its pairs, a reward model on them, PPO by it, and who answers better.

    python examples/07_hh_rlhf.py [FILE]

FILE is a file of Anthropic's hh-rlhf: JSON Lines of `chosen` and `rejected`, each a whole dialogue
("\\n\\nHuman: …\\n\\nAssistant: …"). ModelForge reads them as they are: what both share is the
prompt. Without a file the tiny model's pairs are written in that form, and it is trained on them.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import modelforge

TINY = Path(__file__).parent / "tiny"


def as_hh(folder: Path, rows: int) -> Path:
    """The tiny model's pairs as hh-rlhf writes pairs."""
    lines = (TINY / "data" / "preference_train.jsonl").read_text().splitlines()[:rows]
    path = folder / "hh.jsonl"
    with path.open("w") as file:
        for row in map(json.loads, lines):
            asked = f"\n\nHuman: {row['prompt'][-1]['content']}\n\nAssistant: "
            sides = {side: asked + row[side][-1]["content"] for side in ("chosen", "rejected")}
            file.write(json.dumps(sides) + "\n")
    return path


def main(file: Path, folder: Path, *, model: str = str(TINY / "model"), **keys: Any) -> Any:
    """Train a reward model and a policy, as one run in stages.

    Args:
        file: The pairs.
        folder: Where the run goes.
        model: A chat model.
        keys: Further keys of the config; they come over these.
    """
    config = {
        "strategy": "rlhf",
        "model_name": model,
        "dataset": str(file),
        "eval_split": 16,
        "output_dir": str(folder),
        "max_seq_length": 128,
        "learning_rate": 1e-3,
        "max_steps": 10,
        "per_device_train_batch_size": 16,
        "generation": {"max_new_tokens": 24},
        "ppo": {"kl_target": 3.0},
    }
    return modelforge.train(config | keys)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        pairs = Path(sys.argv[1]) if len(sys.argv) > 1 else as_hh(Path(made), 200)
        result = main(pairs, Path(made))
        for when, figures in (("before", result.before), ("after", result.after)):
            print(f"reward of held-out answers {when}: {figures['eval_reward']:.3f}")
