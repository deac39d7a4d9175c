"""A tiny PPO run, for the tests of the trainer and of resuming."""

from pathlib import Path

import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelforge.ppo.config import PPOConfig
from modelforge.ppo.trainer import PPOTrainer

TINY = Path(__file__).parent.parent / "examples" / "tiny" / "model"
LAYERS = 2  # the tiny model has four, and two show as much
TOKENIZER = AutoTokenizer.from_pretrained(TINY, padding_side="left")
PROMPTS = load_dataset(
    "json", data_files=str(TINY.parent / "data" / "prompts_train.jsonl"), split="train"
).select_columns(["prompt"])


def cheerful(completions, **kwargs):
    return [c[0]["content"].count("!") + 0.01 * len(c[0]["content"]) for c in completions]


def brief(completions, **kwargs):
    return [-0.1 * len(c[0]["content"].split()) for c in completions]


def policy(dtype=torch.float32, quantization_config=None, layers=LAYERS, **lora):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(
        TINY, dtype=dtype, quantization_config=quantization_config, num_hidden_layers=layers
    )
    return get_peft_model(
        base,
        LoraConfig(
            **{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM",
               "lora_dropout": 0.1, **lora}
        ),
    )  # fmt: skip


def trainer(folder, model=None, rewards=(cheerful,), data=PROMPTS, callbacks=None, **settings):
    """Rollouts of 8 completions, two minibatches of 4, two epochs: a cycle of four updates."""
    config = PPOConfig(
        **{
            "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none",
            "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
            "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2,
            "gradient_accumulation_steps": 1, "max_completion_length": 12, "max_steps": 8,
            "learning_rate": 2e-3, "value_learning_rate": 1e-2, "gradient_checkpointing": False,
            **settings,
        }
    )  # fmt: skip
    return PPOTrainer(
        policy() if model is None else model, list(rewards), config, train_dataset=data,
        processing_class=TOKENIZER, callbacks=callbacks,
    )  # fmt: skip


def first_minibatch(t):
    """A rollout and its first minibatch, as the training loop would come by them."""
    t.create_optimizer()
    t.current_gradient_accumulation_steps = 1
    t.model.train()
    return t._prepare_inputs(next(iter(t.get_train_dataloader())))


def logs(t):
    return [entry for entry in t.state.log_history if "loss" in entry]
