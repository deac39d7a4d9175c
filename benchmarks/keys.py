"""Which keys of each schema a run reads: two steps, evaluated and saved, with every read recorded.

    OMP_NUM_THREADS=1 python benchmarks/keys.py

A key of TRL's config that nothing reads while the tiny model trains, is evaluated and is saved has
no effect in such a run. What only checks, prints or stores it does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
DATA = {"sft": "sft", "reward": "preference", "dpo": "preference", "kto": "preference",
        "grpo": "prompts", "rloo": "prompts", "ppo": "prompts"}  # fmt: skip


# What reads a config to check, print or store it: no effect on the run.
STORING = frozenset(
    ("__post_init__", "to_dict", "__str__", "__repr__", "asdict", "_asdict_inner", "<dictcomp>",
     "to_json_string", "to_sanitized_dict", "replace", "_validate_args")
)  # fmt: skip


@contextlib.contextmanager
def recorded(config_class: Any) -> Iterator[set[str]]:
    """The names of the config's fields that are read, but to check, print or store it."""
    names = {field.name for field in dataclasses.fields(config_class)}
    reads: set[str] = set()

    def read(self: Any, name: str) -> Any:
        if name in names and sys._getframe(1).f_code.co_name not in STORING:
            reads.add(name)
        return object.__getattribute__(self, name)

    config_class.__getattribute__ = read
    try:
        yield reads
    finally:
        del config_class.__getattribute__


def keys_read(strategy: str, folder: Path) -> set[str]:
    """The fields of TRL's config that one run reads."""
    import modelforge
    from modelforge.registry import get_strategy

    rows = (TINY / "data" / f"{DATA[strategy]}_eval.jsonl").read_text().splitlines()[:16]
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    values: dict[str, Any] = {
        "strategy": strategy, "model_name": str(TINY / "model"), "max_seq_length": 64,
        "dataset": str(folder / "rows.jsonl"), "eval_split": 4, "max_steps": 2, "save_steps": 1,
        "eval_steps": 1, "logging_steps": 1, "output_dir": str(folder), "report_to": "none",
        "per_device_train_batch_size": 4,
    }  # fmt: skip
    if DATA[strategy] == "prompts":
        values |= {"generation": {"max_new_tokens": 4}, "rewards": ["numeric_answer"]}
    if strategy in ("grpo", "rloo"):
        values["num_generations"] = 2
    with recorded(get_strategy(strategy).trl_config_class()) as reads:
        modelforge.train(values)
    return reads


def main(arguments: list[str] | None = None) -> int:
    """Print a table: of each strategy, the keys that no code read."""
    from modelforge.configfile import schema
    from modelforge.registry import get_strategy

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strategies", nargs="*", default=list(DATA))
    options = parser.parse_args(arguments)
    print("| strategy | keys of TRL | read in a run | never read |\n|---|---|---|---|")
    for name in options.strategies:
        strategy = get_strategy(name)
        keys = set(schema.load(strategy)["properties"]) - set(strategy.settings.model_fields)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            found = keys_read(name, Path(folder))
        never = sorted(keys - found - {"$schema"} - set(strategy.ignored))
        print(f"| {name} | {len(keys)} | {len(keys & found)} | {', '.join(never)} |", flush=True)
    print(
        f"\n({datetime.date.today()}, {os.cpu_count()}-core {platform.machine()} CPU, Python "
        f"{platform.python_version()})"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
