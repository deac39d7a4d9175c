"""`modelforge plan --vram` and `modelforge train` on a card of that size choose the same config.

Random configs of the tiny model are filled in and fitted twice: as a plan for a card is, and as a
run is on a machine whose card is emulated. Every value has to be the same. Fails at the first that
is not.

    python benchmarks/plan_and_train.py --configs 200
"""

import argparse
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from modelforge.config import Config
from modelforge.configfile.load import load_config
from modelforge.errors import UserError
from modelforge.machine.hardware import Hardware
from modelforge.plan.planner import card
from modelforge.training import resolve as resolving
from modelforge.training.fit import fit
from modelforge.training.read import read
from modelforge.training.resolve import resolve

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny"
DATA = {"sft": "sft", "dpo": "preference", "reward": "preference", "grpo": "prompts"}
SAID: dict[str, list[Any]] = {
    "gradient_checkpointing": [True, False],
    "max_seq_length": [128, 256, 512],
    "lora_r": [4, 16],
    "optim": ["adamw_torch", "adamw_8bit"],
    "use_4bit": [True, False],
    "per_device_train_batch_size": [1, 4],
    "packing": [True],
}


def draw(drawn: random.Random, folder: Path) -> tuple[dict[str, Any], float]:
    """A config of the tiny model, and the size of a card that some of them do not fit."""
    strategy = drawn.choice(list(DATA))
    keys = {k: drawn.choice(values) for k, values in SAID.items() if drawn.random() < 0.3}
    if strategy != "sft":
        keys.pop("packing", None)
    values = {"strategy": strategy, "model_name": str(TINY / "model"), "report_to": "none",
              "dataset": str(TINY / "data" / f"{DATA[strategy]}_train.jsonl"),
              "max_samples": 40, "output_dir": str(folder), **keys}  # fmt: skip
    return values, drawn.choice([0.53, 0.56, 0.6, 0.8, 12.0])


def chosen(values: dict[str, Any], machine: Hardware, *, planning: bool) -> Any:
    """What is trained with, or why nothing is."""
    config: Config = load_config(values)
    try:
        if planning:
            resolved = resolve(config, planned_for=machine, planning=True)
        else:
            with mock.patch.object(resolving, "detect_hardware", lambda: machine):
                resolved = resolve(config)
        return fit(resolved, read(resolved)).config.resolved()
    except UserError as error:
        return str(error)


def differences(seed: int) -> dict[str, Any]:
    """The values that a plan and a run of one random config fill in otherwise."""
    with tempfile.TemporaryDirectory() as name:
        values, budget = draw(random.Random(seed), Path(name))
        machine = card(budget)
        real = replace(machine, device_name="an emulated card", ram_gb=32.0, cores=4)
        planned = chosen(values, machine, planning=True)
        trained = chosen(values, real, planning=False)
    if isinstance(planned, str) or isinstance(trained, str):
        return {} if planned == trained else {"refused": (planned, trained)}
    keys = planned.keys() | trained.keys()
    return {k: (planned.get(k), trained.get(k)) for k in keys if planned.get(k) != trained.get(k)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--configs", type=int, default=200)
    count = parser.parse_args().configs
    for seed in range(count):
        found = differences(seed)
        print(f"{seed:4} {found or 'the same'}", flush=True)
        assert not found, seed
    print(f"{count} configs, all chosen alike")


if __name__ == "__main__":
    main()
