"""Whether an evaluation that is killed comes to the rows of one that was not.

    OMP_NUM_THREADS=1 python benchmarks/evaluate_killed.py [--kills 20]

Each evaluation is a process of its own: pairs scored by the tiny model, two answers sampled to each
prompt, their divergence from the start and a reward. One is killed (SIGKILL) at so many moments:
when so many rows are kept, from none to all, and started again. All of its files are then compared,
byte for byte, with those of an evaluation that was never killed; only the date of the results may
differ.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import multiprocessing
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path

TINY = Path(__file__).parents[1] / "examples" / "tiny"
ROWS = 57
Fork = multiprocessing.get_context("fork")


def sentence_ends(completions, **columns):
    """The reward: 1 for an answer that ends as a sentence does."""
    return [float(str(answer[-1]["content"]).endswith((".", "!"))) for answer in completions]


def evaluation(folder: Path) -> None:
    """One evaluation, in this process."""
    from modelforge.common.console import quieten
    from modelforge.evaluation.evaluate import evaluate
    from modelforge.evaluation.options import Options

    quieten()
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    model = str(TINY / "model")
    options = Options(
        str(TINY / "data" / "preference_eval.jsonl"),
        metrics=("accuracy", "margin", "bits_per_byte", "kl", "ended", "length", "sentence_ends"),
        samples=2,
        limit=ROWS,
        max_new_tokens=16,
        rewards=(f"{__file__}:sentence_ends",),
        start=model,
        batch_size=3,
        output_dir=folder,
    )
    evaluate(model, options, name="tiny")


def begun(folder: Path) -> multiprocessing.Process:
    """An evaluation in a process of its own."""
    process = Fork.Process(target=evaluation, args=(folder,))
    process.start()
    return process


def ended(folder: Path) -> dict[str, bytes]:
    """What an evaluation leaves when it runs to its end: name → bytes, without the date."""
    process = begun(folder)
    process.join()
    assert process.exitcode == 0, process.exitcode
    (kept,) = folder.iterdir()
    left = {path.name: path.read_bytes() for path in kept.iterdir()}
    results = json.loads(left["results.json"])
    del results["date"], results["config"]["output_dir"]
    return left | {"results.json": json.dumps(results).encode()}


def rows_kept(folder: Path) -> str:
    """What stood on the disk: how many rows, or that all was done."""
    kept = next(iter(folder.iterdir()), None) if folder.is_dir() else None
    if kept is None:
        return "none"
    if (kept / "results.json").is_file():
        return "all, with the results"
    return str(kept_in(folder))


def kept_in(folder: Path) -> int:
    """Whole lines on the disk."""
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*/.samples_*"))


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    asked.add_argument("--kills", type=int, default=20)
    kills = asked.parse_args().kills
    for name in ("torch", "datasets", "scipy.stats", "peft", "modelforge.rewards",
                 "transformers.models.llama.modeling_llama", "modelforge.evaluation.items",
                 "modelforge.models.providers.huggingface",
                 "modelforge.evaluation.scored"):  # fmt: skip
        importlib.import_module(name)
    place = Path(tempfile.mkdtemp(prefix="killed-"))
    wanted = ended(place / "whole")
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores\n\n"
          "| killed when so many rows were kept | rows that were kept then | the same bytes |\n"
          "|---|---|---|", flush=True)  # fmt: skip
    same = 0
    for number in range(kills):
        folder, rows = place / str(number), round(number * ROWS / max(kills - 1, 1))
        process = begun(folder)
        time.sleep(0.3)
        while process.is_alive() and kept_in(folder) < rows:
            time.sleep(0.001)
        process.kill()
        process.join()
        kept = rows_kept(folder)
        alike = ended(folder) == wanted
        same += alike
        print(f"| {rows} | {kept} | {'yes' if alike else 'NO'} |", flush=True)
    print(f"\n{same} of {kills} came to the rows of the one that was not killed.")
    shutil.rmtree(place)
    raise SystemExit(same != kills)


if __name__ == "__main__":
    main()
