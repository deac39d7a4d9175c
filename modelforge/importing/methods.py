"""Templates, rewards, optimisers and adapters of other trainers → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from modelforge.importing.theirs import Theirs, listed, says_something

LAYOUTS = ("alpaca", "chatml", "llama3", "vicuna", "zephyr")
_TALKS = re.compile(
    r"instruct|chat|[-_]it\b|[-_]it[-_]|thinking|sft|zephyr|assistant", re.IGNORECASE
)
#: What is said where TRL trains on whole conversations.
WHOLE = (
    "TRL trains on every token of messages, the user's too; ModelForge on the assistant's alone: "
    "train_on everything does as TRL"
)
_RL = ("grpo", "rloo", "ppo", "rlhf")
# Rewards that go by the same name here, and those that are near.
_REWARDS = {
    **dict.fromkeys(
        (
            *("accuracy_reward", "think_format_reward", "get_soft_overlong_punishment"),
            *("reasoning_accuracy_reward", "get_repetition_penalty_reward"),
            *("get_cosine_scaled_reward",),
        )
    ),
    "accuracy": "accuracy_reward",
    "format": "think_format_reward",
    "soft_overlong": "get_soft_overlong_punishment",
    "repetition": "get_repetition_penalty_reward",
    "cosine": "get_cosine_scaled_reward",
}


def template(t: Theirs, key: str, value: Any) -> None:
    """A chat template: inline Jinja becomes a file beside our config."""
    text = str(value or "")
    if not text:
        t.lose(key, "")
    elif "{%" in text or "{{" in text:
        name = f"{t.path.stem}.jinja"
        t.files[name] = text
        t.put(key, value, "chat_template", name, "the Jinja text, in a file beside our config")
    elif text.endswith((".jinja", ".j2")):
        t.put(key, value, "chat_template", t.place(text))
    elif text in (*LAYOUTS, "none"):
        t.put(key, value, "chat_template", text)
    elif text == "default":
        t.leave(key, "the model's own template is the default")
    else:
        t.open(key, f"there is no template {text} here; the model's own is used")


def ax_template(t: Theirs, key: str, value: Any) -> None:
    """Axolotl's template names: its own layouts, or the tokenizer's template."""
    text = str(value or "")
    if not text or text in LAYOUTS:
        template(t, key, value)
    elif text.startswith("tokenizer_default"):
        t.leave(key, "the tokenizer's own template is the default")
    elif text == "jinja":
        t.leave(key, "the Jinja text says it")
    else:
        t.leave(key, f"{text} is the template that such models come with: theirs is used")


def lf_template(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory's names: only a base model without a template of its own needs one here."""
    text = str(value or "")
    if not text:
        t.lose(key, "")
    elif text in LAYOUTS and not _TALKS.search(str(t.get("model_name_or_path", otherwise=""))):
        t.put(key, value, "chat_template", text)
    elif text in ("default", "empty"):
        note = "the model's own template, or the built-in plain one for a model without"
        t.changed(key, note, "chat_template", "auto")
    elif text.endswith("_nothink"):
        note = "the model's own template is used, without a thought where it has that switch"
        t.put(key, value, "chat_template_kwargs.enable_thinking", False, note)
    else:
        t.leave(key, f"{text} is the template that such models come with: the model's own is used")


def batching(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory's ways to make batches."""
    text = str(value or "normal")
    if text == "padding_free":
        t.put(key, value, "padding_free", True)
    elif text == "dynamic_batching":
        t.lose(key, "a step has a fixed number of rows here")
    elif "pack" in text:
        t.put(key, value, "packing", True)
    else:
        t.leave(key, "rows are batched as they come")


def packing_of_pt(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory packs plain text by default; no is an answer there."""
    if says_something(value) or (value is False and t.get("stage") == "pt"):
        t.put(key, value, "packing", bool(value))
    else:
        t.lose(key, "")


def pref_loss(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory's preference losses."""
    text = str(value or "sigmoid")
    if t.strategy != "dpo":
        t.leave(key, "only its dpo looks at it")
    elif text in ("orpo", "simpo", "bco_pair", "kto_pair") and text != "bco_pair":
        near = (
            "examples/04_orpo.py trains it" if text == "orpo" else "loss_type sigmoid_norm is near"
        )
        t.refuse(key, f"the loss {text}: dpo has none of that name", near)
    else:
        t.put(key, value, "loss_type", [text])


def dist_config(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory 1's section of several cards."""
    names = {"fsdp2": "fsdp", "fsdp": "fsdp", "deepspeed": "zero3", "ddp": "ddp"}
    for name, inner in (value or {}).items():
        at = f"{key}.{name}"
        if name == "name" and inner in names:
            ours = names[inner]
            if inner == "deepspeed" and "3" not in str((value or {}).get("config_file", "")):
                ours = "zero2"
            t.put(at, inner, "distributed.backend", ours)
        elif name in ("ep_size", "ep_dispatcher", "cp_size", "tp_size", "cp_mode"):
            if says_something(inner) and inner != 1:
                t.refuse(at, "another way of parallelism than over rows and weights")
            t.lose(at, "")
        elif name == "config_file":
            t.leave(at, "the shipped settings; name a file in distributed.config for others")
        else:
            t.lose(at, "the shipped settings say it")


def optim_config(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory 1's section of the optimiser."""
    for name, inner in (value or {}).items():
        if name == "name" and str(inner).startswith("adamw"):
            t.leave(f"{key}.{name}", "AdamW")
        else:
            t.lose(f"{key}.{name}", f"there is no optimiser {inner} here")


def quiet_section(t: Theirs, key: str, value: Any) -> None:
    """A section that says how a model is loaded."""
    t.leave(key, "ModelForge finds it out") if value else t.lose(key, "")


def projected(t: Theirs, key: str, value: Any) -> None:
    """GaLore and APOLLO: transformers has both as optimisers."""
    method = "galore" if "galore" in key else "apollo"
    if not says_something(value):
        t.lose(key, "")
        return
    slow = t.get(f"{method}_layerwise")
    t.put(key, value, "optim", f"{method}_adamw" + ("_layerwise" if slow else ""))
    targets = t.get(f"{method}_target", otherwise="all")
    if f"{method}_layerwise" in t.leaves:
        t.changed(f"{method}_layerwise", "the optimiser's name says it")
    ours = [r".*\.self_attn\..*", r".*\.mlp\..*"] if targets == "all" else listed(targets)
    t.put(f"{method}_target", targets, "optim_target_modules", ours)
    names = {f"{method}_rank": "rank", f"{method}_update_interval": "update_proj_gap"}
    names |= {f"{method}_scale": "scale", "apollo_scale_type": "scale_type"}
    said = {n: (o, t.leaves[n]) for n, o in names.items() if t.leaves.get(n) is not None}
    arguments = ",".join(f"{ours}={inner}" for ours, inner in said.values())
    for name in said:
        t.changed(name, "", "optim_args", arguments)
    if arguments:
        t.ours["optim_args"] = arguments


def oft(t: Theirs, key: str, value: Any) -> None:
    """OFT is one of the methods that ``lora.peft_type`` names."""
    if t.said("lora.peft_type") != "OFT":
        t.lose(key, "no OFT is trained")
    elif key == "oft_target":
        targets = "all-linear" if str(value) == "all" else listed(value)
        t.put(key, value, "lora.target_modules", targets)
    elif key == "oft_rank":
        t.put(key, value, "lora.r", int(value or 0))
    else:
        t.put(key, value, f"lora.{key}", value)


def rewards(t: Theirs, key: str, value: Any) -> None:
    """Reward functions: by name, or by their place in a Python file."""
    if t.strategy not in _RL:
        t.lose(key, f"{t.strategy} has no rewards")
        return
    weights = listed(t.get("reward_weights"))
    plugin = t.get("external_plugins")
    for index, name in enumerate(listed(value)):
        text, note = str(name), ""
        if text in _REWARDS:
            ours = _REWARDS[text] or text
            note = "" if ours == text else "TRL's, which is near"
        elif plugin:
            ours, note = f"{t.place(str(listed(plugin)[0]))}:{text}", "a function of that name"
            if "external_plugins" in t.leaves and not t.told("external_plugins"):
                t.changed("external_plugins", "rewards name the file and the function")
        elif "/" in text and "." not in text.rpartition("/")[2]:
            ours, note = t.place(text), "a reward model"
        elif "." in text:
            module, _, function = text.rpartition(".")
            file = t.local(module.replace(".", "/") + ".py")
            ours = f"{t.place(module.replace('.', '/') + '.py')}:{function}" if file else ""
            ours = ours or f"{module}:{function}"
        else:
            ours, note = f"rewards.py:{text}", "put a function of that name into rewards.py"
        entry: Any = {"name": ours}
        if index < len(weights):
            entry["weight"] = float(weights[index])
        t.ours.setdefault("rewards", []).append(entry)
        at = key if not isinstance(value, list) else f"{key}[{index}]"
        if note.startswith("put a function"):
            t.open(at, note, "rewards", ours)
        else:
            t.changed(at, note, "rewards", ours)


def weights(t: Theirs, key: str, value: Any) -> None:
    """Weights of rewards stand beside their names here."""
    if t.ours.get("rewards") or t.get("reward_funcs"):
        t.changed(key, "each reward has its weight beside it", "rewards")
    else:
        t.lose(key, "there are no rewards" if value else "")


def reward_model(t: Theirs, key: str, value: Any) -> None:
    """A reward model of PPO or GRPO."""
    models = listed(value)
    if not models:
        t.lose(key, "")
    elif t.strategy not in _RL:
        t.lose(key, f"{t.strategy} has no reward model")
    else:
        for name in models:
            t.ours.setdefault("rewards", []).append({"name": t.place(str(name))})
        t.changed(key, "a reward by the model's name", "rewards", models)


def episodes(t: Theirs, key: str, value: Any) -> None:
    """Prompts in all, of TRL's old PPO: steps here."""
    rows = int(t.get("per_device_train_batch_size", otherwise=8))
    rows *= int(t.get("gradient_accumulation_steps", otherwise=1))
    note = f"{value} answers by {rows} a step, on one card"
    t.put(key, value, "max_steps", max(1, int(value) // rows), note)


def response_length(t: Theirs, key: str, value: Any) -> None:
    """The longest answer, by its older name."""
    t.put(key, value, "generation.max_new_tokens", int(value)) if value else t.lose(key, "")


def mini_batches(t: Theirs, key: str, value: Any) -> None:
    """Updates a rollout, of TRL's old PPO."""
    t.leave(key, "gradient_accumulation_steps and ppo.rollout_size say it")


def ppo_key(t: Theirs, key: str, value: Any) -> None:
    """PPO's own keys stand in a section here."""
    names = {
        "lam": "gae_lambda",
        "lmbda": "gae_lambda",
        "vf_coef": "value_coef",
        "num_ppo_epochs": "ppo_epochs",
        "ppo_buffer_size": "rollout_size",
        "ppo_target": "kl_target",
        "ppo_epochs": "ppo_epochs",
        "ppo_whiten_rewards": "whiten_rewards",
        "cliprange_value": "value_clip_range",
        "kl_coef": "kl_coef",
    }
    name = key.rpartition(".")[2]
    if t.strategy not in ("ppo", "rlhf"):
        t.lose(key, f"{t.strategy} has none")
    elif name == "ppo_score_norm":
        t.put(key, value, "ppo.reward_normalization", "standardize") if value else t.lose(key, "")
    elif value is None:
        t.lose(key, "")
    else:
        t.put(key, value, f"ppo.{names.get(name, name)}", value)


def section(t: Theirs, key: str, value: Any) -> None:
    """Arguments of sampling."""
    given = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    for name, inner in (given or {}).items() if isinstance(given, Mapping) else ():
        if name in ("max_new_tokens", "temperature", "top_p", "top_k"):
            t.put(f"{key}.{name}", inner, f"generation.{name}", inner)
        else:
            t.lose(f"{key}.{name}", "answers are sampled without it")
    if not given:
        t.lose(key, "")


def completion_only(t: Theirs, key: str, value: Any) -> None:
    """What of a row is trained on."""
    if key.endswith("completion_only_loss") and value is False:
        t.put(key, value, "train_on", "everything")
    elif key.endswith("assistant_only_loss") and value is False and t.strategy in ("sft", "qlora"):
        t.open(key, WHOLE, "train_on")
    else:
        t.leave(key, "prompts are only read, and all turns of the assistant trained on")


def bare(t: Theirs, key: str, value: Any) -> None:
    """A LoRA bias: none is ours."""
    if value in (None, "none", False):
        t.leave(key, "LoRA has no bias here either")
    else:
        t.put(key, value, "lora.bias", value)


def gptq(t: Theirs, key: str, value: Any) -> None:
    """A base that is stored quantised is trained as it is stored."""
    t.leave(key, "the base's own config says how it is stored") if value else t.lose(key, "")


def vllm_section(t: Theirs, key: str, value: Any) -> None:
    """Axolotl's section of its vLLM server."""
    names = {
        "gpu_memory_utilization": "vllm_gpu_memory_utilization",
        "max_model_len": "vllm_max_model_length",
        "tensor_parallel_size": "vllm_tensor_parallel_size",
    }
    used = t.get("use_vllm")
    for name, inner in (value or {}).items():
        at = f"{key}.{name}"
        if used and name in names and t.strategy in ("grpo", "rloo", "ppo"):
            t.put(at, inner, names[name], inner)
        else:
            t.leave(at, "say it where the vLLM server is started")
