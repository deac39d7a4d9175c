"""Unsloth's arguments → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelforge.importing.methods import LAYOUTS
from modelforge.importing.sets import keep
from modelforge.importing.theirs import Theirs, listed


def checkpointing(t: Theirs, key: str, value: Any) -> None:
    """Unsloth's own checkpointing saves memory, and changes no result."""
    on = value if isinstance(value, bool) else str(value).lower() in ("true", "unsloth")
    t.put(key, value, "gradient_checkpointing", on)


def load_dataset(t: Theirs, key: str, value: Any) -> None:
    """``load_dataset`` of a script."""
    section = value if isinstance(value, Mapping) else {}
    path, files = section.get("path"), listed(section.get("data_files"))
    if path in ("json", "csv", "parquet", "text") and files:
        t.put("load_dataset.data_files", files, "dataset", t.place(str(files[0])))
        t.leave("load_dataset.path", "the file's name says it")
    elif path:
        entry = {"path": t.place(str(path))}
        for name in ("name", "split"):
            if section.get(name) and not t.local(str(path)):
                entry[name] = str(section[name])
        keep(t, "load_dataset", [entry])
    for name in section:
        if not t.told(f"load_dataset.{name}"):
            t.lose(f"load_dataset.{name}", "the data set is read without it")


def ranked(t: Theirs, key: str, value: Any) -> None:
    """LoRA's modules of Unsloth; embedding and head are trained whole."""
    whole = [name for name in listed(value) if name in ("embed_tokens", "lm_head")]
    rest = [name for name in listed(value) if name not in whole]
    if value == "all-linear" or rest == ["all-linear"]:
        t.put(key, value, "lora_target_modules", "all-linear")
        return
    if whole:
        t.ours["lora_modules_to_save"] = whole
    t.put(
        key,
        value,
        "lora_target_modules",
        rest,
        f"{', '.join(whole)} trained whole" if whole else "",
    )


def data_path(t: Theirs, key: str, value: Any) -> None:
    """A data set by its path or id."""
    if isinstance(value, list) and value:
        keep(t, key, [{"path": t.place(str(each))} for each in value])
    elif isinstance(value, str) and value:
        t.put(key, value, "dataset", t.place(value))
    else:
        t.lose(key, "")


def prompt_length(t: Theirs, key: str, value: Any) -> None:
    """The longest prompt: with the longest answer it is the longest row."""
    new = t.get("max_completion_length", "max_new_tokens", "max_response_length")
    if value and isinstance(new, int) and not t.get("max_seq_length", "max_length"):
        t.put(key, value, "max_seq_length", int(value) + new, f"with answers of {new} tokens")
    elif value:
        t.leave(key, "max_seq_length bounds prompt and answer together")
    else:
        t.lose(key, "")


def whole_length(t: Theirs, key: str, value: Any) -> None:
    """The longest row, prompt and answer; the loader's and the trainer's are the same."""
    if value in (None, -1, 0):
        t.lose(key, "")
    elif t.ours.get("max_seq_length") is None:
        t.put(key, value, "max_seq_length", int(value))
    else:
        said = t.ours["max_seq_length"]
        t.ours["max_seq_length"] = min(said, int(value))
        t.changed(key, f"the shorter of {said} and {value}", "max_seq_length")


def talked(t: Theirs, key: str, value: Any) -> None:
    """Unsloth's names of chat templates: the model's own, where it has one."""
    name = value.get("chat_template") if isinstance(value, Mapping) else value
    at = f"{key}.chat_template" if isinstance(value, Mapping) and name else key
    if str(name) in LAYOUTS and str(name) != "llama3":
        t.put(at, name, "chat_template", str(name))
    else:
        t.leave(at, "the model's own template is used")
    for inner in value if isinstance(value, Mapping) else ():
        if not t.told(f"{key}.{inner}"):
            t.leave(f"{key}.{inner}", "known spellings")
