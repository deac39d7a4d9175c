"""Axolotl's data sets → ours: each has a type, fields and names of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelforge.importing.sets import keep
from modelforge.importing.theirs import Theirs, listed, says_something

_FIELDS = {
    "field_messages": "messages",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field": "text",
    "text_column": "text",
    "field_tools": "tools",
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_prompt": "prompt",
    "field_completion": "completion",
    "field_label": "label",
    "field_thinking": "thinking",
    "field_human": "prompt",
    "field_model": "completion",
}
# Names that are recognised without being told.
_RECOGNISED = {
    "messages": ("messages", "conversations", "conversation", "dialogue", "dialog"),
    "chosen": ("chosen", "chosen_response", "accepted"),
    "rejected": ("rejected", "rejected_response"),
    "thinking": ("reasoning_content", "thinking", "reasoning", "thought"),
    "text": ("text",),
}
_UNNEEDED = {
    "ds_type": "a file's name says it",
    "message_field_role": "known spellings",
    "message_field_content": "known spellings",
    "template_thinking_key": "a thought goes where the template has its place",
    "split_thinking": "a thought goes where the template has its place",
    "roles": "known spellings",
    "trust_remote_code": "no data set runs code here",
    "train_on_eos": "the end of each answer is trained on",
    "train_on_eot": "the end of each answer is trained on",
    "conversation": "the chat template says it",
    "chat_template": "the model's own template is used",
    "message_field_training": "train, loss and weight are read",
    "message_field_training_detail": "train_detail is read",
    "shards": "",
    "preprocess_shards": "rows are read as they come",
}
_PLAIN = ("completion", "pretrain")
# Axolotl's own modules of layouts; behind a dot each has several. Any other module is the user's.
_BUILT_IN = frozenset(
    (
        *("alpaca", "alpaca_chat", "alpaca_instruct", "alpaca_w_system", "axolotl"),
        *("bradley_terry", "chat_template", "chatml", "completion", "context_qa", "creative_acr"),
        *("input_output", "llama2_chat", "llama3", "messages", "metharme", "orcamini", "orpo"),
        *("passthrough", "pretrain", "pygmalion", "sharegpt", "user_defined", "zephyr"),
    )
)


def ax_sets(t: Theirs, key: str, value: Any) -> None:
    """The training data."""
    _all(t, key, value, "dataset")


def ax_test(t: Theirs, key: str, value: Any) -> None:
    """The data that are held out."""
    _all(t, key, value, "eval_dataset") if value else t.lose(key, "")


def ax_pretraining(t: Theirs, key: str, value: Any) -> None:
    """Plain text, which is streamed there."""
    _all(t, key, value, "dataset")
    most = t.get("max_steps")
    if isinstance(most, int) and most > 0 and not t.get("sample_packing"):
        t.ours["streaming"] = True


def _all(t: Theirs, key: str, value: Any, ours: str) -> None:
    if not value:
        t.lose(key, "")
        return
    entries = value if isinstance(value, list) else [value]
    given = [each if isinstance(each, Mapping) else {"path": each} for each in entries]
    types = {str(each.get("type")).partition(".")[0].partition(":")[0] for each in given}
    if ours == "dataset":
        _layout(t, key, types)
    done = []
    for index, each in enumerate(given):
        entry = _entry(t, f"{key}[{index}]", each)
        if entry:
            done.append(entry)
    keep(t, key, done, ours) if done else t.refuse(key, "no set of them has a path")


def _layout(t: Theirs, key: str, types: set[str]) -> None:
    """Alpaca's prompt is a text of its own there: here it is a layout."""
    if types == {"alpaca"} and t.strategy in ("sft", "qlora") and not t.get("chat_template"):
        t.ours["prompt_layout"] = "alpaca"
        t.changed(
            f"{key}[].type", "Alpaca's '### Instruction:' text, as there", "prompt_layout", "alpaca"
        )
    elif "alpaca" in types and t.strategy in ("sft", "qlora"):
        what = "some sets have Alpaca's '### Instruction:' text there, and the chat template here"
        t.open(f"{key}[].type", what)


def _entry(t: Theirs, at: str, given: Mapping[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    columns: dict[str, str] = {}
    for name, value in given.items():
        here = f"{at}.{name}"
        if name == "path":
            if value is None:
                continue
            entry["path"] = t.place(str(value))
            t.changed(here, "", "dataset[].path", entry["path"])
        elif name in ("split", "name"):
            _of_the_hub(t, here, name, value, given, entry)
        elif name == "type":
            _type(t, here, value, columns)
        elif name in _FIELDS:
            _field(t, here, name, value, columns)
        elif name == "data_files":
            _data_files(t, here, value, given, entry)
        elif name == "roles_to_train":
            known = set(listed(value)) <= {"assistant", "gpt", "model"}
            t.leave(here, "the assistant's turns are trained on") if known else t.lose(
                here, "only the assistant's turns are trained on; train_on says which"
            )
        elif name == "message_property_mappings":
            t.leave(here, "role and content, from and value are known") if _known(
                value
            ) else t.lose(here, "rename the keys of the messages in the file")
        elif name in _UNNEEDED and name != "shards":
            t.leave(here, _UNNEEDED[name])
        else:
            t.lose(here, "the data set is read without it")
    if columns:
        entry["columns"] = columns
    return entry if "path" in entry else {}


def _of_the_hub(
    t: Theirs, here: str, name: str, value: Any, given: Mapping[str, Any], entry: dict[str, Any]
) -> None:
    if value is None:
        t.lose(here, "")
    elif name == "split" and (given.get("ds_type") or t.local(str(given.get("path", "")))):
        t.leave(here, "a file has no splits")
    elif isinstance(value, list):
        t.lose(here, "name each split as a data set of its own")
    else:
        entry[name] = str(value)
        t.changed(here, "", f"dataset[].{name}", str(value))


def _data_files(
    t: Theirs, here: str, value: Any, given: Mapping[str, Any], entry: dict[str, Any]
) -> None:
    files = [str(name) for name in listed(value)]
    found = [name for name in files if t.local(name)]
    if len(files) == 1 and found:
        entry["path"] = t.place(files[0])
        t.changed(here, "the file itself", "dataset[].path", entry["path"])
    elif files:
        t.open(here, f"download {', '.join(files)} from {given.get('path')}, and name the file")
    else:
        t.lose(here, "")


def _type(t: Theirs, here: str, value: Any, columns: dict[str, str]) -> None:
    text = str(value or "")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name in _FIELDS:
                _field(t, f"{here}.{name}", name, inner, columns)
            elif name in ("format", "no_input_format", "system_format") and says_something(inner):
                what = f"its prompt is written as {inner!r}; the chat template writes it here"
                t.open(f"{here}.{name}", f"{what}: write such a template, and name it")
            else:
                t.lose(f"{here}.{name}", "the chat template writes the prompt here")
    elif "stepwise" in text or "process" in text:
        t.refuse(here, "rewards for each step of a solution: reward models score whole answers")
    elif t.told("datasets[].type") and text.startswith("alpaca"):
        t.changed(here, "", "prompt_layout", "alpaca")
    elif text.partition(".")[0] in _PLAIN:
        t.leave(here, "a column text is plain text")
    elif text.startswith("input_output"):
        t.lose(here, "segments are read where a column segments holds them")
    elif "." in text and text.partition(".")[0] not in _BUILT_IN:
        t.open(here, f"{text} is a function that rewrites the rows: rewrite them in the file")
    else:
        t.leave(here, "the layout is recognised by its columns")


def _field(t: Theirs, here: str, name: str, value: Any, columns: dict[str, str]) -> None:
    ours = _FIELDS[name]
    if value is None or value == ours or value in _RECOGNISED.get(ours, ()):
        t.leave(here, "it is recognised by that name")
    else:
        columns[ours] = str(value)
        t.changed(here, "ours → the file's", f"columns.{ours}", str(value))


def _known(value: Any) -> bool:
    words = {"role", "from", "content", "value", "speaker", "text", "tool_calls", "name"}
    words |= {"reasoning_content", "tool_call_id", "weight", "train"}
    return isinstance(value, Mapping) and {str(v) for v in value.values()} <= words
