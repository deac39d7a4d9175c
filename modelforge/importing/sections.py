"""Configs in sections (model, dataset, training, optimization, algorithm) → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelforge.importing.sets import keep
from modelforge.importing.theirs import Theirs, listed, says_something


def section_loss(t: Theirs, key: str, value: Any) -> None:
    """A loss of a config in sections."""
    known = {"ranking_loss", "ranking", "pairwise", "bradley_terry", "cross_entropy", "nll", "clm"}
    if str(value) in known:
        t.leave(key, f"{value} is the loss of {t.strategy}")
    elif value is None:
        t.lose(key, "")
    else:
        t.put(key, value, "loss_type", [value] if t.strategy == "dpo" else value)


def section_batch(t: Theirs, key: str, value: Any) -> None:
    """A batch size of a config in sections is one card's."""
    if value:
        t.put(key, value, "per_device_train_batch_size", int(value), "rows a card in one pass")
    else:
        t.lose(key, "")


def section_clip(t: Theirs, key: str, value: Any) -> None:
    """The clip range: PPO has a section of its own."""
    ours = "ppo.clip_range" if t.strategy in ("ppo", "rlhf") else "epsilon"
    t.put(key, value, ours, value) if value else t.lose(key, "")


def section_kl(t: Theirs, key: str, value: Any) -> None:
    """The weight of the KL term."""
    ours = "ppo.kl_coef" if t.strategy in ("ppo", "rlhf") else "beta"
    t.put(key, value, ours, value) if value is not None else t.lose(key, "")


def section_group(t: Theirs, key: str, value: Any) -> None:
    """Answers a prompt: PPO needs no group."""
    if t.strategy in ("grpo", "rloo", "ppo"):
        t.put(key, value, "num_generations", int(value))
    else:
        t.lose(key, f"{t.strategy} samples no groups of answers")


def section_rewards(t: Theirs, key: str, value: Any) -> None:
    """Rewards by name, or a reward model."""
    for name in listed(value) if not isinstance(value, Mapping) else [value.get("name")]:
        if name:
            t.ours.setdefault("rewards", []).append({"name": t.place(str(name))})
    t.changed(key, "", "rewards", value) if value else t.lose(key, "")


def dataset_text(t: Theirs, key: str, value: Any) -> None:
    """A section's name that is a data set itself; in a section each key stands for itself."""
    if isinstance(value, str | list) and value:
        section_set(t, key, value)


def section_set(t: Theirs, key: str, value: Any) -> None:
    """The data set of a config in sections."""
    if not value:
        t.lose(key, "")
        return
    paths = [str(each.get("path") if isinstance(each, Mapping) else each) for each in _texts(value)]
    if t.ours.get("dataset") is not None:
        t.open(key, f"dataset is {t.ours['dataset']} already: which of the two is trained on?")
        return
    entries = [{"path": t.place(path)} for path in paths]
    if name := t.find("dataset.config", "dataset.subset", "data.subset", "data.config")[1]:
        entries[0]["name"] = str(name)
        t.changed(t.find("dataset.config", "dataset.subset", "data.subset", "data.config")[0], "",
                  "dataset[0].name", name)  # fmt: skip
    keep(t, key, entries)


def _texts(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list) else [value]


def section_eval(t: Theirs, key: str, value: Any) -> None:
    """What is held out of a config in sections."""
    if isinstance(value, str) and value:
        t.put(key, value, "eval_dataset", t.place(value))
    elif value:
        t.lose(key, "set eval_dataset or eval_split")
    else:
        t.lose(key, "")


def section_format(t: Theirs, key: str, value: Any) -> None:
    """The layout of rows is recognised."""
    t.leave(key, "the layout is recognised by its columns")


def section_quant(t: Theirs, key: str, value: Any) -> None:
    """Quantisation by a word."""
    bits = re.search(r"[48]", str(value))
    if not says_something(value):
        t.lose(key, "")
    elif bits or str(value) == "nf4":
        t.put(key, value, f"use_{bits[0] if bits else 4}bit", True)
    else:
        t.lose(key, "set use_4bit or use_8bit")


def four(t: Theirs, key: str, value: Any) -> None:
    """4-bit weights."""
    t.put(key, value, "use_4bit", bool(value))


def use_qlora(t: Theirs, key: str, value: Any) -> None:
    """LoRA on a 4-bit base."""
    t.put(key, value, "use_4bit", True, "LoRA on a 4-bit base") if value else t.lose(key, "")


def section_reward_model(t: Theirs, key: str, value: Any) -> None:
    """The reward model of a policy."""
    if isinstance(value, Mapping):
        return  # each of its keys stands for itself
    if not isinstance(value, str) or not value:
        t.lose(key, "name a reward model's folder, or strategy rlhf trains one")
    elif t.within:
        what = "rlhf trains its reward model on the policy's base; reward_model takes one that is "
        t.open(key, what + "trained already, and leaves that stage out")
    elif t.strategy in ("grpo", "rloo", "ppo", "rlhf"):
        t.put(key, value, "reward_model", t.place(value))
    else:
        t.lose(key, f"{t.strategy} has no reward model")


def head(t: Theirs, key: str, value: Any) -> None:
    """The head of a reward model."""
    t.leave(key, "one linear layer scores the last token, as in TRL: it has no hidden layer")


def mini(t: Theirs, key: str, value: Any) -> None:
    """Rows of an update of PPO: those of a pass, and passes a step."""
    rows = t.get("batch_size", "per_device_train_batch_size")
    if not value:
        t.lose(key, "")
    elif t.strategy in ("ppo", "rlhf") and isinstance(rows, int) and rows > int(value):
        t.ours["per_device_train_batch_size"] = int(value)
        t.ours.setdefault("ppo", {})["rollout_size"] = rows
        t.changed(key, f"of a rollout of {rows} answers", "per_device_train_batch_size", value)
    else:
        t.leave(key, "a step is per_device_train_batch_size × gradient_accumulation_steps rows")


def whole(t: Theirs, key: str, value: Any) -> None:
    """Key of a whole that names a model as a text; as a section each key stands for itself."""
    if isinstance(value, str):
        t.put(key, value, "model_name", t.place(value))


def warm(t: Theirs, key: str, value: Any) -> None:
    """A warm-up in steps, or as a share below 1."""
    if not value:
        t.lose(key, "")
    else:
        t.put(key, value, "warmup_ratio" if float(value) < 1 else "warmup_steps", value)


def betas(t: Theirs, key: str, value: Any) -> None:
    """Adam's two."""
    first, second = (*listed(value), 0.9, 0.999)[:2]
    t.ours["adam_beta1"] = float(first)
    t.put(key, value, "adam_beta2", float(second), f"and adam_beta1 {first}")
