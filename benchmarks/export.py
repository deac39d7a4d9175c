"""Every format of `modelforge export`, made of a short run and proven: its KL divergence.

    python benchmarks/export.py MODEL… [--steps 6] [--only gguf merged:bf16]
    python benchmarks/export.py MODEL… --draws 8

Each MODEL is a folder. It is trained for a few steps with LoRA, so that what was trained differs
from the base; a finished run is taken as it is. Then each format is exported, which holds it
against the trained model by its own runtime. The trained model is asked once, and its answers serve
all formats. What is refused says why. A table in Markdown is printed.

With --draws the rounding that the bound is measured by is drawn several times: how far draws are
apart, and what rounding to the nearest gives in their place.
"""

import argparse
import datetime
import functools
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from modelforge.errors import UserError
from modelforge.export import export
from modelforge.export.bound import bound_of
from modelforge.export.merge import merged
from modelforge.export.proof import CEILING, compared, logps_of
from modelforge.export.reference import reference_of
from modelforge.export.rounding import Rounding, inputs_rounded, move
from modelforge.inference.trained import find_trained

ROOT = Path(__file__).parents[1]
DATA = ROOT / "examples/tiny/data"


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
    command = [sys.executable, "-m", "modelforge", "train", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (folder / "runs").iterdir()
    return run


def asked_once() -> None:
    """Keep the trained model's answers, and the bound of each rounding, for all of its formats."""
    answers = functools.cache(lambda said: reference_of(find_trained(said)))
    bounds = functools.cache(
        lambda said, rounding: bound_of(find_trained(said), answers(said).cases, rounding)
    )
    export.reference_of = lambda found: answers(found.said)
    export.bound_of = lambda found, cases, rounding: bounds(found.said, rounding)


def row(run: Path, target: Path, format: str, kind: str) -> list[str]:
    """One line of the table."""
    try:
        made = export.export(str(run), format=format, kind=kind, output=target)
    except UserError as error:
        why = "; ".join(problem.what for problem in error.problems)
        return [format, kind, "", "", "", "", "", why.replace(str(target), "EXPORT")]
    proof: dict[str, Any] = made.about["proof"]
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    most = proof["bound"]
    kls = [f"{proof[name]:.2g} of {most[name[3:]]:.2g}" for name in ("kl_mean", "kl_p99")]
    ties = f"{proof['ties']} of {proof['tokens']}"
    start = proof.get("kl_start")  # None where all weights were trained
    kls.append("" if start is None else f"{start:.2g}")
    return [format, kind, f"{size / 1e6:.1f}", *kls, ties, "holds"]


def table(models: dict[str, Path], only: set[str], folder: Path) -> None:
    """Print what each format of each run measures."""
    asked_once()
    print("| model | format | type | MB | KL mean | KL p99 | before training | near ties | what |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name, run in models.items():
        for format, about in export.FORMATS.items():
            # The GGUF in a folder for Ollama is that of the rows before.
            for kind in about.types[:1] if format == "ollama" else about.types:
                if not only or only & {format, f"{format}:{kind}"}:
                    target = folder / f"{format}-{kind}"
                    print("|", " | ".join([name, *row(run, target, format, kind)]), "|", flush=True)
                    shutil.rmtree(target, ignore_errors=True)


def drawn(models: dict[str, Path], only: set[str], draws: int) -> None:
    """Print how far draws of the rounding are apart."""
    print("| model | format | type | KL mean of the draws | largest ÷ least | KL p99 | ÷ |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, run in models.items():
        found = find_trained(str(run))
        cases = reference_of(found).cases
        for format in ("merged", "gguf", "onnx"):
            about = export.FORMATS[format]
            for kind in about.types:
                wanted = not only or only & {format, f"{format}:{kind}"}
                if kind != "f32" and wanted:
                    rounding = about.rounding(kind)
                    proofs = [moved(found, cases, rounding, seed) for seed in range(draws)]
                    cells = []
                    for figure in ("kl_mean", "kl_p99"):
                        values = [getattr(proof, figure) for proof in proofs]
                        cells += [f"{min(values):.2g} to {max(values):.2g}"]
                        cells += [f"{max(values) / min(values):.1f}"]
                    print("|", " | ".join([name, format, kind, *cells]), "|", flush=True)


def moved(found: Any, cases: Any, rounding: Rounding, seed: int) -> Any:
    """What one draw of the rounding measures."""
    model = merged(found, base="dequantised", dtype=torch.float32)
    move(model, rounding, seed)
    with inputs_rounded(model, rounding.inputs):
        logps = [logps_of(model, case.ids, case.answer) for case in cases]
    return compared(cases, logps, CEILING)


def main(given: argparse.Namespace) -> None:
    """Train what is not trained, and print a table."""
    print(f"{datetime.date.today()}, {platform.machine()} CPU, torch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as place:
        models = {}
        for number, model in enumerate(given.models):
            folder = Path(place, str(number))
            folder.mkdir()
            known = (model / "choices.json").is_file()
            models[model.name] = model if known else trained(model, folder, given.steps)
        if given.draws:
            drawn(models, set(given.only), given.draws)
        else:
            table(models, set(given.only), Path(place))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--only", nargs="*", default=[], help="FORMAT or FORMAT:TYPE")
    parser.add_argument("--draws", type=int, default=0)
    main(parser.parse_args())
