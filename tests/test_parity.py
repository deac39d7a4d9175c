"""`modelforge train` gives the losses of the same job written by hand against TRL, bit by bit."""

import json
from pathlib import Path

import pytest

import modelforge

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
STEPS = 6


def rows(name, count):
    lines = (TINY / "data" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def right_number(completions, answer, **kwargs):
    import re

    found = [re.findall(r"-?\d+", c[0]["content"]) for c in completions]
    return [float(bool(f) and f[-1] == a) for f, a in zip(found, answer, strict=True)]


def by_hand(strategy, data, tmp_path):
    """A script as TRL's documentation writes it."""
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    set_seed(7)  # TRL 1.16 does so before it makes the adapter, 1.14 does not
    config_class, trainer_class = {
        "sft": (trl.SFTConfig, trl.SFTTrainer),
        "dpo": (trl.DPOConfig, trl.DPOTrainer),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
    }[strategy]
    # TRL switches dropout off for DPO, and ModelForge on where lora_dropout is set.
    extra = {"sft": {"max_length": 128}, "dpo": {"max_length": 128, "disable_dropout": False}}.get(
        strategy, {"num_generations": 4, "max_completion_length": 16, "beta": 0.0, "top_k": 0}
    )
    trainer = trainer_class(
        model=AutoModelForCausalLM.from_pretrained(TINY / "model"),
        args=config_class(
            output_dir=str(tmp_path / "hand"),
            learning_rate=1e-3,
            max_steps=STEPS,
            per_device_train_batch_size=8,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            logging_steps=1,
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            seed=7,
            disable_tqdm=True,
            **extra,
        ),
        train_dataset=Dataset.from_list(data),
        processing_class=AutoTokenizer.from_pretrained(TINY / "model"),
        peft_config=LoraConfig(
            r=8,
            lora_alpha=16,
            lora_dropout=0.05,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
        **({"reward_funcs": right_number} if strategy == "grpo" else {}),
    )
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "grpo"])
def test_the_losses_are_those_of_a_script_by_hand(strategy, tmp_path):
    if strategy == "sft":
        messages = [row["messages"] for row in rows("sft_train", 64)]
        data = [{"prompt": m[:-1], "completion": m[-1:]} for m in messages]
    else:
        data = rows({"dpo": "preference_train", "grpo": "prompts_train"}[strategy], 64)
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(row) + "\n" for row in data[:8]))
    result = modelforge.train(
        {
            "strategy": strategy,
            "model_name": str(TINY / "model"),
            "dataset": str(file),
            "eval_dataset": str(held),
            "learning_rate": 1e-3,
            "max_steps": STEPS,
            "per_device_train_batch_size": 8,
            "lr_scheduler_type": "linear",
            "warmup_ratio": 0.1,
            "logging_steps": 1,
            "seed": 7,
            "lora_r": 8,
            "lora_alpha": 16,
            "lora_dropout": 0.05,
            "max_seq_length": 128,
            "report_to": "none",
            "output_dir": str(tmp_path / "runs"),
        }
        | (
            {
                "num_generations": 4,
                "generation": {"max_new_tokens": 16},
                "rewards": ["numeric_answer"],
            }
            if strategy == "grpo"
            else {}
        )
    )
    metrics = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    ours = [row["loss"] for row in metrics if "loss" in row]
    theirs = by_hand(strategy, data, tmp_path)
    assert len(ours) == STEPS
    assert ours == theirs
