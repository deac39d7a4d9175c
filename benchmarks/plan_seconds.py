"""Seconds from nothing to the plan of an 8B model, imports included.

    OMP_NUM_THREADS=1 python benchmarks/plan_seconds.py [--repeat 3]

Each repeat is a fresh process. Prints its wall and processor seconds, and the planned peak in GiB.
"""

import argparse
import resource
import subprocess
import sys
import time

PLAN = """
from modelforge.configfile.load import load_config
from modelforge.plan import plan

config = load_config({
    "strategy": "qlora", "model_name": "meta-llama/Llama-3.1-8B-Instruct", "dataset": "d",
    "use_4bit": True, "gradient_checkpointing": True, "max_seq_length": 2048,
    "per_device_train_batch_size": 2,
})
print(plan(config, budget_gb=12).total / 2**30)
"""


def processor_seconds() -> float:
    """What child processes that have ended took, user and system."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=3)
    for _ in range(parser.parse_args().repeat):
        start, before = time.monotonic(), processor_seconds()
        done = subprocess.run([sys.executable, "-c", PLAN], stdout=subprocess.PIPE, check=True)
        wall, busy = time.monotonic() - start, processor_seconds() - before
        print(f"{wall:.1f} s wall, {busy:.1f} s processor: {float(done.stdout):.2f} GiB")


if __name__ == "__main__":
    main()
