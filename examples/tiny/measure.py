"""Runs each strategy on the tiny model with TRL alone and prints what it changed on held-out rows.

    OMP_NUM_THREADS=1 python -m modelforge.tiny.measure             # all of them, in order
    OMP_NUM_THREADS=1 python -m modelforge.tiny.measure sft grpo    # these

and writes the figures under ``strategies`` in ``model/figures.json``. The settings below are those
that were found to show each effect in about a minute.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, set_seed
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from modelforge.tiny import card, evaluate
from modelforge.tiny.evaluate import MODEL, read_rows
from modelforge.tiny.make_data import SEED

COMMON: dict[str, Any] = {
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_steps": 50,
    "seed": SEED,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
}
LORA: dict[str, Any] = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
SETTINGS: dict[str, dict[str, Any]] = {
    "sft": {
        "learning_rate": 2e-3,
        "max_steps": 300,
        "per_device_train_batch_size": 16,
        "assistant_only_loss": True,
    },
    "dpo": {
        "learning_rate": 1e-3,
        "max_steps": 200,
        "per_device_train_batch_size": 16,
        "beta": 0.1,
        # Without the second term the answers grow courteous and wrong: pairs that differ in one
        # digit push down what they share.
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, 0.5],
    },
    "reward": {
        "learning_rate": 1e-3,
        "max_steps": 200,
        "per_device_train_batch_size": 16,
    },
    "grpo": {
        "learning_rate": 2e-3,
        "max_steps": 150,
        "per_device_train_batch_size": 32,
        "num_generations": 8,
        "max_completion_length": 32,
        "beta": 0.0,
    },
}


def run(trainer: Any) -> float:
    """Trains, and returns the seconds a step that it took."""
    start = time.monotonic()
    trainer.train()
    return (time.monotonic() - start) / trainer.state.global_step


def right_number(completions: list[list[dict]], answer: list[str], **_: Any) -> list[float]:
    """1 where the completion's last number is the row's answer."""
    numbers = [evaluate.last_number(c[0]["content"]) for c in completions]
    return [float(n == a) for n, a in zip(numbers, answer, strict=True)]


def measure_causal(name: str, model: Any, tokenizer: Any) -> dict[str, float]:
    """The figures that ``name`` (sft, dpo or grpo) is meant to change."""
    if name == "sft":
        rows = read_rows("sft_eval")
        return {
            "loss": evaluate.sft_loss(model, tokenizer, rows),
            "accuracy": evaluate.sft_accuracy(model, tokenizer, rows),
        }
    if name == "dpo":
        pairs = read_rows("preference_eval")
        courteous, right = evaluate.manners(model, tokenizer, pairs)
        return {
            "preference_accuracy": evaluate.preference_accuracy(model, tokenizer, pairs),
            "courteous": courteous,
            "right": right,
        }
    rows = read_rows("prompts_eval")
    return {
        f"reward_{'sampled' if sample else 'greedy'}": evaluate.numeric_reward(
            model, tokenizer, rows, sample=sample
        )
        for sample in (False, True)
    }


def causal(name: str, folder: str) -> dict[str, Any]:
    model, tokenizer = evaluate.load()
    before = measure_causal(name, model, tokenizer)
    data = {"sft": "sft_train", "dpo": "preference_train", "grpo": "prompts_train"}[name]
    trainer_class, config_class = {
        "sft": (SFTTrainer, SFTConfig),
        "dpo": (DPOTrainer, DPOConfig),
        "grpo": (GRPOTrainer, GRPOConfig),
    }[name]
    arguments: dict[str, Any] = {"reward_funcs": right_number} if name == "grpo" else {}
    if name == "dpo":
        arguments["eval_dataset"] = Dataset.from_list(read_rows("preference_eval"))
    trainer = trainer_class(
        model=model,
        args=config_class(output_dir=folder, **COMMON, **SETTINGS[name]),
        train_dataset=Dataset.from_list(read_rows(data)),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", **LORA),
        **arguments,
    )
    seconds = run(trainer)
    after = measure_causal(name, trainer.model, tokenizer)
    if name == "dpo":
        after["trl_rewards_accuracy"] = trainer.evaluate()["eval_rewards/accuracies"]
    return {"before": before, "after": after, "seconds_per_step": seconds}


def reward(folder: str) -> dict[str, Any]:
    _, tokenizer = evaluate.load()
    set_seed(SEED)  # the score head is drawn at random
    model = AutoModelForSequenceClassification.from_pretrained(MODEL, num_labels=1)
    pairs, other = read_rows("preference_eval"), read_rows("preference_b_eval")
    before, _ = evaluate.reward_accuracy(model, tokenizer, pairs)
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(output_dir=folder, **COMMON, **SETTINGS["reward"]),
        train_dataset=Dataset.from_list(read_rows("preference_train")),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="SEQ_CLS", modules_to_save=["score"], **LORA),
    )
    seconds = run(trainer)
    accuracy, margin = evaluate.reward_accuracy(trainer.model, tokenizer, pairs)
    accuracy_b, _ = evaluate.reward_accuracy(trainer.model, tokenizer, other)
    after = {"pair_accuracy": accuracy, "pair_accuracy_b": accuracy_b, "margin": margin}
    return {"before": {"pair_accuracy": before}, "after": after, "seconds_per_step": seconds}


def main(names: list[str]) -> None:
    path = MODEL / "figures.json"
    figures = json.loads(path.read_text())
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            result = reward(folder) if name == "reward" else causal(name, folder)
        figures.setdefault("strategies", {})[name] = {"settings": SETTINGS[name], **result}
        print(name, json.dumps(result, indent=2), flush=True)
    path.write_text(json.dumps(figures, indent=2) + "\n")
    card.main()


if __name__ == "__main__":
    main(sys.argv[1:] or list(SETTINGS))
