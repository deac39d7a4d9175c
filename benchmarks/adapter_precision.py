"""What an adapter in bfloat16 beside a 4-bit base loses, as TRL has it, against one in float32.

    python benchmarks/adapter_precision.py

Trains the tiny model by dpo and sft at a few rates, in both types, two seeds, and prints the change
of the held-out loss.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

import modelforge
from modelforge import strategy as base

ROOT = Path(__file__).parents[1]
RATES = {"sft": (1e-5, 2e-4), "dpo": (5e-6, 5e-5)}
SEEDS = (1, 2)


def change(name: str, rate: float, seed: int, *, rounded: bool) -> float:
    """After minus before, of the held-out loss."""
    kept = base.train_in_float32
    if rounded:
        base.train_in_float32 = lambda model: None
    try:
        with tempfile.TemporaryDirectory() as folder:
            said = (
                f"output_dir={folder}", "use_4bit=true", f"learning_rate={rate}", f"seed={seed}",
                "max_steps=60", "report_to=none", "save_strategy=no",
            )  # fmt: skip
            run = modelforge.train(ROOT / f"configs/tiny/{name}.json", overrides=list(said))
    finally:
        base.train_in_float32 = kept
    return run.after["eval_loss"] - run.before["eval_loss"]


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("strategy  rate     bfloat16            float32")
    for name, rates in RATES.items():
        for rate in rates:
            both = [[change(name, rate, s, rounded=r) for s in SEEDS] for r in (True, False)]
            cells = ["  ".join(f"{value:+.4f}" for value in each) for each in both]
            print(f"{name:8}  {rate:<7}  {cells[0]:18}  {cells[1]}", flush=True)


if __name__ == "__main__":
    main()
