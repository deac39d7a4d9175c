"""What to write here in place of a class or function that other libraries have."""

from __future__ import annotations

import re

# What the classes of other libraries begin with, and the strategy that does the same here.
_METHODS = {
    "SFT": "sft", "SupervisedFineTuning": "sft", "SupervisedFinetuning": "sft", "Finetune": "sft",
    "FineTuning": "sft", "Lora": "sft", "LoRA": "sft", "QLoRA": "qlora", "QLora": "qlora",
    "Reward": "reward", "RewardModel": "reward", "RM": "reward", "DPO": "dpo", "KTO": "kto",
    "GRPO": "grpo", "RLOO": "rloo", "PPO": "ppo", "RLHF": "rlhf", "GKD": "distill",
    "Distillation": "distill",
}  # fmt: skip
_KINDS = re.compile(
    r"(?P<method>[A-Za-z]+?)(?:Training)?(?P<kind>Trainer|Config|Arguments|Args|Pipeline|Runner|Stage)$"
)
_TRAIN = 'modelforge.train({{"strategy": "{0}", "model_name": "…", "dataset": "…"}}), or its file'
_OTHERS = {
    "Trainer": _TRAIN.format("sft"),
    "ModelForge": _TRAIN.format("sft"),
    "Pipeline": 'modelforge.train({"strategy": "rlhf", …}), or RLHFTrainer(RLHFConfig(…)).run()',
    "TrainingArguments": "its fields are keys of the config: modelforge.train({…})",
    "ModelConfig": "its fields are keys of the config: modelforge.train({…})",
    "LoraConfig": "lora_r, lora_alpha, lora_dropout and the section lora are keys of the config",
    "PeftConfig": "lora_r, lora_alpha, lora_dropout and the section lora are keys of the config",
    "BitsAndBytesConfig": "use_4bit and use_8bit are keys of the config",
    "FastLanguageModel": 'set "provider": "unsloth" in the config',
    "RewardModel": "a reward run's folder is a reward: name it in reward_model or rewards",
    "PolicyModel": 'model_name names the policy: modelforge.train({"strategy": "ppo", …})',
    "ValueModel": "the value head belongs to PPO: ppo.value_mode says what it reads",
    "load_model": "the config's model_name names it; a run's folder loads as its model card says",
    "load_dataset": "the config's dataset names it; `modelforge data CONFIG` shows its rows",
    "from_yaml": 'load_config("config.yaml")',
    "from_json": 'load_config("config.json")',
    "load_yaml": 'load_config("config.yaml")',
    "finetune": _TRAIN.format("sft"),
    "fine_tune": _TRAIN.format("sft"),
    "run": _TRAIN.format("sft"),
    "fit": _TRAIN.format("sft"),
    "generate": "`modelforge generate RUN --prompts FILE` answers a file of prompts",
    "chat": "`modelforge chat RUN` talks with a trained model",
    "export": "`modelforge export RUN` writes a model in another format",
    "merge": "`modelforge export RUN` merges an adapter",
}


def in_place_of(name: str) -> str:
    """What to write in place of a name of other libraries; empty for one that is not known.

    >>> in_place_of("SFTTrainer")
    'write modelforge.train({"strategy": "sft", "model_name": "…", "dataset": "…"}), or its file'
    """
    if told := _OTHERS.get(name):
        return f"write {told}" if told.startswith("modelforge.") else told
    if name.startswith("train_") and (trained := strategy_named(name)):
        return f"write {_TRAIN.format(trained)}"
    found = _KINDS.fullmatch(name)
    strategy = _METHODS.get(found["method"]) if found else None
    return f"write {_TRAIN.format(strategy)}" if strategy else ""


def strategy_named(command: str) -> str:
    """The strategy that a command or script of other tools trains with; empty for another name.

    >>> strategy_named("train-reward-model"), strategy_named("sft"), strategy_named("doctor")
    ('reward', 'sft', '')
    """
    words = command.removesuffix(".py").lower().replace("-", "_")
    words = words.removeprefix("train_").removesuffix("_train").removesuffix("_trainer")
    wanted = words.removesuffix("_training").replace("_", "")
    return next((s for name, s in _METHODS.items() if name.lower() == wanted), "")
