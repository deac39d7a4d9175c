"""Import configs of other projects, check them, and train each for two steps on the tiny model.

    OMP_NUM_THREADS=1 python benchmarks/imports_trained.py FOLDER

FOLDER holds the configs. The tiny model and its data take the place of theirs, and what belongs to
their model, to a card or to an account goes with these: the words of their tokenizer, flash
attention, FSDP, a push to the hub. All other keys stay as they were imported. The table says what
took place.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from modelforge.errors import UserError
from modelforge.importing.carry import import_config
from modelforge.registry import get_strategy

TINY = Path(__file__).resolve().parents[1] / "examples" / "tiny"
DATA = {"demonstration": "sft", "preference": "preference", "labelled": "labelled",
        "prompt": "prompts"}  # fmt: skip
# What is of their model or of a card.
THEIRS = ("pad_token", "eos_token", "add_special_tokens", "attn_implementation", "distributed",
          "eval_dataset", "dataset_split", "columns", "push_to_hub", "hub_model_id")  # fmt: skip


def here(found: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The imported config with the tiny model and its data, for two steps; and what it lost."""
    kind = DATA[get_strategy(found["strategy"]).data_kind]
    left_out = [key for key in THEIRS if key in found]
    kept = {key: value for key, value in found.items() if key not in (*THEIRS, "num_train_epochs")}
    return kept | {
        "model_name": str(TINY / "model"),
        "dataset": str(TINY / "data" / f"{kind}_train.jsonl"),
        "output_dir": str(folder / "runs"),
        "max_samples": 40,
        "max_steps": 2,
        "report_to": "none",
    }, left_out


def command(word: str, path: Path) -> str:
    """What a command answers: empty, or its first problem."""
    line = [sys.executable, "-m", "modelforge", word, str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())[-300:]


def row(path: Path, folder: Path) -> str:
    """One config's line."""
    try:
        found = import_config(path).config
    except UserError as error:
        return f"| {path.name} | | refused: {error.problems[0]} | | |"
    config, left_out = here(dict(found), folder)
    written = folder / "config.json"
    written.write_text(json.dumps(config))
    checked = command("check", written)
    trained = "" if checked else command("train", written)
    words = (found["strategy"], checked or "passes", trained or ("" if checked else "two steps"))
    return f"| {path.name} | {' | '.join(words)} | {', '.join(left_out)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    print("| config | strategy | `check` | `train` | left out |\n|---|---|---|---|---|")
    for path in sorted(parser.parse_args().folder.glob("*.y*ml")):
        with tempfile.TemporaryDirectory() as folder:
            print(row(path, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
