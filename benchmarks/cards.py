"""What a run saves, loaded by its own card: bases with and without a pad token, tied and untied.

    OMP_NUM_THREADS=1 python benchmarks/cards.py [--strategies sft dpo] [--seconds 600]

Each strategy trains two steps on each base, as an adapter and with all weights, and answers no
sample prompts. The lines of the card are then run as they stand, by plain transformers and PEFT:
they have to print an answer or a score. The logits or scores of their model are held against the
trainer's, and so are those of the merged model, where the card says how to merge.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import itertools
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # the bases of the tests

DATA = ROOT / "examples" / "tiny" / "data"
STRATEGIES = ("sft", "qlora", "reward", "dpo", "kto", "grpo", "rloo", "ppo", "distill")
ROWS = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "kto": "labelled"}  # fmt: skip
PADS = {"a pad token": "<|pad|>", "no pad token": None, "EOS as pad": "<|eos|>"}
TALK = [
    [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    for asked, answered in (("What is 2 plus 2?", "It is 4, as you can see."), ("Hello?", "Hi."))
]


def config(strategy: str, folder: Path, model: Path, rank: int) -> dict[str, Any]:
    """A run of two steps."""
    rows = (DATA / f"{ROWS.get(strategy, 'prompts')}_train.jsonl").read_text().splitlines()[:16]
    (folder / "rows.jsonl").write_text("\n".join(rows))
    values: dict[str, Any] = {
        "strategy": strategy, "model_name": str(model), "max_steps": 2, "learning_rate": 1e-2,
        "dataset": str(folder / "rows.jsonl"), "per_device_train_batch_size": 8, "eval_split": 0,
        "max_seq_length": 64, "save_strategy": "no", "report_to": "none", "lora_r": rank,
        "output_dir": str(folder / "runs"), "logging_steps": 1, "optim": "adamw_torch",
    }  # fmt: skip
    if strategy in ("grpo", "rloo", "ppo", "distill"):
        values["generation"] = {"max_new_tokens": 8}
    if strategy in ("grpo", "rloo", "ppo"):  # such rewards always tell answers apart
        values["rewards"] = [{"name": "length", "arguments": {"target": 6}}]
    if strategy in ("grpo", "rloo"):
        values["num_generations"] = 4
    if strategy == "distill":
        values["teacher_model"] = str(model)
    return values


def outputs(model: Any, batch: Any) -> Any:
    """Logits where there is a token, or scores."""
    import torch

    with torch.no_grad():
        logits = model.eval()(**batch).logits
    return logits if logits.dim() == 2 else logits[batch["attention_mask"].bool()]


def differences(strategy: str, folder: Path, form: dict[str, Any], rank: int) -> list[float]:
    """How far the card's model, and the merged one if there is one, are from the trainer's."""
    import torch
    from bases import base

    import modelforge
    from modelforge.evaluation import results
    from modelforge.training import run as running

    kept: list[Any] = []
    build, samples = running.build_trainer, results._samples
    running.build_trainer = lambda *given: kept.append(build(*given)) or kept[-1]
    results._samples = lambda *given, **named: []
    try:
        result = modelforge.train(config(strategy, folder, base(folder / "base", **form), rank))
    finally:
        running.build_trainer, results._samples = build, samples
    card = (result.model_dir / "README.md").read_text(encoding="utf-8")
    first, *merging = re.findall(r"```python\n(.*?)```", card, re.S)
    names: dict[str, Any] = {}
    os.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(first, names)
    if not printed.getvalue().strip():
        raise AssertionError("the card's lines print nothing")
    batch = names["tokenizer"].apply_chat_template(
        TALK, padding=True, return_dict=True, return_tensors="pt"
    )
    batch = {key: batch[key] for key in ("input_ids", "attention_mask")}
    trained = outputs(kept[-1].accelerator.unwrap_model(kept[-1].model), batch)
    found = [float((outputs(names["model"], batch) - trained).abs().max())]
    for block in merging:
        exec(block, names)
        merged = type(names["merged"]).from_pretrained("merged", dtype=torch.float32)
        found.append(float((outputs(merged, batch) - trained).abs().max()))
    return found


def main() -> None:
    """Print a row for each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    parser.add_argument("--first", type=int, default=0, help="leave out so many")
    asked = parser.parse_args()
    start = time.monotonic()
    print("| strategy | base | embeddings | trained | card | merged |\n|---|---|---|---|---|---|")
    count = 0
    each = itertools.product(PADS, (False, True), (4, 0), asked.strategies)
    for pad, tied, rank, strategy in list(each)[asked.first :]:
        whole = strategy in ("qlora", "ppo") and not rank
        if whole or time.monotonic() - start > asked.seconds:
            continue  # quantised weights are not trained, nor is the base that PPO refers to
        quiet = io.StringIO()
        with tempfile.TemporaryDirectory() as name:
            try:
                with contextlib.redirect_stderr(quiet), contextlib.redirect_stdout(quiet):
                    found = differences(
                        strategy, Path(name), {"pad": PADS[pad], "tied": tied}, rank
                    )
                told = " | ".join([f"{value:.1e}" for value in found] + ["–"] * (2 - len(found)))
            except Exception as error:
                told = f"FAILED {type(error).__name__}: {' '.join(str(error).split())[:200]} | –"
            os.chdir(ROOT)
        count += 1
        embeddings, what = "tied" if tied else "untied", "adapter" if rank else "all weights"
        print(f"| {strategy} | {pad} | {embeddings} | {what} | {told} |", flush=True)
    machine = f"{os.cpu_count()}-core {platform.machine()} CPU, Python {platform.python_version()}"
    print(f"\n({count} runs; largest difference of a logit or score;", end=" ")
    print(f"{datetime.date.today()}, {machine})")


if __name__ == "__main__":
    main()
