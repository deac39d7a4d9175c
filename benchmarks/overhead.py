"""CPU seconds a step of `modelforge train` against the same job written by hand, in one run.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--steps 60] [--repeats 5] [--strategies dpo]

The two train alternately on the same rows with the same settings; only the training loop is
timed (its callbacks, metrics file and progress included), in CPU seconds, so that other work on
the machine does not count. The ratio is of the medians.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one of the tiny model's files, prompt and completion apart."""
    lines = (TINY / "data" / f"{name}.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    if name == "sft_train":
        return [{"prompt": r["messages"][:-1], "completion": r["messages"][-1:]} for r in found]
    return found


def settings(strategy: str, steps: int) -> dict[str, Any]:
    """What both sides train with."""
    return {
        "learning_rate": 1e-3,
        "max_steps": steps,
        "per_device_train_batch_size": 8,
        "logging_steps": 10,
        "logging_first_step": True,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "report_to": "none",
        "seed": 1,
    } | ({"num_generations": 4} if strategy == "grpo" else {})


def by_hand(strategy: str, steps: int, folder: Path) -> Any:
    """The trainer of a script as TRL's documentation writes it."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from modelforge.rewards import build_rewards, parse_rewards

    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    extra: dict[str, Any] = {"max_length": 128}
    rewards: dict[str, Any] = {}
    if strategy == "grpo":
        extra = {"max_completion_length": 16}
        # The same reward function, so that only the frame around the trainer differs.
        specs = parse_rewards(["numeric_answer"], where="rewards")
        rewards = {"reward_funcs": build_rewards(specs, tokenizer=tokenizer, base_dir=ROOT)[0]}
    config_class = {"sft": trl.SFTConfig, "dpo": trl.DPOConfig, "grpo": trl.GRPOConfig}[strategy]
    trainer_class = {"sft": trl.SFTTrainer, "dpo": trl.DPOTrainer, "grpo": trl.GRPOTrainer}[
        strategy
    ]
    data = {"sft": "sft_train", "dpo": "preference_train", "grpo": "prompts_train"}[strategy]
    return trainer_class(
        model=AutoModelForCausalLM.from_pretrained(TINY / "model"),
        args=config_class(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            disable_tqdm=False,
            **settings(strategy, steps),
            **extra,
        ),
        train_dataset=Dataset.from_list(rows(data)),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        **rewards,
    )


def ours(strategy: str, steps: int, folder: Path) -> Any:
    """The trainer that `modelforge train` builds, with all its callbacks."""
    from modelforge import load_config
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer, load

    data = {"sft": "sft_train", "dpo": "preference_train", "grpo": "prompts_train"}[strategy]
    source = folder / "data.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(data)))
    extra: dict[str, Any] = {"max_seq_length": 128}
    if strategy == "grpo":
        extra |= {"generation": {"max_new_tokens": 16}, "rewards": ["numeric_answer"]}
    job = prepare(
        load_config(
            {
                "strategy": strategy,
                "model_name": str(TINY / "model"),
                "dataset": str(source),
                "eval_split": 0,
                "lora_r": 16,
                "lora_alpha": 32,
                "output_dir": str(folder),
                "resume": "never",
            }
            | settings(strategy, steps)
            | extra
        )
    )
    job.run.create()
    return build_trainer(job, load(job))


def main() -> None:
    """Time both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategies", nargs="+", default=["sft", "dpo", "grpo"])
    options = parser.parse_args()
    import torch
    import trl

    lines = []
    for strategy in options.strategies:
        seconds: dict[str, list[float]] = {"by hand": [], "ours": []}
        for repeat in range(options.repeats):
            makers = [("by hand", by_hand), ("ours", ours)]
            for name, make in makers if repeat % 2 else reversed(makers):
                with tempfile.TemporaryDirectory() as folder:
                    trainer = make(strategy, options.steps, Path(folder))
                    begin = time.process_time()
                    trainer.train()
                    seconds[name].append((time.process_time() - begin) / options.steps)
        hand, own = (statistics.median(seconds[name]) for name in ("by hand", "ours"))
        lines.append(f"| {strategy} | {hand:.4f} | {own:.4f} | {own / hand:.3f} |")
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, trl {trl.__version__}; "
        f"medians of {options.repeats} runs of {options.steps} steps"
    )
    print("| strategy | by hand, CPU s/step | modelforge, CPU s/step | ratio |\n|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
