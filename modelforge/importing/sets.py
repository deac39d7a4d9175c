"""Data sets as other trainers name them → ours.

As in `modelforge.importing.values`, each function is named in ``configs/peers``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelforge.configfile.load import raw_config
from modelforge.errors import ConfigError
from modelforge.importing.theirs import Theirs, listed, says_something

# LLaMA-Factory's columns: its name, its default in a file, and the name here.
_LF_COLUMNS = {
    "prompt": ("instruction", "instruction"),
    "query": ("input", "input"),
    "response": ("output", "output"),
    "history": ("history", "history"),
    "messages": ("conversations", "messages"),
    "system": ("system", "system"),
    "tools": ("tools", "tools"),
    "chosen": ("chosen", "chosen"),
    "rejected": ("rejected", "rejected"),
    "kto_tag": ("kto_tag", "label"),
}
_PICTURES = ("images", "videos", "audios")
# Tags of messages that are known here by themselves.
_KNOWN_TAGS = {
    "role_tag": ("from", "role", "speaker"),
    "content_tag": ("value", "content", "text"),
    "user_tag": ("human", "user"),
    "assistant_tag": ("gpt", "assistant", "bot"),
    "observation_tag": ("observation", "tool"),
    "function_tag": ("function_call", "tool_call"),
    "system_tag": ("system",),
}


def keep(t: Theirs, key: str, entries: list[dict[str, Any]], ours: str = "dataset") -> None:
    """Write the data sets: one that is no more than a path as a text."""
    plain = [entry["path"] if list(entry) == ["path"] else entry for entry in entries]
    one = len(plain) == 1 and isinstance(plain[0], str)
    t.ours[ours] = plain[0] if one else plain
    if all(line.theirs != key for line in t.lines):
        t.changed(key, "", ours, t.ours[ours])


def hub_set(t: Theirs, key: str, value: Any) -> None:
    """One data set of TRL's, with its configuration and its split."""
    if not value:
        t.lose(key, "")
        return
    entry = {"path": t.place(str(value))}
    if config := t.get("dataset_config"):
        entry["name"] = str(config)
        t.changed("dataset_config", "", "dataset[0].name", config)
    if list(entry) == ["path"]:
        t.put(key, value, "dataset", entry["path"])
    else:
        t.ours["dataset"] = [entry]
        t.changed(key, "", "dataset", [entry])


def test_split(t: Theirs, key: str, value: Any) -> None:
    """The split that is held out; TRL looks at it only where it evaluates."""
    name = t.get("dataset_name")
    if not value or not name or t.local(str(name)):
        t.lose(key, "a file has no splits; set eval_dataset")
    elif str(t.get("eval_strategy", "do_eval", otherwise="no")) in ("no", "False"):
        t.leave(key, "nothing is evaluated, as there")
    else:
        entry = {"path": str(name), "split": str(value)}
        if config := t.get("dataset_config"):
            entry["name"] = str(config)
        t.ours["eval_dataset"] = [entry]
        t.changed(key, "", "eval_dataset", [entry])


def mixture(t: Theirs, key: str, value: Any) -> None:
    """TRL's mixture; its weight is the share kept of a set, ours is a share of the mixture."""
    section = value if isinstance(value, Mapping) else {"datasets": value}
    entries = []
    inside = f"{key}.datasets" if isinstance(value, Mapping) else key
    for index, given in enumerate(section.get("datasets") or []):
        at, entry = f"{inside}[{index}]", {}
        for name, inner in (given if isinstance(given, Mapping) else {"path": given}).items():
            ours = {"id": "path", "config": "name", "data_dir": "name"}.get(name, name)
            if name == "weight":
                _share(t, f"{at}.weight", inner)
            elif name == "columns":
                t.leave(f"{at}.columns", "columns are recognised, others are named")
            elif name in ("path", "id", "name", "config", "split"):
                if inner is not None:
                    entry[ours] = t.place(str(inner)) if ours == "path" else str(inner)
                t.changed(f"{at}.{name}", "", f"dataset[{index}].{ours}", inner)
            else:
                t.lose(f"{at}.{name}", "the data set is read without it")
        if "path" in entry:
            if "split" in entry and t.local(entry["path"]):
                del entry["split"]
            entries.append(entry)
    keep(t, inside, entries) if entries else None
    for name, inner in section.items():
        if name == "test_split_size" and says_something(inner):
            t.put(f"{key}.{name}", inner, "eval_split", inner)
        elif name == "seed" and inner is not None:
            t.leave(f"{key}.{name}", "seed decides which rows are held out")
        elif name != "datasets":
            t.lose(f"{key}.{name}", "the data are read without it")


def _share(t: Theirs, at: str, value: Any) -> None:
    if value in (None, 1, 1.0):
        t.leave(at, "all rows, as here")
    else:
        t.lose(
            at, f"theirs keeps {value} of this set's rows; here set its max_samples to that number"
        )


def mixer(t: Theirs, key: str, value: Any) -> None:
    """The alignment-handbook's ``{set: share}`` with its list of splits."""
    splits = [str(split) for split in listed(t.get("dataset_splits"))]
    train = [split for split in splits if not split.startswith(("test", "val", "eval"))]
    held = [split for split in splits if split not in train]
    entries, held_out = [], []
    for path, share in (value or {}).items():
        _share(t, f"{key}.{path}", share)
        here = t.local(path)
        for split in train or [""]:
            entries.append(
                {"path": t.place(path)} | ({"split": split} if split and not here else {})
            )
        held_out += [{"path": path, "split": split} for split in held if not here]
    keep(t, key, entries)
    if splits:
        t.changed("dataset_splits", "each set has its split", "dataset[].split", train)
    if held_out:
        t.ours["eval_dataset"] = held_out


def lf_sets(t: Theirs, key: str, value: Any) -> None:
    """Names in LLaMA-Factory's ``dataset_info.json``."""
    weights = [float(share) for share in listed(t.get("interleave_probs"))]
    _lf(t, key, value, "dataset", weights)


def lf_eval(t: Theirs, key: str, value: Any) -> None:
    """The same of what is held out."""
    _lf(t, key, value, "eval_dataset", []) if value else t.lose(key, "")


def _lf(t: Theirs, key: str, value: Any, ours: str, weights: list[float]) -> None:
    folder = str(t.get("dataset_dir", otherwise="data"))
    info, place = _dataset_info(t, folder)
    if "dataset_dir" in t.leaves and not t.told("dataset_dir"):
        t.changed("dataset_dir", f"dataset_info.json is {'read' if info else 'not'} there")
    entries = []
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else listed(value)
    for index, name in enumerate(names):
        at = key if len(names) == 1 else f"{key}[{index}]"
        entry = _lf_entry(t, at, str(name), info, place)
        if index < len(weights):
            entry["weight"] = weights[index]
        entries.append(entry)
    keep(t, key, entries, ours)


def _dataset_info(t: Theirs, folder: str) -> tuple[dict[str, Any], Path]:
    for text in (f"{folder}/dataset_info.json", "dataset_info.json"):
        if (found := t.local(text)) is not None:
            try:
                return dict(json.loads(found.read_text(encoding="utf-8"))), found.parent
            except (OSError, ValueError, TypeError):
                t.refuse("dataset", f"{found} cannot be read as JSON")
    return {}, Path()


def _lf_entry(
    t: Theirs, at: str, name: str, info: Mapping[str, Any], place: Path
) -> dict[str, Any]:
    """One data set by its name."""
    found = info.get(name)
    if found is None:
        if t.local(name) and not info:
            t.changed(at, "a file", "dataset", t.place(name))
            return {"path": t.place(name)}
        where = "has no such name" if info else "is not at hand, to say which file or hub id it is"
        t.open(at, f"{name}: dataset_info.json {where}; set dataset", "dataset", name)
        return {"path": name}
    entry: dict[str, Any] = {}
    if "file_name" in found and (place / str(found["file_name"])).exists():
        entry["path"] = t.place(str((place / str(found["file_name"])).resolve()))
        entry["path"] = _relative(t, place / str(found["file_name"]))
    elif "hf_hub_url" in found:
        entry["path"] = str(found["hf_hub_url"])
        entry |= {"name": str(found["subset"])} if found.get("subset") else {}
        entry |= {"split": str(found["split"])} if found.get("split") else {}
    else:
        source = next((found[k] for k in ("file_name", "ms_hub_url", "om_hub_url", "script_url",
                                          "cloud_file_name") if k in found), name)  # fmt: skip
        t.open(at, f"{name} is {source}, which is not at hand: set dataset", "dataset", source)
        entry["path"] = str(source)
    if found.get("num_samples"):
        entry["max_samples"] = int(found["num_samples"])
    columns = _lf_columns(t, at, found)
    if columns:
        entry["columns"] = columns
    for tag, word in (found.get("tags") or {}).items():
        if str(word) not in _KNOWN_TAGS.get(tag, ()):
            t.lose(
                f"{at}.tags.{tag}", f"messages that say {word} are not known; rename it in the file"
            )
    if not t.told(at):
        t.changed(at, f"{name} in dataset_info.json", "dataset", entry["path"])
    return entry


def _lf_columns(t: Theirs, at: str, found: Mapping[str, Any]) -> dict[str, str]:
    """The columns of a set that are not called as they are by default: ours → the file's."""
    said: Mapping[str, Any] = found.get("columns") or {}
    pictures = [name for name in _PICTURES if name in said]
    if pictures:
        t.refuse(
            at, f"{', '.join(pictures)}: every strategy trains text", "take a set without them"
        )
    if t.get("stage") == "pt":  # there the prompt alone is read, as plain text
        text = str(said.get("prompt", "instruction"))
        return {} if text == "text" else {"text": text}
    columns = {}
    for name, column in said.items():
        usual, ours = _LF_COLUMNS.get(name, (name, name))
        plain = name == "messages" and column in ("messages", "conversations")
        if column and column != usual and not plain and column != ours:
            columns[ours] = str(column)
    return columns


def _relative(t: Theirs, found: Path) -> str:
    import os

    return os.path.relpath(found.resolve(), t.target.resolve())


def lf_v1_sets(t: Theirs, key: str, value: Any) -> None:
    """LLaMA-Factory 1: a YAML file that names the sets, or a hub id."""
    found = t.local(str(value))
    if found is None and str(value).endswith((".yaml", ".yml")):
        t.ours["dataset"] = str(value)
        t.open(key, "names the sets, and is not at hand: set dataset", "dataset", value)
        return
    if found is None or found.suffix not in (".yaml", ".yml"):
        t.put(key, value, "dataset", t.place(str(value)))
        return
    try:
        listed_sets = raw_config(found)
    except ConfigError as error:
        t.refuse(key, error.problems[0].what)
    entries = []
    for name, given in listed_sets.items():
        entry: dict[str, Any] = {"path": t.place(str(given.get("path", name)))}
        if "multimodal" in str(given):
            t.refuse(key, "pictures, videos and sounds: every strategy trains text")
        if given.get("split") and not t.local(str(given.get("path"))):
            entry["split"] = str(given["split"])
        if given.get("size"):
            entry["max_samples"] = int(given["size"])
        if given.get("weight"):
            t.lose(f"{key}.{name}.weight", "rows are not repeated by a weight of one set alone")
        entries.append(entry)
    t.changed(key, f"the sets of {found.name}", "dataset", [entry["path"] for entry in entries])
    keep(t, key, entries)


def first_rows(t: Theirs, key: str, value: Any) -> None:
    """The first rows of each set there; rows at random here."""
    if value:
        note = "the first rows of each set there, rows at random (by seed) here"
        t.put(key, value, "max_samples", int(value), note)
    else:
        t.lose(key, "")


def mix(t: Theirs, key: str, value: Any) -> None:
    """How sets are mixed."""
    if value in (None, "concat"):
        t.leave(key, "sets are put one after the other, and shuffled")
    elif t.get("interleave_probs"):
        t.changed(key, "each set has its weight", "dataset[].weight")
    else:
        t.lose(key, "give each set of dataset a weight")


def probabilities(t: Theirs, key: str, value: Any) -> None:
    """Shares of the mixture."""
    if value:
        t.changed(key, "", "dataset[].weight", value)
    else:
        t.lose(key, "")


def swift_sets(t: Theirs, key: str, value: Any) -> None:
    """ms-swift's texts: ``id:subset#rows``, or a file."""
    entries = [_swift_entry(t, key, index, str(text)) for index, text in enumerate(_texts(value))]
    columns = t.get("columns")
    if columns:
        _turned(t, columns)
    keep(t, key, entries) if entries else t.lose(key, "")


def swift_eval(t: Theirs, key: str, value: Any) -> None:
    """The same of what is held out."""
    entries = [_swift_entry(t, key, index, str(text)) for index, text in enumerate(_texts(value))]
    keep(t, key, entries, "eval_dataset") if entries else t.lose(key, "")


def _texts(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else listed(value)


def _swift_entry(t: Theirs, key: str, index: int, text: str) -> dict[str, Any]:
    rest, _, rows = text.partition("#")
    source, _, subset = rest.removeprefix("HF::").removeprefix("MS::").partition(":")
    at = f"{key}[{index}]"
    entry: dict[str, Any] = {"path": t.place(source)}
    if subset:
        entry["name"] = subset.split("/")[0]
    if rows.isdigit():
        entry["max_samples"] = int(rows)
    if "self-cognition" in source:
        t.open(
            at, "holds {{NAME}} and {{AUTHOR}}: write the names into its rows", "dataset", source
        )
    elif t.local(source) or rest.startswith("HF::") or t.get("use_hf"):
        t.changed(at, "", "dataset", entry["path"])
    else:
        what = "is an id of ModelScope: see that the Hugging Face hub has it by the same name"
        t.open(at, what, "dataset", source)
    return entry


def _turned(t: Theirs, value: Any) -> None:
    """ms-swift's columns are the file's → its own; ours are our name → the file's."""
    try:
        theirs = json.loads(value) if isinstance(value, str) else dict(value)
    except ValueError:
        t.lose("columns", "it is no JSON")
        return
    names = {"query": "prompt", "response": "completion", "rejected_response": "rejected"}
    for column, name in theirs.items():
        if t.strategy in ("grpo", "rloo", "ppo") and name not in (*names, "messages", "system"):
            note = f"rewards receive every column by its own name: {column}, not {name}"
            t.open("columns", note)
        else:
            t.ours.setdefault("columns", {})[names.get(name, name)] = column
    if "columns" in t.ours:
        t.changed("columns", "the other way round here", "columns", t.ours["columns"])


def sized(text: str) -> str:
    """A data set's id without what is put behind it."""
    return re.split(r"[#:]", text)[0]
