"""`modelforge evaluate` killed at random moments: its rows against those of one that was not.

OMP_NUM_THREADS=1 python benchmarks/killed_evaluation.py [--times 20]

Each time a process is ended by SIGKILL while it scores pairs of the tiny model's data and samples
answers to them. The same evaluation then goes on, and its rows are held against the whole one's.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.options import Options

TINY = Path(str(files("modelforge.tiny")))


def score(folder: Path):
    options = Options(
        str(TINY / "data/preference_eval.jsonl"),
        metrics=("accuracy", "margin", "ended"),
        samples=2,
        max_new_tokens=16,
        limit=60,
        output_dir=folder,
        batch_size=4,
    )
    return evaluate(str(TINY / "model"), options)


def main():
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--times", type=int, default=20)
    times = asked.parse_args().times
    moments, same, kept = random.Random(0), 0, []
    with tempfile.TemporaryDirectory() as place:
        cut = [Path(place, f"cut-{number}") for number in range(times)]
        for folder in cut:
            child = os.fork()
            if not child:
                score(folder)
                os._exit(0)
            while not list(folder.glob("*/.samples_*")):
                time.sleep(0.002)
            time.sleep(moments.random() * 1.5)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        whole = score(Path(place, "whole"))
        for folder in cut:
            partial = list(folder.glob("*/.samples_*"))
            kept.append(partial[0].read_bytes().count(b"\n") if partial else 60)
            same += list(score(folder).rows) == list(whole.rows)
    print(f"rows kept when killed: {sorted(kept)}")
    print(f"{same} of {times} killed evaluations came to the rows of the whole one")


if __name__ == "__main__":
    main()
