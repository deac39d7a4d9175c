"""Every format of `modelforge export`, made of a short run and verified: its KL divergence.

    python benchmarks/export.py MODEL… [--steps 6]

Each MODEL is a folder. It is trained for a few steps with LoRA, so that what was trained differs
from the base; a finished run is taken as it is. Then each format is exported and verified, in
processes of their own. What is refused says why. A table in Markdown is printed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from modelforge.export.export import FORMATS

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples/tiny/data"


def command(*said: str) -> subprocess.CompletedProcess[str]:
    """A ModelForge command, as a user gives it."""
    whole = [sys.executable, "-m", "modelforge", *said]
    return subprocess.run(whole, capture_output=True, text=True, check=False)


def trained(model: Path, folder: Path, steps: int) -> Path:
    """A short run of a model."""
    config = {
        "strategy": "sft",
        "model_name": str(model.resolve()),
        "dataset": str(DATA / "sft_train.jsonl"),
        "output_dir": str(folder / "runs"),
        "eval_split": 0.02,
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "max_seq_length": 128,
        "learning_rate": 1e-3,
        "lora_r": 8,
        "save_strategy": "no",
        "report_to": "none",
    }
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    done = command("train", str(path))
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder / "runs").iterdir()
    return run


def why(done: subprocess.CompletedProcess[str]) -> str:
    """What an error says."""
    try:
        return "; ".join(each["what"] for each in json.loads(done.stdout)["problems"])
    except (ValueError, KeyError):
        return f"ended with {done.returncode}: {' '.join(done.stderr.splitlines()[-1:])}"


def row(run: Path, target: Path, format: str, kind: str) -> list[str]:
    """One line of the table."""
    said = ["--format", format, "--type", kind, "--output", str(target), "--json"]
    made = command("export", str(run), *said)
    if made.returncode:
        return [format, kind, "", "", "", "", why(made)]
    again = command("verify", str(target), "--json")
    if again.returncode:
        return [format, kind, "", "", "", "", f"verify: {why(again)}"]
    proof = json.loads(again.stdout)["proof"]
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    kls = [f"{proof['kl_mean']:.2g}", f"{proof['kl_p99']:.2g}"]
    ties = f"{proof['ties']} of {proof['tokens']}"
    return [format, kind, f"{size / 1e6:.1f}", *kls, ties, "holds"]


def main(models: list[Path], steps: int, only: set[str]) -> None:
    """Print the table."""
    print("| model | format | type | MB | KL mean | KL p99 | near ties | what |")
    print("|---|---|---|---|---|---|---|---|")
    wanted = [(name, kind) for name, about in FORMATS.items() for kind in about.types]
    for model in models:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            run = model if (model / "choices.json").is_file() else trained(model, folder, steps)
            for name, kind in wanted:
                if not only or only & {name, f"{name}:{kind}"}:
                    target = folder / f"{name}-{kind}"
                    cells = row(run, target, name, kind)
                    print("|", " | ".join([model.name, *cells]), "|", flush=True)
                    shutil.rmtree(target, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=[], help="FORMAT or FORMAT:TYPE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    given = parser.parse_args()
    main(given.models, given.steps, set(given.only))
