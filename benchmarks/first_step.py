"""The way to the first step on many rows: `check`, `train`, and scripts written by hand with TRL.

    OMP_NUM_THREADS=1 python benchmarks/first_step.py [--rows 100000] [--repeats 1]

Rows are generated dialogues of about 100 tokens, or such prompts with two answers. `check` reads,
renders, tokenises and checks all of them. `train` and the scripts are measured up to the end of the
first training step of the tiny model with LoRA; each of them tokenises all rows before it. Every
run is a process of its own with an empty cache, one after the other.

CPU seconds are those of the process with its children and threads. The load is the machine's mean
over the last minute: where it is above the number of cores, wall seconds say little, and CPU
seconds are more than on an idle machine.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from large_data import generate
from startup import BY_HAND, FIRST_STEP, MODEL, OURS, SAME, measured

DPO_BY_HAND = """
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
model, file, folder = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
args = DPOConfig(folder, max_length=512, use_cpu=True, bf16=False, **SAME)
peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
DPOTrainer(
    AutoModelForCausalLM.from_pretrained(model), args=args, train_dataset=rows, peft_config=peft,
    processing_class=AutoTokenizer.from_pretrained(model),
).train()
"""
SCRIPTS = {"sft": BY_HAND, "dpo": DPO_BY_HAND}


def pairs(dialogues: Path, path: Path) -> None:
    """Each dialogue as a prompt with its answer, and the next one's answer as the worse one."""
    rows = [json.loads(line)["messages"] for line in dialogues.open(encoding="utf-8")]
    with path.open("w", encoding="utf-8") as file:
        for (asked, said), (_, other) in zip(rows, [*rows[1:], rows[0]], strict=True):
            row = {"prompt": [asked], "chosen": [said], "rejected": [other]}
            file.write(json.dumps(row) + "\n")


def config(folder: Path, strategy: str, data: Path) -> Path:
    """A config of one strategy on these rows."""
    values = SAME | {"strategy": strategy, "model_name": str(MODEL), "max_seq_length": 512}
    values |= {"dataset": str(data), "eval_split": 0, "lora_r": 16, "lora_alpha": 32}
    path = folder / f"{strategy}.json"
    path.write_text(json.dumps(values | {"output_dir": str(folder / "runs"), "resume": "never"}))
    return path


def main() -> None:
    """Print a table, a line a command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    names = ("torch", "transformers", "trl", "peft", "datasets")
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in names))
    print(f"{options.rows} rows\n\n| what | CPU s | wall s | load |\n|---|---|---|---|")
    ratios = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        data = {"sft": folder / "sft.jsonl", "dpo": folder / "dpo.jsonl"}
        generate(data["sft"], options.rows, 100)
        pairs(data["sft"], data["dpo"])
        for strategy, script in SCRIPTS.items():
            ours = config(folder, strategy, data[strategy])
            by_hand = f"{FIRST_STEP}SAME = {SAME!r}\n{script}"
            runs: dict[str, tuple[object, ...]] = {
                f"modelforge check, {strategy}": ("-m", "modelforge", "check", ours),
                f"modelforge train to the first step, {strategy}": ("-c", FIRST_STEP + OURS, ours),
                f"TRL by hand to the first step, {strategy}": (
                    *("-c", by_hand, MODEL, data[strategy]),
                    folder / f"out-{strategy}",
                ),
            }
            times: dict[str, list[tuple[float, float, float]]] = {name: [] for name in runs}
            for repeat in range(options.repeats):
                for number, (name, command) in enumerate(runs.items()):
                    cache = folder / f"cache-{strategy}-{repeat}-{number}"
                    took = measured(sys.executable, *command, cache=cache)
                    times[name].append((*took, os.getloadavg()[0]))
            cpu = []
            for name, each in times.items():
                figures = [statistics.median(column) for column in zip(*each, strict=True)]
                cpu.append(figures[0])
                shown = f"{figures[0]:.1f} | {figures[1]:.1f} | {figures[2]:.1f}"
                print(f"| {name} | {shown} |", flush=True)
            ratios.append(
                f"{strategy}: modelforge train / TRL by hand: {cpu[1] / cpu[2]:.2f} of CPU"
            )
    print("", *ratios, sep="\n")


if __name__ == "__main__":
    main()
