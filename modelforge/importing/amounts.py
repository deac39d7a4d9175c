"""Lengths, steps, shares and rates of other trainers → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

from typing import Any

from modelforge.importing.theirs import Theirs, says_something


def processes(t: Theirs, key: str, value: Any) -> None:
    """The number of processes."""
    if str(value).isdigit():
        t.put(key, value, "distributed.num_processes", int(value))
    else:
        t.open(key, "say it by --num-processes")


def resume(t: Theirs, key: str, value: Any) -> None:
    """A checkpoint to go on from; true and false are what a run does anyway."""
    if not value:
        t.lose(key, "")
    elif value is True or str(value).lower() == "true":
        t.put(key, value, "resume", "auto")
    else:
        t.lose(key, "checkpoints of another trainer cannot be resumed; begin from its model")


def if_known(t: Theirs, key: str, value: Any) -> None:
    """The number of processes that tokenise, where the strategy has the key."""
    if value is None:
        t.lose(key, "")
    elif t.strategy in ("sft", "qlora", "reward", "dpo"):
        t.put(key, value, "dataset_num_proc", int(value))
    else:
        t.leave(key, "it changes no result")


def steps(t: Theirs, key: str, value: Any) -> None:
    """``-1`` and 0 mean that the epochs count."""
    if value in (None, -1, 0):
        t.leave(key, "the epochs count")
    else:
        t.put(key, value, "max_steps", int(value))


def epochs(t: Theirs, key: str, value: Any) -> None:
    """Epochs count where no number of steps is said."""
    most = t.get("max_steps", otherwise=-1)
    if value is None:
        t.lose(key, "")
    elif isinstance(most, int | float) and most > 0:
        t.leave(key, "max_steps counts, as there")
    else:
        t.put(key, value, "num_train_epochs", value)


def optimiser(t: Theirs, key: str, value: Any) -> None:
    """The optimiser by transformers' names."""
    name = {"adamw_hf": "adamw_torch", "adamw": "adamw_torch", "adam": "adamw_torch"}
    if not value:
        t.lose(key, "")
    elif str(value) in ("muon", "came_pytorch", "optimi_adamw", "ao_adamw_fp8", "adopt_adamw"):
        t.lose(key, f"there is no {value} here; optim stays as it is by default")
    else:
        t.put(key, value, "optim", name.get(str(value), str(value)))


def evaluated(t: Theirs, key: str, value: Any) -> None:
    """YAML reads a bare ``no`` as false."""
    text = "no" if value in (None, False) else str(value)
    t.leave(key, "held-out rows are measured at the end") if text == "no" else t.put(
        key, value, "eval_strategy", text
    )


def best(t: Theirs, key: str, value: Any) -> None:
    """The best model is kept."""
    t.put(key, value, "load_best_model_at_end", True) if value else t.lose(key, "")


def streamed(t: Theirs, key: str, value: Any) -> None:
    """Streaming needs the number of rows or of steps here."""
    most = t.get("max_steps", otherwise=-1)
    if not value:
        t.lose(key, "")
    elif isinstance(most, int) and most > 0:
        t.put(key, value, "streaming", True)
    else:
        t.open(key, "needs max_steps or max_samples here; without it the data are downloaded")


def held_share(t: Theirs, key: str, value: Any) -> None:
    """The rows held out: 0 holds out none, 1 and more are a number."""
    number = float(value or 0)
    other = t.get("eval_dataset", "test_datasets", "val_dataset")
    if value is not None and number and other:
        t.leave(key, "the rows of a data set of their own are held out")
    elif value is None:
        t.lose(key, "")
    else:
        result = int(number) if number >= 1 else number
        t.put(key, value, "eval_split", result, "" if number else "nothing is held out, as there")


def bits(t: Theirs, key: str, value: Any) -> None:
    """Quantisation by its number of bits."""
    if not value:
        t.lose(key, "")
    elif int(value) in (4, 8):
        t.put(key, value, f"use_{int(value)}bit", True)
    else:
        t.refuse(key, f"{value}-bit weights: the base is loaded in 4 or 8 bits, or in 16")


def length(t: Theirs, key: str, value: Any) -> None:
    """The longest row; in RL theirs bounds the prompt alone, and ours prompt and answer."""
    if value in (None, -1, 0, "null"):
        t.lose(key, "")
    elif t.strategy in ("grpo", "rloo", "ppo", "distill") and key != "max_seq_length":
        new = t.get("max_completion_length", "max_new_tokens", "response_length", otherwise=256)
        note = f"theirs bounds the prompt alone ({value}), ours prompt and answer"
        t.put(key, value, "max_seq_length", int(value) + int(new), note)
    elif t.ours.get("max_seq_length") not in (None, int(value)):
        t.leave(key, f"max_seq_length is {t.ours['max_seq_length']} already")
    else:
        t.put(key, value, "max_seq_length", int(value))


def saves(t: Theirs, key: str, value: Any) -> None:
    """Checkpoints an epoch: a share of the run here."""
    _per_epoch(t, key, value, "save_steps")


def evals(t: Theirs, key: str, value: Any) -> None:
    """Evaluations an epoch: a share of the run here."""
    held = t.get("val_set_size", "test_datasets")
    if says_something(value) and not says_something(held):
        t.leave(key, "nothing is held out, as there")
    elif _per_epoch(t, key, value, "eval_steps"):
        t.ours["eval_strategy"] = "steps"


def _per_epoch(t: Theirs, key: str, value: Any, ours: str) -> bool:
    if not says_something(value):
        t.lose(key, "")
        return False
    epochs = float(t.get("num_epochs", otherwise=1))
    share = round(1 / (float(value) * epochs), 6)
    if share < 1:
        t.put(key, value, ours, share, "a share of the run")
        return True
    t.leave(key, "once, at the end of the run")
    return False


def min_lr(t: Theirs, key: str, value: Any) -> None:
    """A cosine that ends above nothing."""
    if value:
        t.ours.pop("lr_scheduler_type", None)
        t.put(key, value, "lr_scheduler_type", "cosine_with_min_lr")
        t.ours["lr_scheduler_kwargs"] = {"min_lr_rate": float(value)}
    else:
        t.lose(key, "")


def batch(t: Theirs, key: str, value: Any) -> None:
    """Rows of a step: micro-batch times accumulation."""
    micro = int(t.get("micro_batch_size", otherwise=1))
    if not value:
        t.lose(key, "")
    elif t.get("gradient_accumulation_steps"):
        t.leave(key, "gradient_accumulation_steps says it")
    else:
        steps = max(1, int(value) // micro)
        t.put(key, value, "gradient_accumulation_steps", steps, f"{value} rows by {micro}")


def patience(t: Theirs, key: str, value: Any) -> None:
    """Early stopping."""
    t.put(key, value, "early_stopping.patience", int(value)) if value else t.lose(key, "")
