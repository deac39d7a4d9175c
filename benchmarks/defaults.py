"""How the best learning rate moves with model, batch and rank: what our defaults rest on.

    OMP_NUM_THREADS=1 python benchmarks/defaults.py sweep sft/tiny sft/stories260K/gsm8k …
    python benchmarks/defaults.py table

`sweep` trains one run for each rate × batch × rank × seed and adds a line for each to
`benchmarks/results/defaults.jsonl`; runs that stand there are not done again. All runs of a sweep
see the same rows once (``--rows``), so a larger batch means fewer steps. `table` prints, for each
sweep, the best held-out loss, the loss at the rate that ModelForge would choose, and the regret:
how far the one lies above the other. The rows come from `--data` (gsm8k and other files, named in
`SWEEPS`), the larger models from `--models`; the tiny model and its data ship with the project.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
RESULTS = ROOT / "benchmarks" / "results" / "defaults.jsonl"

#: strategy/model/data → training rows, held-out rows (files), and the longest row in tokens.
SWEEPS: dict[str, tuple[str, str, int]] = {
    "sft/tiny/sft": ("sft_train", "sft_eval", 128),
    "dpo/tiny/preference": ("preference_train", "preference_eval", 128),
    "reward/tiny/preference": ("preference_train", "preference_eval", 128),
    "sft/stories260K/gsm8k": ("gsm8k_train", "gsm8k_test", 384),
    "sft/stories260K/roleplay": ("gpteacher_roleplay", "", 384),
    "dpo/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "reward/stories260K/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 384),
    "sft/SmolLM2-135M-Instruct/gsm8k": ("gsm8k_train", "gsm8k_test", 256),
    "sft/SmolLM2-135M-Instruct/roleplay": ("gpteacher_roleplay", "", 256),
    "dpo/SmolLM2-135M-Instruct/hh": ("hh_helpful_base_train", "hh_helpful_base_test", 256),
}


def config_of(sweep: str, options: argparse.Namespace, **said: Any) -> dict[str, Any]:
    """The config of one run."""
    strategy, model, _ = sweep.split("/")
    train, held_out, length = SWEEPS[sweep]
    folder = TINY / "data" if model == "tiny" else options.data
    rank, batch = said.pop("rank"), said.pop("batch")
    micro = min(batch, options.micro)
    values = {
        "strategy": strategy,
        "model_name": str(TINY / "model" if model == "tiny" else options.models / model),
        "dataset": str(folder / f"{train}.jsonl"),
        "max_samples": options.rows + (0 if held_out else options.held_out),
        "max_seq_length": length,
        "lora_r": rank,
        "lora_alpha": 32,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": batch // micro,
        "num_train_epochs": 1,
        "hardware_profile": "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "resume": "never",
        **said,
    }
    if rank == 0:
        del values["lora_alpha"]
    if held_out:
        lines = (folder / f"{held_out}.jsonl").read_text(encoding="utf-8").splitlines()
        few = Path(options.scratch, f"{held_out}.jsonl")
        few.write_text("\n".join(lines[: options.held_out]) + "\n", encoding="utf-8")
        return values | {"eval_dataset": str(few)}
    return values | {"eval_split": options.held_out}


def one(values: dict[str, Any], folder: str) -> dict[str, float]:
    """The held-out figures after one run, and the CPU seconds it took."""
    from modelforge.configfile.load import load_config
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    begin = time.process_time()
    with contextlib.redirect_stderr(io.StringIO()):
        prepared = prepare(load_config({**values, "output_dir": folder}))
        trainer = build_trainer(prepared, load(prepared))
        trainer.train()
        figures = trainer.evaluate()
    wanted = ("eval_loss", prepared.strategy.measure.key)
    found = {key: round(figures[key], 5) for key in wanted if key in figures}
    return found | {"steps": trainer.state.global_step, "seconds": time.process_time() - begin}


def sweep(names: list[str], options: argparse.Namespace) -> None:
    """Every combination that has no line yet."""
    done = {_key(row) for row in _rows()}
    for name in names:
        grid = itertools.product(options.seeds, options.ranks, options.batches, options.rates)
        for seed, rank, batch, rate in grid:
            row: dict[str, Any] = {"sweep": name, "rows": options.rows, "rate": rate}
            row |= {"batch": batch, "rank": rank, "seed": seed}
            if _key(row) in done:
                continue
            said = {"learning_rate": rate, "batch": batch, "rank": rank, "seed": seed}
            with tempfile.TemporaryDirectory() as folder:
                options.scratch = folder
                row |= one(config_of(name, options, **said), folder)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)


def _rows() -> list[dict[str, Any]]:
    if not RESULTS.is_file():
        return []
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[key] for key in ("sweep", "rows", "rate", "batch", "rank", "seed"))


def table() -> None:
    """The best rate for each sweep, batch and rank."""
    cells: dict[tuple[str, int, int], dict[float, list[float]]] = defaultdict(dict)
    for row in _rows():
        rates = cells[row["sweep"], row["batch"], row["rank"]]
        rates.setdefault(row["rate"], []).append(row["eval_loss"])
    for (name, batch, rank), rates in sorted(cells.items()):
        means = {rate: statistics.mean(found) for rate, found in sorted(rates.items())}
        shown = "  ".join(f"{rate:g}: {loss:.4f}" for rate, loss in means.items())
        print(
            f"{name} batch {batch} rank {rank} best {min(means, key=means.__getitem__):g}  {shown}"
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["sweep", "table"])
    parser.add_argument("names", nargs="*", help=", ".join(SWEEPS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--models", type=Path, default=ROOT.parent / "shared" / "models")
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3, 1e-2])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--ranks", type=int, nargs="+", default=[16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--micro", type=int, default=16)
    options = parser.parse_intermixed_args()
    if options.what == "table":
        table()
    else:
        sweep(options.names, options)


if __name__ == "__main__":
    main()
