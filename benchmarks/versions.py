"""Each strategy trained two steps, with the Python and the libraries of this environment.

    python3.12 -m venv env && env/bin/pip install -c constraints.txt .
    OMP_NUM_THREADS=1 env/bin/python benchmarks/versions.py

Other versions are named when the environment is made: `pip install . trl==1.14.0`. Strategies can
be named behind the script; else it trains all. It prints one row of the table in
results/versions.md, and it ends with 1 if a strategy did not train.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Any

import modelforge
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
LIBRARIES = (
    "trl", "transformers", "peft", "datasets", "accelerate", "bitsandbytes", "torch", "pydantic",
    "typer",
)  # fmt: skip
#: Strategy → its rows; the others take prompts.
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "rlhf": "preference", "kto": "labelled"}  # fmt: skip
# The tiny model answers no problem yet; a reward that never differs is refused.
REWARD = {"name": "length", "arguments": {"target": 4}}
SAMPLES = {"rewards": [REWARD], "num_generations": 4, "num_generations_eval": 2}
MORE: dict[str, dict[str, Any]] = {
    "distill": {"teacher_model": str(TINY / "model")},
    "grpo": SAMPLES,
    "rloo": SAMPLES,
    "ppo": {"rewards": [REWARD]},
    "rlhf": {"reward_stage": {"max_steps": 2, "per_device_train_batch_size": 4}},
}
ANSWERS = ("distill", "grpo", "rloo", "ppo", "rlhf")


def trained(strategy: str, folder: Path) -> None:
    """Two steps of a strategy; its folder has to hold a loss and a model."""
    data = DATA.get(strategy, "prompts")
    held_out = folder / f"{strategy}.jsonl"
    lines = (TINY / "data" / f"{data}_eval.jsonl").read_text(encoding="utf-8").splitlines()
    held_out.write_text("\n".join(lines[:4]) + "\n", encoding="utf-8")
    config = {
        "strategy": strategy,
        "model_name": str(TINY / "model"),
        "dataset": str(TINY / "data" / f"{data}_train.jsonl"),
        "eval_dataset": str(held_out),
        "max_steps": 2,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "max_seq_length": 128,
        "report_to": "none",
        "output_dir": str(folder),
    }
    if strategy in ANSWERS:
        config["generation"] = {"max_new_tokens": 8}
    result = modelforge.train(config | MORE.get(strategy, {}))
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    if len(losses) != 2 or not any(result.model_dir.glob("*.safetensors")):
        raise SystemExit(f"{strategy}: trained, but left {losses} and no model")


def main() -> None:
    """Train each, and print the row."""
    logging.getLogger("modelforge").setLevel(logging.ERROR)
    asked = sys.argv[1:] or list(STRATEGIES)
    failed = []
    with tempfile.TemporaryDirectory() as made:
        for strategy in asked:
            try:
                trained(strategy, Path(made))
            except Exception:
                traceback.print_exc()
                failed.append(strategy)
            print(f"{strategy}: {'failed' if strategy in failed else 'trained'}", file=sys.stderr)
    print("| Python | " + " | ".join(LIBRARIES) + " | trained | failed |")
    print("|---" * (len(LIBRARIES) + 3) + "|")
    cells = [platform.python_version(), *map(version, LIBRARIES)]
    cells += [f"{len(asked) - len(failed)} of {len(asked)}", ", ".join(failed) or "none"]
    print("| " + " | ".join(cells) + " |")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
