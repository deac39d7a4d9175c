"""Random configs for `fuzz.py`: from the shipped schemas, with values, keys and text mutated."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import Any

STRATEGIES = ("sft", "qlora", "reward", "dpo", "kto", "grpo", "rloo", "ppo", "rlhf")

# Values that no key expects, or that stand at an edge.
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, -(10**30), 0.0, -0.0, 1e308, 5e-324,
    1e-9, float("nan"), float("inf"), float("-inf"), "", " ", "\n", "0", "true", "null", "1e-4",
    "auto", "none", "\0", "a\0b", "\ud800", "\u202eevil", "😀" * 20, "é" * 300, "../../etc/passwd",
    "/", "~", ".", "..", "~nobody/x", "~nosuchuser/x", "/dev/null", "/proc/self/mem", "C:\\x",
    "x.py:f", "x" * 300, "x" * 70000,
    "$(reboot)", "; rm -rf /", "{{ 7*7 }}", "%s%n", "a/b", "a/b/c", [], {}, [[]], [None], {"": ""},
    {"a": {"b": {"c": []}}}, ["auto"], [1, "a", None], {"name": "x"}, {"path": "x", "weight": -1},
    [{"name": "length", "weight": float("nan")}], [{"path": "data.jsonl"}, "data.jsonl"],
]  # fmt: skip


PATHS = ("model_name", "dataset", "output_dir", "run_name", "resume", "chat_template") * 4


DATA = {
    "data.jsonl": {"prompt": "What is 1 plus {}?", "completion": "It is {}."},
    "pairs.jsonl": {"prompt": "Is it {}?", "chosen": "Yes, {}.", "rejected": "No {}."},
    "prompts.jsonl": {"prompt": "What is 1 plus {}?", "answer": "{}"},
}


@dataclass(frozen=True)
class Case:
    """A config file: its name, its bytes, and the ``--set`` that go with it."""

    name: str
    content: bytes
    overrides: tuple[str, ...]


@cache
def schema_of(strategy: str) -> dict[str, Any]:
    """The shipped schema."""
    path = files("modelforge.configs") / "schemas" / f"{strategy}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def write_data(folder: Path) -> list[str]:
    """Small files of each kind for the configs that are prepared."""
    for name, row in DATA.items():
        lines = [json.dumps({k: v.format(i) for k, v in row.items()}) for i in range(12)]
        (folder / name).write_text("\n".join(lines))
    answers = [
        {"prompt": f"Is it {i}?", "completion": f"Yes, {i}.", "label": i % 2 == 0}
        for i in range(12)
    ]
    (folder / "labelled.jsonl").write_text("\n".join(json.dumps(row) for row in answers))
    (folder / "rewards.py").write_text("def f(completions, **kwargs):\n    return [0.0]\n")
    return list(DATA)


def make(random: Random, model: str, data: list[str]) -> Case:
    """One case: most are nearly right, since what is refused at once tests little."""
    strategy = random.choice(STRATEGIES)
    schema = schema_of(strategy)
    values: dict[str, Any] = {
        "strategy": strategy,
        "model_name": model,
        "dataset": random.choice(data),
        "max_seq_length": 64,
    }
    for _ in range(random.randrange(5)):
        key = random.choice(list(schema["properties"]))
        if key not in ("strategy", "model_name"):
            values[key] = of_schema(random, schema["properties"][key], schema)
    for _ in range(random.choice((0, 0, 1, 1, 2, 4))):
        mutate(random, values, schema)
    overrides = tuple(override(random, schema) for _ in range(random.choice((0, 0, 0, 1, 2))))
    name = random.choice(("config.json", "config.json", "config.yaml", "config.yml", "config"))
    if random.random() < 0.02:
        return Case("config.yaml", random.choice(YAML).encode(), overrides)
    return Case(name, spoil(random, text_of(random, values)), overrides)


def of_schema(random: Random, node: dict[str, Any], root: dict[str, Any]) -> Any:
    """A value that the schema accepts, or nearly."""
    if "$ref" in node:
        return of_schema(random, root["$defs"][node["$ref"].rpartition("/")[2]], root)
    if "anyOf" in node:
        return of_schema(random, random.choice(node["anyOf"]), root)
    if "const" in node:
        return node["const"]
    if "enum" in node:
        return random.choice(node["enum"])
    kind = node.get("type", "string")
    kind = random.choice(kind) if isinstance(kind, list) else kind
    low = node.get("minimum", node.get("exclusiveMinimum", -3))
    high = node.get("maximum", node.get("exclusiveMaximum", low + random.choice((1, 10, 10_000))))
    if kind == "integer":
        return random.randint(int(low), max(int(low), int(high)))
    if kind == "number":
        return random.choice((random.uniform(low, high), low, high))
    if kind == "boolean":
        return random.random() < 0.5
    if kind == "array":
        inner = node.get("items", {})
        return [of_schema(random, inner, root) for _ in range(random.randrange(4))]
    if kind == "object":
        keys = [key for key in node.get("properties", {}) if random.random() < 0.4]
        return {key: of_schema(random, node["properties"][key], root) for key in keys}
    if kind == "null":
        return None
    words = ("a", "auto", "runs", "numeric_answer", "exact_match", "length", "rewards.py:f", "en")
    return random.choice(words)


def mutate(random: Random, values: dict[str, Any], schema: dict[str, Any]) -> None:
    """Change one thing, in place: a value, a key, a level of nesting."""
    keys = list(values) or ["strategy"]
    key = random.choice(keys)
    kind = random.randrange(8)
    if kind == 0:
        keys = [*schema["properties"], *PATHS]
        values[random.choice(keys)] = nasty(random)
    elif kind == 1:
        values[key] = nasty(random)
    elif kind == 2:
        values.pop(key, None)
    elif kind == 3:
        values[typo(random, random.choice(list(schema["properties"])))] = nasty(random)
    elif kind == 4:
        deep: Any = nasty(random)
        for _ in range(random.choice((2, 20, 400))):
            deep = random.choice(([deep], {"a": deep}))
        values[key] = deep
    elif kind == 5:
        section = random.choice(("generation", "ppo", "rewards", "columns", "dataset", "stages",
                                 "reward_stage", "sft_stage", "lr_scheduler_kwargs"))  # fmt: skip
        inner = schema["properties"].get(section, {})
        value = of_schema(random, inner, schema)
        if isinstance(value, dict):
            value[typo(random, random.choice([*value, "kl_coef"]))] = nasty(random)
        elif isinstance(value, list):
            value.append(nasty(random))
        values[section] = value
    elif kind == 6 and isinstance(values.get(key), dict):
        mutate(random, values[key], schema)
    else:
        values[nasty_key(random)] = nasty(random)


def nasty(random: Random) -> Any:
    """A copy of one of the values that no key expects."""
    return copy.deepcopy(random.choice(NASTY))


def nasty_key(random: Random) -> str:
    """A key that is none."""
    return random.choice(["", " ", "\0", "ключ", "a" * 5000, "$schema", "__class__", "lora_r "])


def typo(random: Random, name: str) -> str:
    """A name with one letter lost, doubled, exchanged or in capitals."""
    if len(name) < 2:
        return name + "x"
    at = random.randrange(len(name) - 1)
    return random.choice(
        (
            name[:at] + name[at + 1 :],
            name[:at] + name[at] + name[at:],
            name[:at] + name[at + 1] + name[at] + name[at + 2 :],
            name.upper(),
            name.replace("_", "-"),
        )
    )


def override(random: Random, schema: dict[str, Any]) -> str:
    """A ``--set``."""
    key = random.choice(list(schema["properties"]))
    value = random.choice((str(nasty(random)), json.dumps(nasty(random))))
    key = random.choice((key, key, typo(random, key), f"{key}.a", f"{key}.a.b", "", "=", ".", "a."))
    return random.choice((f"{key}={value}", f"{key}={value}", key, value))


def text_of(random: Random, values: dict[str, Any]) -> str:
    """The values as JSON, in one of the ways people write it."""
    indent = random.choice((None, 2))
    return json.dumps(values, indent=indent, ensure_ascii=random.random() < 0.5)


YAML = [
    "a0: &a0 [x, x]\n"
    + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12))
    + "strategy: sft\n",
    "strategy: &a [*a]\n",
    "strategy: !!python/object/apply:os.system ['true']\n",
    "strategy: sft\nmodel_name: 2026-11-21\ndataset: !!binary aGVsbG8=\n",
    "? [a]\n: b\n",
    "1: sft\n",
    "strategy: sft\n\tdataset: x\n",
    "strategy: sft\nlora_r: .nan\nseed: 0o7\nlearning_rate: 1_000\nmodel_name: ~\n",
    "%YAML 9.9\n---\na: b\n---\nc: d\n",
    "<<: {strategy: sft}\nstrategy: dpo\nstrategy: sft\n",
    "- a\n- b\n",
    "strategy: !!set {sft}\nmodel_name: !!omap [a: 1]\n",
]


def spoil(random: Random, text: str) -> bytes:
    """The text as bytes, whole three times of four."""
    kind = random.randrange(40)
    at = random.randrange(len(text) + 1)
    changed = {
        0: text[:at],
        1: text[:at] + random.choice("{}[],:\"'\\\n\t/#&*!%@`\0") + text[at:],
        2: text[:at] + text[at + 1 :],
        3: text.replace('"', "'"),
        4: text.replace("}", ",}"),
        5: "\ufeff" + text,
        6: text + text,
        7: text.replace("{", '{"strategy": "dpo", ', 1),
        8: text.replace(": ", ":"),
        9: "[" * random.choice((10, 2000, 100_000)),
        10: '{"a":' * random.choice((10, 2000, 100_000)),
        11: text.replace("64", "9" * random.choice((30, 5000))),
    }.get(kind, text)
    encoding = {12: "utf-16", 13: "latin-1", 14: "cp1252", 15: "utf-32"}.get(kind, "utf-8")
    raw = changed.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")
    return random.randbytes(random.randrange(200)) if kind == 16 else raw
