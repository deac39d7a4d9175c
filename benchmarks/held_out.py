"""How long the held-out rows take by the evaluation batch, and how far their figures differ.

    OMP_NUM_THREADS=1 python benchmarks/held_out.py

The rows are the tiny model's held-out ones. Beside the tiny model, a random one with wider layers
is measured.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

ROOT = Path(__file__).parents[1]
BATCHES = (1, 4, 16)


def wider(folder: Path) -> Path:
    """A random model with the tiny one's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tiny = ROOT / "examples" / "tiny" / "model"
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tiny)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 768, 6
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 4, 32
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(folder)
    return folder


def measured(strategy: str, model: Path, size: int, folder: Path) -> tuple[float, dict[str, float]]:
    """Seconds of an evaluation, after one that warms up, and its figures."""
    from modelforge import load_config
    from modelforge.callbacks.metrics import SESSION
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    said = [f"output_dir={folder}/{size}", "report_to=none", f"model_name={model}", "resume=never"]
    config = load_config(
        ROOT / f"configs/tiny/{strategy}.json",
        overrides=[*said, f"per_device_eval_batch_size={size}"],
    )
    prepared = prepare(config)
    prepared.run.path.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(prepared, load(prepared))
    trainer.evaluate()
    start = time.perf_counter()
    found = trainer.evaluate()
    seconds = time.perf_counter() - start
    return seconds, {k: v for k, v in found.items() if not k.endswith(SESSION)}


def main() -> None:
    """Print a row for each strategy and model."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    import contextlib
    import io

    print("| strategy | model | " + " | ".join(f"batch {b}, s" for b in BATCHES) + " | largest |")
    print("|---|---|" + "---|" * (len(BATCHES) + 1))
    with tempfile.TemporaryDirectory() as name:
        models = {"tiny": ROOT / "examples/tiny/model", "6 layers of 256": wider(Path(name, "m"))}
        for strategy in ("sft", "reward", "dpo"):
            for label, model in models.items():
                with contextlib.redirect_stderr(io.StringIO()):
                    found = [
                        measured(strategy, model, size, Path(name, f"{strategy}-{label}"))
                        for size in BATCHES
                    ]
                figures = [each for _, each in found]
                largest = max(
                    abs(other[key] - value) / max(1.0, abs(value))
                    for other in figures
                    for key, value in figures[0].items()
                )
                times = " | ".join(f"{seconds:.2f}" for seconds, _ in found)
                print(f"| {strategy} | {label} | {times} | {largest:.1e} |", flush=True)
    print(
        f"\n(150 held-out rows; largest: difference of a figure; {datetime.date.today()}, "
        f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()})"
    )


if __name__ == "__main__":
    main()
