"""torchtune's components → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelforge.importing.sets import keep
from modelforge.importing.theirs import Theirs, listed

_TUNE_SETS = {
    "alpaca_cleaned_dataset": "yahma/alpaca-cleaned",
    "alpaca_dataset": "tatsu-lab/alpaca",
    "stack_exchange_paired_dataset": "lvwerra/stack-exchange-paired",
    "slimorca_dataset": "Open-Orca/SlimOrca-Dedup",
    "samsum_dataset": "Samsung/samsum",
    "grammar_dataset": "liweili/c4_200m",
    "cnn_dailymail_articles_dataset": "ccdv/cnn_dailymail",
    "wikitext_dataset": "EleutherAI/wikitext_document_level",
    "hh_rlhf_helpful_dataset": "RLHFlow/HH-RLHF-Helpful-standard",
    "gsm8k_dataset": "openai/gsm8k",
}

_ALPACA = (
    "the user's turn is Alpaca's '### Instruction:' text there, and the instruction alone here; "
    "prompt_layout alpaca writes that text, without the chat template around it"
)
_LOGGERS = {
    "WandBLogger": "wandb",
    "TensorBoardLogger": "tensorboard",
    "CometLogger": "comet_ml",
    "DiskLogger": "none",
    "StdoutLogger": "none",
}


def tune_model(t: Theirs, key: str, value: Any) -> None:
    """torchtune's checkpoint folder is a model folder of the hub's layout."""
    folder = str((value or {}).get("checkpoint_dir", "")) if isinstance(value, Mapping) else ""
    section = key.partition(".")[0]
    if not folder:
        t.open(section, "says no checkpoint_dir: set model_name")
        return
    place = t.place(folder)
    if "${" in folder:
        t.open(f"{section}.checkpoint_dir", "is another key's value: set model_name")
    elif section == "checkpointer":
        note = "the folder of the downloaded model, or its hub id"
        t.put(f"{section}.checkpoint_dir", folder, "model_name", place.rstrip("/"), note)
    elif section == "reward_checkpointer":
        t.ours.setdefault("rewards", []).append({"name": place.rstrip("/")})
        t.changed(f"{section}.checkpoint_dir", "the reward model", "rewards", place)
    else:
        t.leave(f"{section}.checkpoint_dir", "the policy as it began, and the reward model, say it")
    for name in value:
        if name != "checkpoint_dir":
            t.leave(f"{section}.{name}", "the model's folder says it")


def tune_sets(t: Theirs, key: str, value: Any) -> None:
    """torchtune's data sets: a builder's name, with its source."""
    section = key.partition(".")[0]
    ours = "eval_dataset" if section == "dataset_val" else "dataset"
    entries = []
    several = isinstance(value, list)
    for index, given in enumerate(value if several else [value]):
        at = f"{section}[{index}]" if several else section
        entry = _tune_set(t, at, given if isinstance(given, Mapping) else {})
        if entry:
            entries.append(entry)
    if entries:
        keep(t, section, entries, ours)
    elif value:
        t.open(section, "names no source: set dataset")


def _tune_set(t: Theirs, at: str, given: Mapping[str, Any]) -> dict[str, Any]:
    component = str(given.get("_component_", "")).rpartition(".")[2]
    source = given.get("source") or _TUNE_SETS.get(component, "")
    files = listed(given.get("data_files"))
    entry: dict[str, Any] = (
        {"path": t.place(str(files[0] if files else source))} if (source or files) else {}
    )
    if component.startswith("alpaca_") and t.strategy in ("sft", "qlora"):
        given = {"train_on_input": True, **given}
    local = bool(files) or bool(entry and t.local(str(source)))
    for name, inner in given.items():
        here = f"{at}.{name}"
        if name == "_component_" and component.startswith("alpaca_"):
            t.open(here, _ALPACA, "dataset", entry.get("path"))
        elif name in ("source", "data_files", "_component_"):
            t.changed(here, "", "dataset", entry.get("path"))
        elif name == "packed":
            t.put(here, inner, "packing", True) if inner else t.lose(here, "")
        elif name == "train_on_input":
            t.put(here, inner, "train_on", "everything") if inner else t.lose(here, "")
        elif name in ("split", "name", "subset", "partition") and inner:
            if not local:
                entry["split" if name in ("split", "partition") else "name"] = _split(str(inner))
            t.changed(here, "", "dataset[].split", inner)
        elif name == "new_system_prompt":
            t.put(here, inner, "system_prompt", inner) if inner else t.lose(here, "")
        elif name == "column_map" and inner:
            names = {"input": "prompt", "output": "completion"}
            entry["columns"] = {names.get(k, k): str(v) for k, v in inner.items()}
            t.changed(here, "", "dataset[].columns", entry["columns"])
        elif name == "column" and inner:
            entry["columns"] = {"prompt" if t.strategy in ("ppo", "grpo") else "text": str(inner)}
            t.changed(here, "", "dataset[].columns", entry["columns"])
        elif name in ("conversation_column", "conversation_style", "add_eos", "filter_fn"):
            if name == "filter_fn":
                t.lose(here, "rows are not filtered by a function")
            else:
                t.leave(here, "conversations are recognised, and answers end")
        else:
            t.lose(here, "the data set is read without it")
    return entry if "path" in entry else {}


def _split(text: str) -> str:
    return text if re.fullmatch(r"[\w.-]+(\[[^\]]*\])?", text) else "train"


def tune_optimizer(t: Theirs, key: str, value: Any) -> None:
    """torchtune's optimiser: a class and its arguments."""
    names = {"AdamW": "adamw_torch", "PagedAdamW": "paged_adamw_32bit", "PagedAdamW8bit":
             "paged_adamw_8bit", "AdamW8bit": "adamw_bnb_8bit", "SGD": "sgd", "Adam": "adamw_torch",
             "Adafactor": "adafactor", "CPUOffloadOptimizer": "adamw_torch"}  # fmt: skip
    for name, inner in (value or {}).items() if isinstance(value, Mapping) else ():
        at = f"optimizer.{name}"
        if name == "_component_":
            ours = names.get(str(inner).rpartition(".")[2])
            if ours:
                ours = "adamw_torch_fused" if ours == "adamw_torch" and value.get("fused") else ours
                t.put(at, inner, "optim", ours)
            else:
                t.lose(at, f"there is no optimiser {inner} here")
        elif name == "lr":
            t.put(at, inner, "learning_rate", float(inner))
        elif name == "weight_decay":
            t.put(at, inner, "weight_decay", inner)
        elif name == "betas":
            t.put(at, inner, "adam_beta1", listed(inner)[0])
            t.ours["adam_beta2"] = listed(inner)[1]
        elif name == "eps":
            t.put(at, inner, "adam_epsilon", inner)
        elif name == "fused":
            t.leave(at, "the optimiser's name says it")
        else:
            t.lose(at, "the optimiser is made without it")


def tune_scheduler(t: Theirs, key: str, value: Any) -> None:
    """torchtune's schedule."""
    for name, inner in (value or {}).items() if isinstance(value, Mapping) else ():
        at = f"lr_scheduler.{name}"
        if name == "_component_" and "cosine" in str(inner):
            t.put(at, inner, "lr_scheduler_type", "cosine")
        elif name == "num_warmup_steps":
            t.put(at, inner, "warmup_steps", int(inner))
        else:
            t.lose(at, "the schedule is a cosine with warm-up here")


def tune_loss(t: Theirs, key: str, value: Any) -> None:
    """torchtune's loss: what of it is a key here."""
    for name, inner in (value or {}).items() if isinstance(value, Mapping) else ():
        at = f"loss.{name}"
        ppo = {"epsilon": "ppo.clip_range", "value_coeff": "ppo.value_coef",
               "value_clip_range": "ppo.value_clip_range"}  # fmt: skip
        if t.told(at):
            continue
        if t.strategy == "dpo" and name in ("beta", "label_smoothing"):
            t.put(at, inner, name, inner)
        elif t.strategy == "ppo" and name in ppo:
            t.put(at, inner, ppo[name], inner)
        elif t.strategy == "grpo" and name in ("epsilon", "kl_coeff"):
            t.put(at, inner, "beta" if name == "kl_coeff" else name, inner)
        elif name == "_component_":
            t.leave(at, "the strategy's own loss")
        else:
            t.lose(at, "the loss has nothing like it")


def tune_modules(t: Theirs, key: str, value: Any) -> None:
    """torchtune's names of LoRA's modules."""
    names = {"output_proj": "o_proj"}
    mlp = t.get("apply_lora_to_mlp")
    found = [names.get(name, name) for name in listed(value)]
    found += ["gate_proj", "up_proj", "down_proj"] if mlp else []
    t.put(
        key, value, "lora_target_modules", found, "with those of apply_lora_to_mlp" if mlp else ""
    )
    for name in ("model.apply_lora_to_mlp", "model.apply_lora_to_output"):
        if name in t.leaves:
            t.lose(name, "the head gets no LoRA here") if name.endswith("output") else t.changed(
                name, "", "lora_target_modules"
            )


def tune_logger(t: Theirs, key: str, value: Any) -> None:
    """torchtune's logger."""
    component = str((value or {}).get("_component_", "")) if isinstance(value, Mapping) else ""
    tracker = _LOGGERS.get(component.rpartition(".")[2], "")
    if tracker:
        t.put("metric_logger", component, "report_to", tracker, "metrics.jsonl is written anyway")
    else:
        t.leave("metric_logger", "metrics.jsonl is written")


def tune_steps(t: Theirs, key: str, value: Any) -> None:
    """Steps an epoch: steps in all where there is one epoch."""
    epochs = t.get("epochs", otherwise=1)
    if value in (None, -1):
        t.lose(key, "")
    else:
        t.ours.pop("num_train_epochs", None)
        t.put(key, value, "max_steps", int(value) * int(epochs), f"{epochs} epochs of {value}")


def tune_epochs(t: Theirs, key: str, value: Any) -> None:
    """Epochs count where max_steps_per_epoch does not."""
    if t.get("max_steps_per_epoch", otherwise=-1) not in (None, -1):
        t.changed(key, "with max_steps_per_epoch", "max_steps")
    else:
        t.put(key, value, "num_train_epochs", value)
