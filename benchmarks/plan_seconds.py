"""Processor seconds of `modelforge plan` for an 8B model, imports included.

    OMP_NUM_THREADS=1 python benchmarks/plan_seconds.py [--repeat 3] [--source FOLDER]

Each repeat runs the command twice, in a fresh process each: for one card of 12 GiB, and `--cards`.
`--source` runs the command of another clone in turn with this one's, since a busy machine changes
both alike.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = {
    "strategy": "qlora", "model_name": "meta-llama/Llama-3.1-8B-Instruct", "dataset": "none.jsonl",
    "max_seq_length": 2048,
}  # fmt: skip
COMMANDS = (("--vram", "12"), ("--cards",))


def processor_seconds() -> float:
    """What child processes that have ended took, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--source", type=Path, help="another clone, measured beside this one")
    args = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(CONFIG))
        for _ in range(args.repeat):
            for options in COMMANDS:
                took = []
                for source in filter(None, (here, args.source)):
                    command = [sys.executable, "-m", "modelforge", "plan", str(config), *options]
                    path = os.environ | {"PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
                    before = processor_seconds()
                    subprocess.run(command, env=path, cwd=folder, capture_output=True, check=True)
                    took.append(f"{processor_seconds() - before:.1f} s ({source.name})")
                print(" ".join(options), *took, sep="  ", flush=True)


if __name__ == "__main__":
    main()
