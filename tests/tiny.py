"""Short runs of the tiny model, for tests of what a run does rather than of how well it learns."""

import functools
import tempfile
from pathlib import Path

import modelforge

ROOT = Path(__file__).parents[1]
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "grpo": "prompts", "ppo": "prompts"}  # fmt: skip


@functools.cache
def held_out(name: str, rows: int = 16) -> Path:
    """The first rows of a held-out file: measuring all 150 takes longer than six steps."""
    lines = (ROOT / "examples/tiny/data" / f"{name}_eval.jsonl").read_text().splitlines()
    path = Path(tempfile.mkdtemp(prefix="modelforge-tests-"), f"{name}.jsonl")
    path.write_text("\n".join(lines[:rows]) + "\n")
    return path


def quick(strategy, folder, *overrides, **keys):
    """Train the tiny preset on few held-out rows and without trackers; overrides come last."""
    said = {"output_dir": folder, "eval_dataset": held_out(DATA[strategy]), "report_to": "none"}
    options = [f"{key}={value}" for key, value in (said | keys).items()]
    return modelforge.train(
        ROOT / "configs" / "tiny" / f"{strategy}.json", overrides=[*options, *overrides]
    )
