"""A config of another trainer → ours, with what became of each of its keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelforge import registry
from modelforge.configfile import schema
from modelforge.configfile.load import overridden
from modelforge.configfile.peers import PROJECTS, recognise, table
from modelforge.configfile.wrong import ALIKE
from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.importing import (
    amounts,
    axolotl,
    methods,
    projects,
    sections,
    sets,
    swift,
    torchtune,
    unsloth,
    values,
)
from modelforge.importing.files import Read, read
from modelforge.importing.kinds import TRAINERS, strategy_of
from modelforge.importing.methods import WHOLE
from modelforge.importing.settle import settle, withdraw
from modelforge.importing.theirs import Line, Theirs, says_something, whole
from modelforge.importing.tuning import trains_lora

_NUMBER = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
# Sections of theirs that say the keys of one stage of rlhf.
_STAGES = {"sft": "sft_stage.", "reward": "reward_stage.", "reward_model": "reward_stage."}
# The longest prompt where a file bounds none.
_PROMPT = 1024


@dataclass(frozen=True)
class Imported:
    """A config of another trainer, carried over.

    Attributes:
        project: The name of its project.
        marks: The keys that tell the project; empty where its user or a command said it.
        doubt: Another project that it may be of; empty without a doubt.
        config: Ours.
        lines: What became of each of their keys.
        files: Files that our config needs beside it: name → text.
    """

    project: str
    marks: tuple[str, ...]
    doubt: str
    config: dict[str, Any]
    lines: tuple[Line, ...]
    files: Mapping[str, str]


def import_config(
    path: Path,
    *,
    strategy: str = "",
    project: str = "",
    overrides: Iterable[str] = (),
    target: Path | None = None,
) -> Imported:
    """Carry a config of another trainer over.

    Args:
        path: Their file: YAML, JSON, a shell script, a Python script or a notebook.
        strategy: The strategy, where the file does not say it, or says it wrongly.
        project: Whose file it is, by the name of a table in ``configs/peers``.
        overrides: ``key=value`` of ours, over what is carried over.
        target: The folder that our config will stand in; by default the working folder.

    Raises:
        ConfigError: If the file cannot be read, is of no project that is known, or of a kind that
            is not trained here. Nothing is written.
    """
    found = read(path)
    name, marks, doubt = _project(found, path, project)
    t = Theirs(found.values, table(name), path, target or Path.cwd(), found.command)
    strategy_of(t, projects.PROJECTS[name].kind, strategy)
    projects.PROJECTS[name].tuning(t)
    for key in sorted(t.leaves, key=lambda key: _reads_along(t, key)):
        _carry(t, key)
    for key in found.computed:
        _computed(t, key)
    swift.environment(t, found.environment)
    _qlora(t)
    if "sft_stage" in t.ours:
        t.ours["stages"] = ["sft", "reward", "ppo"]
    _whole_messages(t)
    _defaults(t)
    _adapter_as_it_is(t)
    said = overridden(t.ours, overrides)
    t.ours |= said
    settle(t, said)
    return Imported(t.table.name, marks, doubt, _ordered(t.ours), tuple(t.lines), t.files)


def _project(found: Read, path: Path, said: str) -> tuple[str, tuple[str, ...], str]:
    """The table's name, the marks that tell it, and another that it might be."""
    if said:
        names = {alias: name for name in PROJECTS for alias in (name, table(name).name.lower())}
        if said.lower() not in names:
            near = did_you_mean(said, list(PROJECTS))
            raise ConfigError(Problem(f"--project {said}", "is no project that is known", near))
        return names[said.lower()], (), ""
    if found.command and (name := projects.of_program(found.command[0])):
        return name, (), ""
    if {"distributed_type", "compute_environment"} & set(found.values):
        what = "is Accelerate's file of processes, and trains nothing"
        raise ConfigError(Problem(path.name, what, "the key distributed says it here"))
    likely = recognise(found.values)
    if not likely:
        known = ", ".join(PROJECTS)
        what = "shows no key by which its project is told"
        raise ConfigError(Problem(path.name, what, f"say it by --project: {known}"))
    first = likely[0]
    doubt = likely[1][0] if len(likely) > 1 and likely[1][1] > 0.6 * first[1] else ""
    alike = {"trl", "handbook"}
    return first[0], tuple(first[2]), "" if {first[0], doubt} <= alike else doubt


def _computed(t: Theirs, key: str) -> None:
    """A key whose value a script computes."""
    if key in ("bf16", "fp16", "dtype", "torch_dtype"):
        t.lines.append(Line(key, "…", "unneeded", note="the machine decides, as there"))
    else:
        t.lines.append(Line(key, "…", "open", note="is computed in the script: say it by hand"))


def _function(name: str) -> Callable[[Theirs, str, Any], None]:
    for module in (values, amounts, methods, sets, axolotl, swift, torchtune, unsloth, sections):
        if hasattr(module, name):
            found: Callable[[Theirs, str, Any], None] = getattr(module, name)
            return found
    raise LookupError(name)


def _reads_along(t: Theirs, key: str) -> bool:
    """Whether another key's function reads this one: it comes last."""
    names = {key, key.rpartition(".")[2], key.partition(".")[0]}
    return any(t.table.converted.get(name, ("",))[0] in ("spoken", "quietly") for name in names)


def _carry(t: Theirs, key: str) -> None:
    """What becomes of a key of theirs, or of the section that it stands in."""
    if t.told(key):
        return
    head = key.partition(".")[0]
    if head in TRAINERS and TRAINERS[head] != t.strategy.replace("qlora", "sft"):
        t.lose(key, "of another training in the same script: import that by itself")
        return
    stages = t.strategy == "rlhf" and head in t.table.sections
    t.within = _STAGES.get(head, "") if stages else ""
    for at, name in _names(t, key):
        value = t.find(at)[1] if at != key else t.leaves[key]
        if name in t.table.valued:
            _valued(t, key, name, value)
        elif name in t.table.converted:
            _converted(t, at, name, value)
        elif name in t.table.renamed:
            _same(t, key, t.table.renamed[name], value)
        elif name in t.table.unneeded:
            t.leave(at, t.table.unneeded[name])
        elif name in t.table.lost:
            t.lose(at, t.table.lost[name])
        elif name in t.table.by_hand:
            t.lose(at, f"say it by hand: {t.table.by_hand[name]}")
        elif name in t.table.refused:
            t.lose(at, t.table.refused[name])
        else:
            continue
        if t.told(key):
            break
    else:
        _unknown(t, key)
    t.within = ""


def _converted(t: Theirs, at: str, name: str, value: Any) -> None:
    """By the function that the table names; a value that it cannot read is said."""
    try:
        _function(t.table.converted[name][0])(t, at, value)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError):
        t.lose(at, f"is not of the form that {t.table.name} documents")


def _names(t: Theirs, key: str) -> Iterable[tuple[str, str]]:
    """The places and names under which the table may have a key, the most exact first."""
    yield key, key
    head, _, rest = key.partition(".")
    if rest and head in t.table.sections:
        yield key, key.rpartition(".")[2]
        yield key, rest
    whole = t.table.converted.get(head, ("quietly",))[0] != "quietly"  # which reads one value
    if rest and (whole or head in (*t.table.unneeded, *t.table.lost)):
        yield head, head


def _unknown(t: Theirs, key: str) -> None:
    """A key that no table has: the same here, or not known."""
    head, _, rest = key.partition(".")
    name = rest if head in t.table.sections else key
    keys = schema.load(registry.get_strategy(t.strategy))["properties"]
    if name.partition(".")[0] in keys and "." not in name and name not in ("strategy", "$schema"):
        _same(t, key, name, t.leaves[key])
    elif name.partition(".")[0] in keys and "." in name and name.partition(".")[0] == head:
        _same(t, head, head, t.values[head])
    elif says_something(t.leaves[key]):
        near = did_you_mean(name, list(keys), alike=ALIKE)
        t.lose(key, f"is not known to this importer{'; ' + near if near else ''}")
    else:
        t.lose(key, "")


def _same(t: Theirs, key: str, ours: str, value: Any) -> None:
    """A value as it is, unless it says nothing; a number in a text is the number."""
    if value is None or value == "":
        t.lose(key, "")
    elif isinstance(value, str) and _NUMBER.match(value) and not _takes_text(t, ours):
        number = float(value)
        whole = number.is_integer() and "." not in value and "e" not in value.lower()
        t.put(key, value, ours, int(number) if whole else number)
    else:
        t.put(key, value, ours, value)


def _takes_text(t: Theirs, ours: str) -> bool:
    known = schema.load(registry.get_strategy(t.strategy))["properties"].get(ours, {})
    return '"string"' in str(known).replace("'", '"')


def _valued(t: Theirs, key: str, name: str, value: Any) -> None:
    """A value of theirs by the table of its values."""
    ours, meant = t.table.valued[name]
    word = str(value).lower() if isinstance(value, bool) else str(value)
    if word in meant and meant[word] is None:
        t.leave(key, f"{word}, as here")
    elif word in meant:
        t.put(key, value, ours, meant[word])
    elif ours in schema.load(registry.get_strategy(t.strategy))["properties"] and name == ours:
        _same(t, key, ours, value)
    else:
        t.lose(key, f"{ours} has nothing like {value}")


def _qlora(t: Theirs) -> None:
    """Supervised fine-tuning of LoRA on a 4-bit base has a name of its own."""
    if t.strategy == "sft" and t.ours.get("use_4bit") and t.ours.get("lora_r") != 0:
        t.strategy = "qlora"
    t.ours["strategy"] = t.strategy


def _defaults(t: Theirs) -> None:
    """What their project has where the file is silent, and ours another."""
    trl = schema.load(registry.get_strategy(t.strategy))[schema.TRL_DEFAULTS]
    theirs = {key: trl[key] for key in t.table.trl_defaults if key in trl}
    adapter = trains_lora(t)
    stage = str(t.get("stage", otherwise=""))
    kinds = ("all", "lora" * adapter, t.strategy, stage, t.version, f"{t.version} lora" * adapter)
    for kind in kinds:
        theirs |= t.table.defaults.get(kind, {})
    four = t.said("use_4bit")
    if theirs.get("use_4bit") if four is None else four:
        theirs |= t.table.defaults.get("4bit", {})
    if t.ours.get("max_steps"):
        theirs.pop("num_train_epochs", None)
    if t.said("warmup_steps"):
        theirs.pop("warmup_ratio", None)
    if t.said("eval_dataset"):
        theirs.pop("eval_split", None)
    if t.said("use_8bit"):
        theirs.pop("use_4bit", None)
    known = schema.load(registry.get_strategy(t.strategy))["properties"]
    if "generation" in known and t.said("max_seq_length") is None:
        new = t.said("generation.max_new_tokens") or theirs.get("generation.max_new_tokens")
        if new:
            note = f"room for a prompt of {_PROMPT} tokens and the answer"
            _written(t, "max_seq_length", _PROMPT + whole(new, 0), note)
    for key, value in theirs.items():
        if t.said(key) is None and key.partition(".")[0] in known:
            if value is None:
                what = f"{t.table.name} leaves it to the model, and ModelForge does not: say it"
                t.lines.append(Line("", None, "open", key, None, what))
            else:
                _written(t, key, _reckoned(t, value), f"{t.table.name}'s default")


def _written(t: Theirs, key: str, value: Any, note: str) -> None:
    t.put("", None, key, value)
    t.lines[-1] = replace(t.lines[-1], became="written", note=note)


def _reckoned(t: Theirs, value: Any) -> Any:
    """A default that other keys decide; any other as it is."""
    if value == "2 * lora_r":
        return 2 * whole(t.said("lora_r"), 8)
    if value == "16 rows a step":
        rows = whole(t.said("per_device_train_batch_size"), 1)
        rows *= whole(t.said("distributed.num_processes"), 1)
        return max(1, -(-16 // max(1, rows)))
    return value


def _whole_messages(t: Theirs) -> None:
    """TRL trains on every token of messages where nothing tells it otherwise."""
    told = t.said("train_on") is not None or t.told("assistant_only_loss")
    plain = t.get("dataset_text_field") is not None
    if t.table.trl_defaults and t.strategy in ("sft", "qlora") and not told and not plain:
        t.lines.append(Line("assistant_only_loss", None, "open", "train_on", None, WHOLE))


def _adapter_as_it_is(t: Theirs) -> None:
    """An adapter that is trained further keeps its own shape."""
    further = [line for line in t.lines if line.note.startswith("the adapter is trained further")]
    if further or t.ours.get("lora_r") == 0:
        why = "the adapter has its own" if further else "all weights are trained: no adapter"
        for key in ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora",
                    "lora_modules_to_save"):  # fmt: skip
            if key in t.ours and not (key == "lora_r" and not further):
                withdraw(t, key, why, "unneeded")


def _ordered(ours: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader looks for first stands first."""
    first = ("strategy", "model_name", "teacher_model", "dataset", "eval_dataset", "eval_split")
    return {k: ours[k] for k in (*(k for k in first if k in ours), *ours)}
