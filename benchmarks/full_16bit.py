"""All weights trained in 16 bits beside 32: the held-out loss that each optimiser comes to.

    OMP_NUM_THREADS=1 python benchmarks/full_16bit.py [--rates 1e-4 1e-3] [--steps 300]

The tiny model's `sft`. stable_adamw needs the package torch-optimi, and adamw_torch_8bit needs
torchao; a row whose package is missing says so.
"""

import argparse
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import modelforge
from modelforge.errors import UserError

ROOT = Path(__file__).parents[1]
STOCHASTIC = ("optim=adamw_torch_8bit", "optim_args=bf16_stochastic_round=True")
ROWS = (
    ("float32, adamw_torch", ()),
    ("float32, adamw_8bit", ("optim=adamw_8bit",)),
    ("bfloat16, adamw_torch", ("dtype=bfloat16",)),
    ("bfloat16, adamw_8bit", ("dtype=bfloat16", "optim=adamw_8bit")),
    ("bfloat16, stable_adamw", ("dtype=bfloat16", "optim=stable_adamw")),
    ("bfloat16, adamw_torch_8bit, rounded by chance", ("dtype=bfloat16", *STOCHASTIC)),
)


def loss(folder: str, *said: str) -> str:
    """The held-out loss after a run, or why there is none."""
    fixed = ("lora_r=0", "lora_alpha=null", "save_strategy=no", "report_to=none", "seed=1")
    overrides = [f"output_dir={folder}", *fixed, *said]
    try:
        done = modelforge.train(ROOT / "configs/tiny/sft.json", overrides=overrides)
    except (UserError, ImportError) as error:
        return str(error).splitlines()[0]
    return f"{done.after['eval_loss']:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rates", nargs="+", default=["1e-4", "1e-3"])
    parser.add_argument("--steps", type=int, default=300)
    said = parser.parse_args()
    print(f"{datetime.now(UTC):%Y-%m-%d}, {said.steps} steps, seed 1", flush=True)
    print(f"| weights, optim | {' | '.join(said.rates)} |\n|---|{'---|' * len(said.rates)}")
    for name, keys in ROWS:
        with tempfile.TemporaryDirectory() as folder:
            found = [
                loss(f"{folder}/{rate}", f"learning_rate={rate}", f"max_steps={said.steps}", *keys)
                for rate in said.rates
            ]
        print(f"| {name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main()
