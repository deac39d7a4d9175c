"""Memory and time of preparing many rows for SFT: ours, and TRL's own preparation beside it.

    python benchmarks/large_data.py [--rows 100000] [--trl-rows 100000] [--tokens 500]
                                    [--processes 2] [--only trl]

Rows are generated dialogues of random words. Each side runs in a process of its own, with an empty
cache: from the file to the data set that TRL's trainer is given. Memory is that of the process with
its children, looked at every two seconds: RSS counts pages that they share once each, PSS once.
Time is CPU seconds of all of them, and wall seconds. The second run of ours finds its tokens in the
cache, unless a file of the package was changed meanwhile; the table says which. With ``--trl-rows``
TRL prepares the first so many rows alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "tiny" / "model"
OURS = """
import sys
from modelforge.configfile.load import load_config
from modelforge.training.read import read
from modelforge.training.resolve import resolve
resolved = resolve(load_config(sys.argv[1]))
found = read(resolved)
train, _ = found.data.tokenised(train_length=512, eval_length=512)
print("rows", len(train), "tokens", int(found.data.ledger.tokens["total"]))
"""
TRL = """
import sys
from datasets import load_dataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer
model, file, folder, processes = sys.argv[1:]
args = SFTConfig(folder, max_length=512, dataset_num_proc=int(processes), use_cpu=True,
                 assistant_only_loss=True, report_to="none", bf16=False)
rows = load_dataset("json", data_files=file, split="train")
trainer = SFTTrainer(AutoModelForCausalLM.from_pretrained(model), args, train_dataset=rows)
print("rows", len(trainer.train_dataset))
"""


def generate(path: Path, rows: int, tokens: int) -> None:
    """Dialogues of about so many of the tiny tokenizer's tokens."""
    chance = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 6))) for _ in range(2000)]
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            # Such a word is four tokens on average.
            said = " ".join(chance.choices(words, k=tokens // 4))
            cut = len(said) // 3
            messages = [
                {"role": "user", "content": f"{number} {said[:cut]}"},
                {"role": "assistant", "content": said[cut:]},
            ]
            file.write(json.dumps({"messages": messages}) + "\n")


def cpu_seconds() -> float:
    """Of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(program: str, *arguments: object, cache: Path) -> dict[str, float | str]:
    """Run a program in a process, and measure it."""
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "TQDM_DISABLE": "1"}
    begin, peak_rss, peak_pss, cpu = time.monotonic(), 0, 0, cpu_seconds()
    log = cache.with_suffix(".log")
    with log.open("w", encoding="utf-8") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
        )
    watched = psutil.Process(process.pid)
    while process.poll() is None:
        rss = pss = 0
        try:
            for each in (watched, *watched.children(recursive=True)):
                memory = each.memory_full_info()
                rss, pss = rss + memory.rss, pss + memory.pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass  # it ended just now
        peak_rss, peak_pss = max(peak_rss, rss), max(peak_pss, pss)
        time.sleep(2)
    told = (process.stdout.read() if process.stdout else "").strip().splitlines()
    if process.returncode:
        raise SystemExit(f"failed: {log.read_text(encoding='utf-8')[-2000:]}")
    if "are in the cache, and are used" in log.read_text(encoding="utf-8"):
        told.append(f"{told[-1]}, from the cache")
    return {
        "rss": peak_rss / 2**20,
        "pss": peak_pss / 2**20,
        "cpu": cpu_seconds() - cpu,
        "wall": time.monotonic() - begin,
        "told": told[-1],
    }


def main() -> None:
    """Print a table, a line a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--trl-rows", type=int)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=["modelforge", "trl"])
    asked = parser.parse_args()
    libraries = ", ".join(f"{name} {version(name)}" for name in ("trl", "datasets", "pyarrow"))
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores; {libraries}")
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as scratch:
        folder = Path(scratch)
        data, config = folder / "rows.jsonl", folder / "config.json"
        generate(data, asked.rows, asked.tokens)
        keys = {"strategy": "sft", "model_name": str(MODEL), "dataset": str(data)}
        keys |= {"max_seq_length": 512, "report_to": "none", "dataset_num_proc": asked.processes}
        config.write_text(json.dumps(keys))
        size = data.stat().st_size / 2**20
        print(f"{asked.rows} rows, {size:.0f} MiB of JSON lines, {asked.processes} processes\n")
        heads = ("what", "rows", "peak RSS MiB", "peak PSS MiB", "CPU s", "wall s", "CPU ms a row")
        print(f"| {' | '.join(heads)} | it says |")
        print("|---|---|---|---|---|---|---|---|")
        fewer = folder / "fewer.jsonl"
        generate(fewer, asked.trl_rows or asked.rows, asked.tokens)
        ours, theirs = (OURS, config), (TRL, MODEL, fewer, folder / "out", asked.processes)
        sides = {"modelforge": ours, "modelforge again": ours, "trl": theirs}
        for name, command in sides.items():
            if asked.only and asked.only not in name:
                continue
            found = run(*command, cache=folder / f"cache-{name.split()[0]}")
            figures = " | ".join(f"{found[key]:.0f}" for key in ("rss", "pss", "cpu", "wall"))
            rows = asked.rows if name != "trl" else asked.trl_rows or asked.rows
            each = float(found["cpu"]) / rows * 1000
            print(f"| {name} | {rows} | {figures} | {each:.2f} | {found['told']} |", flush=True)


if __name__ == "__main__":
    main()
