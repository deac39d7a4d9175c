"""A verifiable task: PPO against GRPO at equal CPU time, on subtractions that the base gets wrong.

    OMP_NUM_THREADS=1 python benchmarks/verifiable.py [--seconds 60] [--seeds 1 2 3]

Reported is the share of right answers, sampled at temperature 1, to held-out questions. PPO's
settings were chosen among four on seed 0, which is not among the seeds reported; GRPO's are those
of `configs/tiny/grpo.json`.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rlhf_judge import TINY, run

POLICY: dict[str, Any] = {
    "dataset": str(TINY / "data" / "prompts_train.jsonl"),
    "eval_dataset": str(TINY / "data" / "prompts_eval.jsonl"),
    "rewards": ["numeric_answer"],
    "per_device_train_batch_size": 32,
    "max_steps": 100_000,
    "generation": {"max_new_tokens": 32},
    "eval_prompts": 150,
}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "ppo": {
        "ppo": {
            "kl_coef": 0.0,
            "ppo_epochs": 2,
            "value_mode": "trunk",
            "value_learning_rate": 1e-2,
        }
    },
    "grpo": {"num_generations": 8},
}


def main() -> None:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options = parser.parse_args()
    import torch
    import trl

    from modelforge.common.console import quieten

    quieten()
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, trl {trl.__version__}; "
        f"{options.seconds:g} s of CPU time to train\n"
    )
    print("| algorithm | seed | steps | right before | right after |\n|---|---|---|---|---|")
    ends: dict[str, list[float]] = {name: [] for name in ALGORITHMS}
    for seed in options.seeds:
        for algorithm, values in ALGORITHMS.items():
            with tempfile.TemporaryDirectory() as folder:
                given = {**POLICY, **values, "seed": seed}
                result = run(algorithm, given, Path(folder), options.seconds)
                steps = json.loads((result.run_dir / "results.json").read_text())["steps"]
            first, last = (figures["eval_reward"] for figures in (result.before, result.after))
            ends[algorithm].append(last)
            print(f"| {algorithm} | {seed} | {steps} | {first:.1%} | {last:.1%} |", flush=True)
    means = ", ".join(f"{name} {statistics.mean(values):.1%}" for name, values in ends.items())
    print(f"\nMean over seeds, after: {means}.")


if __name__ == "__main__":
    main()
