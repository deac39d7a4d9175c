"""Which strategy a config of another trainer is for, and whether it trains LoRA or all weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

from modelforge import registry
from modelforge.errors import ConfigError
from modelforge.importing.theirs import Theirs, listed, says_something

_PICTURES = re.compile(
    r"(?:^|[-_/.0-9])(?:VL|Vision|Omni|Audio|OCR|LLaVA|InternVL\d?|PaliGemma|Pixtral|SmolVLM|"
    r"Idefics\d?|MiniCPM-?V|Ovis\d?|whisper)(?:$|[-_/.0-9])",
    re.IGNORECASE,
)
# Keys that only one strategy's script of TRL has, in the order in which they are looked for.
_TELLING = (
    ("grpo", ("reward_funcs", "num_generations", "scale_rewards", "max_completion_length")),
    ("distill", ("teacher_model_name_or_path", "lmbda")),
    ("ppo", ("reward_model_path", "num_ppo_epochs", "kl_coef")),
    ("kto", ("desirable_weight", "undesirable_weight")),
    ("reward", ("center_rewards_coefficient",)),
    (
        "dpo",
        ("precompute_ref_log_probs", "rpo_alpha", "max_prompt_length", "ref_model_mixup_alpha"),
    ),
)
_NAMES = {
    "rm": "reward", "reward_modeling": "reward", "reward_trainer": "reward", "pt": "sft",
    "ipo": "dpo", "gkd": "distill", "sft_trainer": "sft", "train": "", "run": "",
}  # fmt: skip
# Where a config in sections says its method.
_SAYS = (
    *("stage", "method", "algorithm.name", "algorithm.type", "algorithm", "training_type"),
    *("trainer_type", "trainer", "task_type", "training.method", "training.stage", "mode"),
    *("training.algorithm", "type", "pipeline"),
)
#: Classes of TRL's arguments in a script, the one that counts beside others first.
TRAINERS = {
    "GRPOConfig": "grpo", "DPOConfig": "dpo", "ORPOConfig": "orpo", "KTOConfig": "kto",
    "RewardConfig": "reward", "RLOOConfig": "rloo", "SFTConfig": "sft",
}  # fmt: skip
_TRAINED_BY = tuple(name.replace("Config", "Trainer") for name in TRAINERS)
_OTHER_METHODS = {
    "orpo": "ORPO", "cpo": "CPO", "simpo": "SimPO", "gdpo": "GDPO", "ebft": "EBFT", "bco": "BCO",
    "online_dpo": "online DPO", "nash_md": "Nash-MD", "xpo": "XPO", "prm": "a process reward model",
    "gold": "GOLD", "opsd": "OPSD",
}  # fmt: skip


#: A strategy as their file names it, the key that says so, and what is doubtful about it.
Kind: TypeAlias = tuple[str, str, str]


def strategy_of(t: Theirs, asked: Callable[[Theirs], Kind], said: str) -> None:
    """Fill in the strategy: as its user says, or as the file does; a guess is said.

    Args:
        t: Their config.
        asked: What reads it in a file of its project.
        said: A strategy by name, or empty.

    Raises:
        ConfigError: If it is of a kind that is not trained here.
    """
    _of_text_alone(t)
    found, key, doubt = asked(t)
    if said:
        t.strategy = registry.get_strategy(said).name
        if key:
            t.changed(key, "as the command line says", "strategy", said)
        return
    name = str(found).lower()
    if name in _OTHER_METHODS:
        fix = _near(name) or "write a strategy of your own: examples/02_own_strategy.py"
        t.refuse(key, f"{_OTHER_METHODS[name]} is no strategy here", fix)
    strategy = _NAMES.get(name, name) or "sft"
    if strategy not in registry.list_strategies():
        t.refuse(key, f"{found} is no strategy here", "set one: modelforge init STRATEGY --from …")
    t.strategy = strategy
    if doubt:
        what = f"{doubt}: `modelforge init STRATEGY --from {t.path.name}` says another"
        t.open(key, what, "strategy", strategy)
    elif key:
        t.changed(key, "", "strategy", strategy)


def _near(name: str) -> str:
    try:
        registry.get_strategy(name)
    except ConfigError as error:
        return error.problems[0].fix
    return ""


def _of_text_alone(t: Theirs) -> None:
    """Refuse the models and keys that are for pictures, videos and sounds, and other engines."""
    key, name = t.find("model_name_or_path", "base_model", "model", "model_name")
    if isinstance(name, str) and _PICTURES.search(name):
        t.refuse(key, f"{name} is a model of pictures or sounds: every strategy trains text")
    for dotted, value in t.leaves.items():
        one = dotted.endswith("_size") and value in (1, "auto")  # one way of parallelism is none
        for part in (dotted, dotted.rpartition(".")[2], dotted.partition(".")[0]):
            if part in t.table.refused and says_something(value) and not one:
                t.refuse(dotted, t.table.refused[part], "it is not trained here")


def trl(t: Theirs) -> Kind:
    """TRL's files do not say it: their command does, or their keys."""
    if t.command and t.command[-1] not in ("", "train", "run"):
        return t.command[-1], "", ""
    if str(t.get("lora_task_type", otherwise="")).upper() == "SEQ_CLS":
        return "reward", "lora_task_type", ""
    where = "/".join(t.path.resolve().parts[-3:]).lower()
    losses = {str(name) for name in listed(t.get("loss_type"))}
    if losses & {"sigmoid", "ipo", "hinge", "apo_zero", "apo_down", "robust", "sppo_hard"}:
        return "dpo", "", ""
    if other := _named(where, _OTHER_METHODS):
        return other, "", ""
    for name, keys in _TELLING:
        if any(says_something(t.get(key)) for key in keys):
            return name, "", ""
    if known := _named(where, ("dpo", "grpo", "kto", "rloo", "ppo", "reward", "sft")):
        return known, "", ""
    for key in ("assistant_only_loss", "completion_only_loss", "dataset_text_field", "packing"):
        if says_something(t.get(key)):
            return "sft", "", f"{key} is a key of TRL's sft"
    if t.get("beta") is not None:
        return "dpo", "", "beta is a key of TRL's dpo, and of others"
    return "sft", "", "the file does not say which of TRL's commands it is for"


def _named(where: str, names: Iterable[str]) -> str:
    """The first of these methods that stands in a path as a word of its own."""
    found = (name for name in names if re.search(rf"(?:^|[^a-z]){name}(?:[^a-z]|$)", where))
    return next(found, "")


def llamafactory(t: Theirs) -> Kind:
    """LLaMA-Factory's ``stage``; a file without training data trains nothing."""
    if not t.get("dataset", "train_dataset") and not says_something(t.get("do_train")):
        fix = "`modelforge export` merges, `generate` and `chat` answer"
        t.refuse("", "is no training: it merges, answers or chats", fix)
    stage = t.find("stage")
    if stage[1]:
        return str(stage[1]), stage[0], ""
    if "dpo" in t.path.name.lower():
        return "dpo", "", "the file's name says dpo"
    return "sft", "", ""


def axolotl(t: Theirs) -> Kind:
    """Axolotl's ``rl`` and ``reward_model``."""
    rl, reward = t.find("rl"), t.find("reward_model")
    if says_something(rl[1]):
        if rl[1] == "ipo":
            t.ours["loss_type"] = ["ipo"]
        if rl[1] == "gdpo":  # GRPO that normalises each reward before the sum
            t.ours["multi_objective_aggregation"] = "normalize_then_sum"
            return "grpo", rl[0], ""
        return str(rl[1]), rl[0], ""
    return ("reward", reward[0], "") if says_something(reward[1]) else ("sft", "", "")


def swift(t: Theirs) -> Kind:
    """ms-swift's command and ``rlhf_type``."""
    task = t.find("task_type")
    if task[1] in ("embedding", "reranker", "generative_reranker"):
        t.refuse(task[0], f"{task[1]}: models that answer and models that score are trained here")
    if task[1] == "seq_cls":
        t.refuse(task[0], "seq_cls: classification into labels is not trained here")
    if t.command and t.command[0] == "megatron":
        t.refuse("megatron", "another engine than TRL")
    if t.command and t.command[-1] in ("sample", "infer", "deploy", "run"):
        t.refuse(t.command[-1], "is no training", "`modelforge generate` answers a file of prompts")
    kind = t.find("rlhf_type")
    if kind[1] and not (t.command and t.command[-1] in ("sft", "pt")):
        return str(kind[1]), kind[0], ""
    if t.command and t.command[-1] == "rlhf":
        return "dpo", "", "rlhf_type is not said, and is dpo by default there"
    return "sft", "", ""


def torchtune(t: Theirs) -> Kind:
    """torchtune's loss; a recipe without a model or an optimizer trains nothing."""
    loss = str(t.values.get("loss", {}).get("_component_", "") if isinstance(
        t.values.get("loss"), dict) else "")  # fmt: skip
    everything = str(t.values)
    for text, kind in (
        ("vision", "pictures: every strategy trains text"),
        ("multimodal", "pictures: every strategy trains text"),
        ("QATQuantizer", "quantisation-aware training"),
        ("early_exit", "early exit"),
    ):
        if text in everything:
            t.refuse("model", kind)
    if (
        "model" not in t.values
        and "policy_model" not in t.values
        and "base_model_path" not in t.values
    ):
        t.refuse(
            "", "holds no model that is trained", "`modelforge generate` and `evaluate` use one"
        )
    if not t.values.get("optimizer"):
        t.refuse("", "is no training: it has no optimizer")
    if t.values.get("kd_loss"):
        why = (
            "distillation on the data's own answers: strategy distill learns from the student's own"
        )
        t.refuse("kd_loss", why, "strategy distill, with teacher_model")
    if "DPOLoss" in loss:
        return "dpo", "loss._component_", ""
    if "GRPO" in loss or t.get("grpo_samples"):
        return "grpo", "", ""
    if "PPOLoss" in loss or t.get("ppo_epochs"):
        return "ppo", "", ""
    return "sft", "", ""


def unsloth(t: Theirs) -> Kind:
    """The class of arguments in a script of Unsloth's, or its keys."""
    owner = str(t.values.get("class", ""))
    for word, kind in (("Vision", "pictures"), ("SentenceTransformer", "embedding models")):
        if word in owner or any(word in str(name) for name in t.values):
            t.refuse(
                "", f"{owner or word} is for {kind}: models that answer or score are trained here"
            )
    found = [name for name in TRAINERS if name in t.values]
    found += [name.replace("Trainer", "Config") for name in t.values if name in _TRAINED_BY]
    for name, strategy in TRAINERS.items():
        if name in found:
            return strategy, "", ""
    if any(name in t.values for name in ("TrainingArguments", "UnslothTrainingArguments")):
        return "sft", "", ""
    return trl(t)


def sections(t: Theirs) -> Kind:
    """A word for the method, or keys that only one has."""
    words = {"ppo": "ppo", "grpo": "grpo", "dpo": "dpo", "sft": "sft", "supervised": "sft",
             "reward": "reward", "rm": "reward", "qlora": "qlora", "kto": "kto", "rloo": "rloo",
             "rlhf": "rlhf", "reward_model": "reward", "reward_modeling": "reward",
             "supervised_finetuning": "sft", "supervised_fine_tuning": "sft", "finetune": "sft",
             "lora": "sft", "full": "sft"}  # fmt: skip
    for name in _SAYS:
        at = name if name in t.leaves else ""
        value = str(t.leaves.get(name, "")).lower().replace("-", "_").removesuffix("trainer")
        if at and value in words | dict.fromkeys(_OTHER_METHODS):
            return words.get(value, value), at, ""
    if t.get("loss_type") == "ranking_loss" or t.get("reward_head_hidden_size"):
        if t.get("kl_penalty", "clip_ratio", "ppo_epochs") is not None:
            return "rlhf", "", ""
        return "reward", "", ""
    if t.get("group_size") is not None:
        return "grpo", "", ""
    if t.get("clip_ratio", "kl_penalty", "ppo_epochs", "kl_coef") is not None:
        return "ppo", "", ""
    if t.get("beta") is not None:
        return "dpo", "", "beta is a key of dpo"
    return "sft", "", "the file does not say what it trains"
