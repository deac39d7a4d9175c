"""What `modelforge tune` with four trials costs, and whether it picks a good rate.

    OMP_NUM_THREADS=1 python benchmarks/tune.py tiny/sft stories260K/gsm8k stories260K/roleplay

For each data set: the CPU seconds of the command `modelforge train`, of `modelforge tune` with four
rates, and of the same trials all trained to their end; how far the chosen trial's losses lie from
those of its own run, in its first ten steps, in those that all trials make, and in all; and the
regret of the chosen rate: how far its held-out loss lies above the best of the four, all at their
end. `--data` and `--models` hold what does not ship with the project.

A high rate makes the noise of a matrix product grow from step to step. `--float64` computes in 64
bits, where it begins a billion times smaller: what is left then is no noise.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

IN_FLOAT64 = """
import runpy, torch
from modelforge.models.providers import huggingface
huggingface.weights_dtype = lambda config, hardware: torch.float64
runpy.run_module("modelforge", run_name="__main__")
"""
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
#: model/data → training rows, held-out rows (none: of the same file), and the longest row.
SETS = {
    "tiny/sft": ("sft_train", "sft_eval", 128),
    "stories260K/gsm8k": ("gsm8k_train", "gsm8k_test", 256),
    "stories260K/roleplay": ("gpteacher_roleplay", "", 256),
}


def config_of(name: str, options: argparse.Namespace, folder: Path) -> Path:
    """A config file of few steps, with the default rate."""
    model, _ = name.split("/")
    train, held_out, length = SETS[name]
    data = TINY / "data" if model == "tiny" else options.data
    values: dict[str, Any] = {
        "strategy": "sft",
        "model_name": str(TINY / "model" if model == "tiny" else options.models / model),
        "dataset": str(data / f"{train}.jsonl"),
        "max_samples": 600,
        "max_seq_length": length,
        "max_steps": options.steps,
        "logging_steps": 1,
        "report_to": "none",
        "output_dir": str(folder / "runs"),
        "eval_split": 48,
    }
    if held_out:
        del values["eval_split"]
        lines = (data / f"{held_out}.jsonl").read_text(encoding="utf-8").splitlines()
        few = folder / f"{held_out}.jsonl"
        few.write_text("\n".join(lines[:48]) + "\n", encoding="utf-8")
        values["eval_dataset"] = str(few)
    path = folder / "config.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def seconds(*command: str | Path, float64: bool) -> float:
    """CPU seconds of a command of ours."""
    ours = ["-c", IN_FLOAT64] if float64 else ["-m", "modelforge"]
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *ours, *map(str, command)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("SHOW") else subprocess.DEVNULL,
    )
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    return end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime


def losses(run: Path) -> list[float]:
    """The losses of a run, step by step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open(encoding="utf-8")]
    return [row["loss"] for row in rows if "loss" in row]


def measured(name: str, options: argparse.Namespace) -> str:
    """A row of the table."""
    with tempfile.TemporaryDirectory() as scratch:
        config = config_of(name, options, Path(scratch))
        spent = partial(seconds, float64=options.float64)
        tuned = spent("tune", config)
        (found,) = Path(scratch, "runs").glob("tune-*")
        chosen = json.loads((found / "trials.json").read_text())["chosen"]
        rate = chosen.removeprefix("rate-")
        alone = spent("train", config, "--set", f"learning_rate={rate}", "--set", "run_name=own")
        pairs = zip(losses(found / chosen), losses(Path(scratch, "runs", "own")), strict=True)
        apart = [abs(a / b - 1) for a, b in pairs]
        rest = spent("tune", config, "--to-the-end")
        last = json.loads((found / "trials.json").read_text())["found"]
        ends = {trial: each["1"]["value"] for trial, each in last.items() if each["1"]["rows"]}
    regret = ends[chosen] / min(ends.values()) - 1
    shown = ", ".join(f"{k.removeprefix('rate-')}: {v:.4f}" for k, v in ends.items())
    cells = (name, options.steps, f"{alone:.1f}", f"{tuned:.1f}", f"{tuned / alone:.2f}")
    told = ", ".join(f"{max(apart[:steps]):.1e}" for steps in (10, options.steps // 2, None))
    cells += (f"{rest:.1f}", told, shown, rate, f"{regret:.1%}")
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=list(SETS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--float64", action="store_true")
    options = parser.parse_args()
    print(
        "| data | steps | one run, CPU s | tune, CPU s | ratio | then all to the end, CPU s | "
        "losses apart: 10 steps, half, all | held-out loss by rate | chosen | regret |\n"
        "|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in options.names:
        print(measured(name, options), flush=True)


if __name__ == "__main__":
    main()
