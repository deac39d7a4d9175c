"""What GRPO learns in the same CPU time: one prompt a step, or the default of 16.

    OMP_NUM_THREADS=1 python benchmarks/grpo_batch.py --seconds 40 --seeds 0 1 2

The tiny model answers arithmetic; the reward is that of `numeric_answer`. Both runs have the tiny
preset's rate and eight answers to a prompt, and end after so many seconds of CPU time. Shown are
the held-out reward before and after, and the share of groups whose answers all score alike: from
these GRPO learns nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import tempfile
from pathlib import Path

from rlhf_judge import stop_after

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
PROMPTS = (1, 16)
SILENT = "frac_reward_zero_std"


def learned(prompts: int, seed: int, options: argparse.Namespace) -> tuple[float, float, float]:
    """The held-out reward before and after, and the share of groups without signal."""
    from modelforge.configfile.load import load_config
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    preset = ROOT / "configs" / "tiny" / "grpo.json"
    held_out = ROOT / "examples" / "tiny" / "data" / "prompts_eval.jsonl"
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stderr(io.StringIO()):
        few = Path(scratch, "eval.jsonl")
        rows = held_out.read_text(encoding="utf-8").splitlines()
        few.write_text("\n".join(rows[: options.held_out]) + "\n", encoding="utf-8")
        values = json.loads(preset.read_text(encoding="utf-8"))
        for key in ("$schema", "per_device_train_batch_size"):
            del values[key]
        values |= {"model_name": str(ROOT / "examples" / "tiny" / "model"), "seed": seed}
        values |= {"dataset": str(held_out.with_name("prompts_train.jsonl"))}
        values |= {"eval_dataset": str(few), "output_dir": scratch, "max_steps": 100_000}
        values |= {"prompts_per_step": prompts, "lr_scheduler_type": "constant"}
        values |= {"warmup_ratio": 0.0, "save_strategy": "no", "report_to": "none"}
        values |= {"logging_steps": 1}
        prepared = prepare(load_config(values))
        trainer = build_trainer(prepared, load(prepared))
        before = trainer.evaluate()["eval_reward"]
        trainer.add_callback(stop_after(options.seconds))
        trainer.train()
        after = trainer.evaluate()["eval_reward"]
    silent = [row[SILENT] for row in trainer.state.log_history if SILENT in row]
    return before, after, statistics.mean(silent)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--held-out", type=int, default=64)
    options = parser.parse_args()
    print("| seed | prompts a step | reward before | after | gain | groups without signal |")
    print("|---|---|---|---|---|---|")
    gains: dict[int, list[float]] = {prompts: [] for prompts in PROMPTS}
    for seed in options.seeds:
        for prompts in PROMPTS:
            before, after, silent = learned(prompts, seed, options)
            gains[prompts].append(after - before)
            cells = (seed, prompts, f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}")
            print("| " + " | ".join(map(str, (*cells, f"{silent:.0%}"))) + " |", flush=True)
    for prompts, each in gains.items():
        error = f" ± {statistics.stdev(each) / len(each) ** 0.5:.3f}" if len(each) > 1 else ""
        print(f"mean gain with {prompts} prompts a step: {statistics.mean(each):+.3f}{error}")


if __name__ == "__main__":
    main()
