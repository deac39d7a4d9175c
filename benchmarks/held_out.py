"""How far held-out figures differ by the evaluation batch, and how long the rows take.

    OMP_NUM_THREADS=1 python benchmarks/held_out.py [--only sft dpo] [--rows 40]

Each strategy's adapter is moved off its start at random, and measures the same held-out rows with
evaluation batches of 1, 4 and 16. So do ways of computing them: padded, packed for training, with
other losses; and PPO by a reward model that shares the policy's base. In 8 and 16 bits, which need
a GPU, rows are measured one by one.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
BATCHES = (1, 4, 16)
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "kto": "labelled"}  # fmt: skip
ANSWERS = ("generation.max_new_tokens=12", "per_device_train_batch_size=8")
GROUPS = (*ANSWERS, "num_generations=4")
# Preset, and what is said beside.
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "sft, padding-free": ("sft", ()),
    "sft, padded": ("sft", ("attn_implementation=sdpa", "padding_free=false")),
    "sft, packed for training": ("sft", ("packing=true",)),
    "sft, smoothed labels": ("sft", ("label_smoothing_factor=0.1",)),
    "sft, loss_type dft": ("sft", ("loss_type=dft",)),
    "sft, all weights": ("sft", ("lora_r=0", "lora_alpha=null")),
    "qlora": ("qlora", ()),
    "reward": ("reward", ()),
    "dpo": ("dpo", ()),
    "dpo, precomputed reference": ("dpo", ("precompute_ref_log_probs=true",)),
    "dpo, several losses": ("dpo", ('loss_type=["sigmoid","sft"]', "ld_alpha=0.5")),
    "kto": ("kto", ("per_device_train_batch_size=4",)),
    "grpo": ("grpo", GROUPS),
    "rloo": ("grpo", (*GROUPS, "strategy=rloo")),
    "distill": ("distill", (*ANSWERS, f"teacher_model={TINY / 'model'}")),
    "ppo": ("ppo", ANSWERS),
    "ppo, reward model on the policy's base": ("ppo", ANSWERS),
}


def wider(folder: Path) -> Path:
    """A random model with the tiny one's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(TINY / "model")
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 768, 6
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 4, 32
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY / "model").save_pretrained(folder)
    return folder


def first_rows(preset: str, count: int, folder: Path) -> Path:
    """The first held-out rows of a preset's data."""
    source = TINY / "data" / f"{DATA.get(preset, 'prompts')}_eval.jsonl"
    path = folder / source.name
    path.write_text("\n".join(source.read_text().splitlines()[:count]))
    return path


def judge(folder: Path) -> Path:
    """A reward model on the tiny base, trained for two steps."""
    import modelforge

    said = [f"output_dir={folder}", f"dataset={first_rows('reward', 64, folder)}", "max_steps=2",
            "report_to=none", "eval_dataset=null", "eval_split=0", "save_strategy=no",
            "warmup_ratio=0"]  # fmt: skip
    return modelforge.train(ROOT / "configs/tiny/reward.json", overrides=said).run_dir


def measured(preset: str, said: tuple[str, ...], size: int, folder: Path) -> tuple[Any, ...]:
    """The batch that was used, seconds of an evaluation, and its figures."""
    import torch

    from modelforge import load_config
    from modelforge.callbacks.metrics import SESSION
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    config = load_config(
        ROOT / f"configs/tiny/{preset}.json",
        overrides=["report_to=none", "resume=never", *said, f"output_dir={folder}/{size}",
                   f"per_device_eval_batch_size={size}"],
    )  # fmt: skip
    prepared = prepare(config)
    prepared.run.path.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(prepared, load(prepared))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=chance)
    start = time.process_time()
    found = trainer.evaluate()
    seconds = time.process_time() - start
    used = trainer.args.per_device_eval_batch_size
    return used, seconds, {k: v for k, v in found.items() if not k.endswith(SESSION)}


def row(name: str, model: Path, count: int, folder: Path) -> str:
    """What one case comes to."""
    preset, said = CASES[name]
    rows = first_rows(preset, count, folder)
    said = (*said, f"model_name={model}", f"eval_dataset={rows}", f"dataset={rows}")
    if preset in ("grpo", "ppo", "distill"):
        said = (*said, f"eval_prompts={min(count, 12)}")
    if name.startswith("ppo, reward model"):
        said = (*said, f'rewards=["{judge(folder)}"]')
    found = [measured(preset, said, size, folder) for size in BATCHES]
    figures = [each for *_, each in found]
    assert all(each.keys() == figures[0].keys() for each in figures) and len(figures[0]) > 2
    largest = max(
        abs(other[key] - value) / max(1.0, abs(value))
        for other in figures
        for key, value in figures[0].items()
    )
    times = " | ".join(f"{seconds:.2f}" for _, seconds, _ in found)
    used = ", ".join(dict.fromkeys(str(used) for used, *_ in found))
    return f"{times} | {used} | {len(figures[0])} | {largest:.1e}"


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=list(CASES), help="names of cases")
    parser.add_argument("--rows", type=int, default=40, help="held-out rows")
    parser.add_argument("--wide", action="store_true", help="a wider model with random weights")
    asked = parser.parse_args()
    times = " | ".join(f"batch {size}, s" for size in BATCHES)
    print(f"| case | {times} | batch used | figures | largest |\n|---|{'---|' * 6}")
    with tempfile.TemporaryDirectory() as name:
        model = wider(Path(name, "m")) if asked.wide else TINY / "model"
        for number, case in enumerate(each for each in CASES if each in asked.only):
            folder = Path(name, str(number))
            folder.mkdir()
            quiet = io.StringIO()
            try:
                with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
                    told = row(case, model, asked.rows, folder)
            except Exception as error:
                told = f"FAILED {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"| {case} | {told} |", flush=True)
    print(
        f"\n({asked.rows} held-out rows, of prompts at most 12; seconds of CPU time; largest: "
        f"difference of a figure; {datetime.date.today()}, {os.cpu_count()}-core "
        f"{platform.machine()} CPU, Python {platform.python_version()})"
    )


if __name__ == "__main__":
    main()
