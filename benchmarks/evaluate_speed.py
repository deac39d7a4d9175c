"""What evaluating and comparing cost, and whether adapters on one base score as they do alone.

    OMP_NUM_THREADS=1 python benchmarks/evaluate_speed.py

Each command is a process of its own, from its start to its end; what is printed is its processor
time. Two adapters of the tiny model are trained for some steps. Both and their base are compared on
800 demonstrations, each adapter is evaluated alone in another folder, and the rows are held against
each other to the last bit.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

TINY = Path(__file__).parents[1] / "examples" / "tiny"
CONFIGS = Path(__file__).parents[1] / "configs" / "tiny"
ROWS = 800
ASKED = ("--metrics", "loss,bits_per_byte", "--no-contamination")


def run(*arguments: str) -> float:
    """The processor time of a command, in seconds."""
    command = [sys.executable, "-m", "modelforge", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return used.ru_utime + used.ru_stime


def rows_of(folder: Path, name: str) -> list[dict]:
    """The kept rows of a model."""
    (path,) = folder.glob(f"{name}-*/samples_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = folder / "rows.jsonl"
        lines = (TINY / "data" / "sft_train.jsonl").read_text().splitlines()[:ROWS]
        data.write_text("\n".join(lines) + "\n")
        for name in ("sft", "dpo"):
            said = ("max_steps=3", f"output_dir={folder}", f"run_name={name}", "report_to=none")
            run("train", str(CONFIGS / f"{name}.json"), *(f"--set={each}" for each in said))
        print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n\n"
              "| command | processor time, s |\n|---|---|", flush=True)  # fmt: skip
        models = {"base": TINY / "model", "sft": folder / "sft", "dpo": folder / "dpo"}
        asked = ("--data", str(data), *ASKED)
        for name, model in models.items():
            seconds = run("evaluate", str(model), *asked, "-o", str(folder / "alone"))
            print(f"| evaluate {name} on {ROWS} rows | {seconds:.1f} |", flush=True)
        pairs = [f"{name}={model}" for name, model in models.items()]
        for told in ("compare all three", "the same again, from kept rows"):
            seconds = run("compare", *pairs, *asked, "-o", str(folder / "together"))
            print(f"| {told} | {seconds:.1f} |", flush=True)
        for name in ("sft", "dpo"):
            one, other = (rows_of(folder / place, name) for place in ("alone", "together"))
            same = sum(a == b for a, b in zip(one, other, strict=True))
            print(f"\n{name}: {same} of {len(one)} rows are the same to the last bit, alone and "
                  "switched on one base")  # fmt: skip


if __name__ == "__main__":
    main()
