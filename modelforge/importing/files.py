"""Files of other trainers: YAML, JSON, a shell script's flags, the calls of a Python script."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modelforge.configfile.load import parsed
from modelforge.errors import ConfigError, Problem

_COMMAND = re.compile(
    r"(?:^|[\s/])(?P<program>swift|megatron|trl|llamafactory-cli|axolotl|tune)(?:\s+|/cli/(?:main\.py\s+)?)"
    r"(?P<verb>sft|pt|rlhf|dpo|grpo|kto|reward|rloo|ppo|orpo|cpo|train|run|sample|infer|deploy)\b"
)
_SCRIPT = re.compile(
    r"(?:^|\s|/)(?P<verb>sft|dpo|grpo|kto|reward_modeling|reward|rloo|ppo|orpo|cpo|gkd|online_dpo|"
    r"nash_md|xpo|bco|prm)\.py\b"
)
_VARIABLE = re.compile(r"^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.DOTALL)
# Calls whose keywords are settings, in a script of Unsloth's or TRL's.
_CALLS = re.compile(
    r"(?:from_pretrained|get_peft_model|[A-Z]+[A-Za-z]*Config|TrainingArguments|load_dataset|"
    r"UnslothTrainingArguments|get_chat_template|[A-Z]+[A-Za-z]*Trainer)$"
)
_TRAINS = r"\bswift\s+(?:sft|pt|rlhf)\b"
# Keywords whose values are objects of a script, and no settings.
_OBJECTS = (
    *("model", "args", "tokenizer", "processing_class", "data_collator", "compute_metrics"),
    *("callbacks", "train_dataset", "eval_dataset", "formatting_func", "loss", "batch_sampler"),
    *(
        "vllm_sampling_params",
        "auto_model",
        "evaluator",
        "optimizers",
        "config",
        "quantization_config",
    ),
    *(
        "preprocess_logits_for_metrics",
        "peft_config",
        "ref_model",
        "rollout_func",
        "path",
        "prompts",
    ),
)


class Read(NamedTuple):
    """What a file says.

    Attributes:
        values: Its keys.
        command: Its program and verb, such as ``("swift", "rlhf")``; empty without one.
        environment: Environment variables that it sets.
        computed: Keys whose value the file computes, so that it cannot be read.
    """

    values: dict[str, Any]
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    computed: tuple[str, ...] = ()


def read(path: Path) -> Read:
    """The settings in a file of another trainer.

    Raises:
        ConfigError: If it cannot be read, or holds none.
    """
    fix = "give the config of another trainer"
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ConfigError(Problem(str(path), what, fix))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(str(path), f"cannot be read: {error}", "save as UTF-8")) from None
    if path.suffix in (".json", ".yaml", ".yml"):
        return Read(parsed(_without_interpolation(text), path, fix=fix))
    if path.suffix == ".ipynb":
        return _script(_cells(text, path), path)
    if path.suffix == ".py":
        return _script(text, path)
    return shell(text, path)


def _without_interpolation(text: str) -> str:
    """OmegaConf's ``${output_dir}``, of torchtune's files, by the value at the top."""
    for name in set(re.findall(r"\$\{([A-Za-z_]\w*)\}", text)):
        value = re.search(rf"^{name}:\s*([^#\n]+?)\s*(?:#.*)?$", text, re.MULTILINE)
        if value:
            text = text.replace(f"${{{name}}}", value[1].strip("'\""))
    return text


def shell(text: str, path: Path) -> Read:
    """The flags of the training command in a shell script; of several the first.

    Raises:
        ConfigError: If there is none.
    """
    variables: dict[str, str] = {}
    for line in _logical_lines(text):
        line = _reckoned(line, variables)
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        assigned = _VARIABLE.match(words[0]) if len(words) == 1 else None
        if assigned:
            variables[assigned[1]] = _filled(assigned[2], variables)
            continue
        found = _COMMAND.search(" ".join(words)) or (
            _SCRIPT.search(" ".join(words)) if any(w.startswith("--") for w in words) else None
        )
        if not found:
            continue
        program = found.groupdict().get("program") or "trl"
        verb = found["verb"]
        if verb in ("sample", "infer", "deploy") and re.search(_TRAINS, text):
            continue
        at = next(i for i, w in enumerate(words) if w == verb or w.endswith(f"{verb}.py"))
        before = [_VARIABLE.match(word) for word in words[:at]]
        environment = {m[1]: m[2] for m in before if m}
        flags = _flags([_filled(word, variables) for word in words[at + 1 :]], path)
        return Read(flags, (program, verb), environment)
    fix = "give a YAML or JSON config, or a script with such a command"
    what = "holds no training command of ms-swift, TRL or another trainer"
    raise ConfigError(Problem(path.name, what, fix))


def _logical_lines(text: str) -> Iterator[str]:
    """Lines joined where a backslash or an open quote carries on."""
    kept = ""
    for line in text.splitlines():
        if not kept and line.lstrip().startswith("#"):
            continue
        if kept and re.match(r"^\s*#", line) and kept.endswith(" "):
            continue  # a flag that is commented out, between two others
        kept += line
        if kept.rstrip().endswith("\\"):
            kept = kept.rstrip()[:-1] + " "
        elif _open(kept):
            kept += "\n"
        else:
            yield kept
            kept = ""
    if kept.strip():
        yield kept


def _open(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _reckoned(line: str, variables: Mapping[str, str]) -> str:
    """``$(expr 16 / 2)`` and ``$((16 / 2))`` as their number, where it is plain."""

    def number(found: re.Match[str]) -> str:
        text = _filled((found[1] or found[2]).strip().replace("'", ""), variables)
        if not re.fullmatch(r"\d+(?:\s*[*/+-]\s*\d+)*", text):
            return found[0]
        words = re.findall(r"\d+|[*/+-]", text)
        result = int(words[0])
        for sign, word in zip(words[1::2], words[2::2], strict=True):
            other = int(word)
            if sign == "/" and not other:
                return found[0]
            result = {"*": result * other, "+": result + other, "-": result - other,
                      "/": result // (other or 1)}[sign]  # fmt: skip
        return str(result)

    return re.sub(r"\$\(expr ([^()]*)\)|\$\(\(([^()]*)\)\)", number, line)


def _filled(word: str, variables: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        return variables.get(found[1] or found[2], found[0])

    return re.sub(r"\$\{(\w+)\}|\$(\w+)", value, word)


def _flags(words: list[str], path: Path) -> dict[str, Any]:
    """``--key value value --switch key=value``; a file among them is read beneath them."""
    values: dict[str, Any] = {}
    key = ""
    kept: list[str] = []

    def close() -> None:
        if key:
            said = [_scalar(word) for word in kept]
            values[key.replace("-", "_")] = (
                True if not said else said[0] if len(said) == 1 else said
            )

    for word in words:
        if word in ("|", "&", "&&", ";", ">", "2>&1"):
            break
        if re.match(r"^--[A-Za-z]", word):
            close()
            key, _, inline = word[2:].partition("=")
            kept = [inline] if inline else []
        elif key:
            kept.append(word)
        elif "=" in word:
            name, _, value = word.partition("=")
            values[name] = _scalar(value)
        elif word.endswith((".yaml", ".yml", ".json")) and (found := _near(path, word)):
            values = {**parsed(_without_interpolation(found.read_text("utf-8")), found), **values}
    close()
    config = values.pop("config", None)
    if isinstance(config, str) and (found := _near(path, config)):
        values = {**parsed(found.read_text("utf-8"), found), **values}
    return values


def _near(path: Path, word: str) -> Path | None:
    for folder in (Path.cwd(), path.resolve().parent, *list(path.resolve().parents)[1:5]):
        if (folder / word).is_file():
            return folder / word
    return None


def _scalar(word: str) -> Any:
    """A word of a command line as YAML reads it; what is no plain value stays a text."""
    if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", word):
        return float(word)
    try:
        value = yaml.safe_load(word)
    except yaml.YAMLError:
        return word
    return value if isinstance(value, bool | int | float) or value is None else word


def _cells(text: str, path: Path) -> str:
    """The code of a notebook, without its magic lines."""
    try:
        cells = json.loads(text)["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            Problem(path.name, "is no notebook", "save it in Jupyter again")
        ) from None
    return "\n".join(cell for cell in map(_plain_code, code) if cell)


def _plain_code(cell: str) -> str:
    lines = ["" if re.match(r"^\s*[%!]", line) else line for line in cell.splitlines()]
    try:
        ast.parse("\n".join(lines))
    except SyntaxError:
        return ""
    return "\n".join(lines)


def _script(text: str, path: Path) -> Read:
    """The literal keywords of the calls that set something; nothing of the file is run.

    Raises:
        ConfigError: If it is no Python, or has no such call.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise ConfigError(Problem(f"{path.name}:{error.lineno}", "is no Python")) from None
    names = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    values: dict[str, Any] = {}
    computed = []
    for node in ast.walk(tree):
        name = _called(node)
        if not isinstance(node, ast.Call) or not _CALLS.search(name):
            continue
        section = values.setdefault(name.rpartition(".")[2], {})
        if name.endswith("load_dataset") and node.args and "path" not in section:
            section |= dict(
                zip(("path", "name"), (_literal(a, names) for a in node.args), strict=False)
            )
        if name.endswith("from_pretrained"):
            values.setdefault("class", name.rpartition(".")[0])
        for keyword in node.keywords:
            value = _literal(keyword.value, names)
            if keyword.arg == "reward_funcs" and isinstance(keyword.value, ast.List):
                value = [each.id for each in keyword.value.elts if isinstance(each, ast.Name)]
            if value is not ... and keyword.arg:
                section.setdefault(keyword.arg, value)
            elif keyword.arg and keyword.arg not in _OBJECTS:
                computed.append(keyword.arg)
    if not any(isinstance(v, Mapping) and v for v in values.values()):
        what = "calls nothing that sets up a training, such as FastLanguageModel.from_pretrained"
        raise ConfigError(Problem(path.name, what, 'write its settings as JSON: {"r": 16, …}'))
    values = {k: v for k, v in values.items() if v != {}}
    return Read(values, ("python", ""), computed=tuple(dict.fromkeys(computed)))


def _called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    found = node.func
    parts = []
    while isinstance(found, ast.Attribute):
        parts.append(found.attr)
        found = found.value
    if isinstance(found, ast.Name):
        parts.append(found.id)
    return ".".join(reversed(parts))


def _literal(node: ast.expr, names: Mapping[str, ast.expr], deep: int = 0) -> Any:
    """The value of an expression that only spells one out; ``...`` for any other."""
    if isinstance(node, ast.Name) and node.id in names and deep < 3:
        return _literal(names[node.id], names, deep + 1)
    if isinstance(node, ast.Attribute) and node.attr in ("bfloat16", "float16", "float32"):
        return node.attr
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return ...
