"""Our defaults against those of TRL's own commands and of LLaMA-Factory, on one and the same job.

    OMP_NUM_THREADS=1 python benchmarks/throughput.py --llamafactory-python PATH/bin/python
    OMP_NUM_THREADS=1 python benchmarks/throughput.py --short --strategies sft --batch 16 --rounds 1

With `--short` most rows are short and a few are long, as answers of chats are, and each command
lays out the rows of a step as it does by default. `padded` is ModelForge without what it does about
padding.

Model, rows, batch, LoRA, length and steps are the same; all else is each one's default. Each run
is a process of its own, through the command's own entry point; they take turns, round by round.
Timed are the training loop (from inside, around ``Trainer.train``) and the whole command (as the
operating system counts it), in CPU and in wall seconds. Tokens are counted in the batches as they
are trained on, without padding. A CUDA card is taken where there is one.

LLaMA-Factory wants an environment of its own (`pip install llamafactory`); with a CPU build of
torch, remove torchvision from it and put an empty module torchaudio in its place.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "examples" / "tiny"
CONTENDERS = ("modelforge", "padded", "trl", "llamafactory")
SAME = {"learning_rate": 1e-4, "save_strategy": "no", "seed": 1, "lr_scheduler_type": "constant"}


def write_data(folder: Path, strategy: str, rows: int, *, short: bool) -> None:
    """Rows of the tiny model's answers strung together, so that a step has something to do."""
    source = "sft_train" if strategy == "sft" else "preference_train"
    lines = (TINY / "data" / f"{source}.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    draw = random.Random(1)
    made = []
    for _ in range(rows):
        picked = draw.sample(found, how_many(draw, short=short))
        if strategy == "sft":
            texts = {"prompt": picked[0]["messages"][0]["content"]}
            texts["completion"] = " ".join(row["messages"][-1]["content"] for row in picked)
        else:
            texts = {"prompt": picked[0]["prompt"][0]["content"]}
            for side in ("chosen", "rejected"):
                texts[side] = " ".join(row[side][0]["content"] for row in picked)
        made.append(texts)
    roles = {"prompt": "user"}
    ours = [{k: [message(roles.get(k, "assistant"), v)] for k, v in row.items()} for row in made]
    for name, content in (("data", ours), ("plain", made)):
        (folder / name).mkdir()
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / name / "train.jsonl").write_text(text)
    columns = {"sft": {"prompt": "prompt", "response": "completion"}}.get(
        strategy, {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    )
    described = {"rows": {"file_name": "train.jsonl", "columns": columns}}
    if strategy != "sft":
        described["rows"]["ranking"] = True
    (folder / "plain" / "dataset_info.json").write_text(json.dumps(described))


def how_many(draw: random.Random, *, short: bool) -> int:
    """Answers of a row: alike, or mostly one or two, and up to 24."""
    return min(24, max(1, round(draw.lognormvariate(0.7, 0.9)))) if short else draw.randint(4, 12)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def run_modelforge(job: dict[str, Any], folder: Path) -> None:
    from modelforge.cli.main import main

    config = {
        "strategy": job["strategy"],
        "model_name": job["model"],
        "dataset": str(folder / "data" / "train.jsonl"),
        "eval_split": 0,
        "max_steps": job["steps"],
        "max_seq_length": job["length"],
        "lora_r": job["rank"],
        "output_dir": str(folder / "runs"),
        "report_to": "none",
        **SAME,
    }
    if not job["short"]:
        config |= {"per_device_train_batch_size": job["batch"], "gradient_accumulation_steps": 1}
    if job["padded"]:
        config["padding_free"] = False
    (folder / "config.json").write_text(json.dumps(config))
    sys.argv = ["modelforge", "train", str(folder / "config.json")]
    main()


def run_trl(job: dict[str, Any], folder: Path) -> None:
    import importlib

    script = importlib.import_module(f"trl.scripts.{job['strategy']}")
    values = {
        "model_name_or_path": job["model"],
        "dataset_name": str(folder / "data"),
        "eval_strategy": "no",
        "max_steps": job["steps"],
        "per_device_train_batch_size": job["batch"],
        "gradient_accumulation_steps": 1,
        "max_length": job["length"],
        "use_peft": True,
        "lora_r": job["rank"],
        "lora_alpha": 2 * job["rank"],
        "lora_dropout": 0.0,
        "lora_target_modules": "all-linear",
        "output_dir": str(folder / "runs"),
        "report_to": "none",
        **SAME,
    }
    if job["strategy"] == "reward":
        values |= {"lora_task_type": "SEQ_CLS", "lora_modules_to_save": "score"}
    if not job["cuda"]:
        values |= {"use_cpu": True, "bf16": False}  # its own default asks for a GPU
    flags = [text for key, value in values.items() for text in (f"--{key}", str(value))]
    sys.argv = [f"trl {job['strategy']}", *flags]
    script.main(*script.make_parser().parse_args_and_config())


def run_llamafactory(job: dict[str, Any], folder: Path) -> None:
    from llamafactory.train.tuner import run_exp

    run_exp(
        {
            "stage": {"sft": "sft", "dpo": "dpo", "reward": "rm"}[job["strategy"]],
            "do_train": True,
            "finetuning_type": "lora",
            "model_name_or_path": job["model"],
            "dataset_dir": str(folder / "plain"),
            "dataset": "rows",
            "max_steps": job["steps"],
            "per_device_train_batch_size": job["batch"],
            "gradient_accumulation_steps": 1,
            "cutoff_len": job["length"],
            "lora_rank": job["rank"],
            "lora_alpha": 2 * job["rank"],
            "lora_target": "all",
            "output_dir": str(folder / "runs"),
            "report_to": "none",
            **({"bf16": True} if job["cuda"] else {"use_cpu": True}),
            **SAME,
        }
    )


def drive(name: str, job: dict[str, Any], folder: Path) -> None:
    """One contender's run, in this process; leaves its figures in ``loop.json``."""
    import torch
    import transformers

    figures: dict[str, Any] = {"tokens": 0, "supervised": 0}
    train, step = transformers.Trainer.train, transformers.Trainer.training_step

    def counting(trainer: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        mask = inputs.get("attention_mask")  # none where nothing is padded
        figures["tokens"] += inputs["input_ids"].numel() if mask is None else mask.sum()
        if "labels" in inputs:
            figures["supervised"] += (inputs["labels"] != -100).sum()
        elif "completion_mask" in inputs:
            figures["supervised"] += inputs["completion_mask"].sum()
        return step(trainer, model, inputs, *args, **kwargs)

    def timed(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = train(trainer, *args, **kwargs)
        figures["wall"], figures["cpu"] = time.perf_counter() - wall, time.process_time() - cpu
        return result

    transformers.Trainer.train, transformers.Trainer.training_step = timed, counting
    with contextlib.suppress(SystemExit):
        {
            "modelforge": run_modelforge,
            "padded": run_modelforge,
            "trl": run_trl,
            "llamafactory": run_llamafactory,
        }[name](job, folder)
    figures |= {key: int(figures[key]) for key in ("tokens", "supervised")}
    if job["cuda"]:
        figures["gpu"] = torch.cuda.max_memory_reserved()
    (folder / "loop.json").write_text(json.dumps(figures))


def run(name: str, python: str, job: dict[str, Any]) -> dict[str, float]:
    """One contender's command: its loop, and the process as the operating system saw it."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(folder, job["strategy"], 2 * job["steps"] * job["batch"], short=job["short"])
        (folder / "job.json").write_text(json.dumps(job | {"padded": name == "padded"}))
        begin = time.perf_counter()
        with (folder / "log").open("w") as log:
            command = [python, __file__, "--drive", name, str(folder)]
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begin
        if status or not (folder / "loop.json").is_file():
            raise SystemExit(f"{name} failed:\n{(folder / 'log').read_text()[-3000:]}")
        loop = json.loads((folder / "loop.json").read_text())
    memory = loop.get("gpu", used.ru_maxrss * 1024)
    return loop | {
        "command wall": wall,
        "command cpu": used.ru_utime + used.ru_stime,
        "memory": memory,
        "per wall": loop["tokens"] / loop["wall"],
        "per cpu": loop["tokens"] / loop["cpu"],
    }


def table(strategy: str, found: dict[str, list[dict[str, float]]], steps: int) -> list[str]:
    """A contender a row, with the ratios of ours to it."""
    middle = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    ours, lines = middle["modelforge"], []
    for name in CONTENDERS:
        if name not in middle:
            lines.append(f"| {strategy} | {name} | not installed |" + " |" * 8)
            continue
        its = middle[name]
        cells = [
            f"{its['tokens'] / steps:.0f} / {its['supervised'] / steps:.0f}",
            f"{its['per cpu']:.0f}",
            f"{ours['per cpu'] / its['per cpu']:.2f}",
            f"{ours['per wall'] / its['per wall']:.2f}",
            f"{its['memory'] / 2**20:.0f}",
            f"{ours['memory'] / its['memory']:.2f}",
            f"{its['command cpu']:.1f}",
            f"{its['command cpu'] - its['cpu']:.1f}",
            f"{its['command wall']:.1f}",
        ]
        lines.append(f"| {strategy} | {name} | " + " | ".join(cells) + " |")
    return lines


def versions(python: str) -> str:
    names = ("trl", "transformers", "peft", "torch", "llamafactory")
    code = (
        "from importlib.metadata import version, PackageNotFoundError as E\n"
        f"for n in {names}:\n    try: print(n, version(n), end=', ')\n    except E: pass"
    )
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip(", ")


def has_cuda() -> bool:
    """Asked of another process: this one is to keep off the card."""
    code = "import torch; print(torch.cuda.is_available())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() == "True"


HEAD = """\
| strategy | command | tokens / supervised a step | tokens / CPU s | ours ÷ it | ours ÷ it, wall \
| peak MiB | ours ÷ it | command, CPU s | outside the loop | command, wall s |
|---|---|---|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llamafactory-python", help="python of an environment that has it")
    parser.add_argument("--strategies", nargs="+", default=["sft", "dpo", "reward"])
    parser.add_argument("--model", default=str(TINY / "model"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--short", action="store_true", help="most rows short, a few long")
    parser.add_argument("--drive", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        folder = Path(options.drive[1])
        drive(options.drive[0], json.loads((folder / "job.json").read_text()), folder)
        return
    pythons = {"modelforge": sys.executable, "trl": sys.executable}
    if options.short:
        pythons["padded"] = sys.executable
    if options.llamafactory_python:
        pythons["llamafactory"] = options.llamafactory_python
    cuda = has_cuda()
    print(
        f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}, "
        f"{'CUDA' if cuda else 'no CUDA'}; {versions(sys.executable)}"
    )
    if options.llamafactory_python:
        print(f"LLaMA-Factory's environment: {versions(options.llamafactory_python)}")
    print(
        f"{Path(options.model).parent.name}/{Path(options.model).name}, batch {options.batch}, "
        f"length {options.length}, LoRA r {options.rank} on all linear layers, {options.steps} "
        f"steps; medians of {options.rounds} rounds, the commands in turn\n\n{HEAD}"
    )
    for strategy in options.strategies:
        job = {"strategy": strategy, "cuda": cuda} | {
            key: getattr(options, key)
            for key in ("model", "steps", "batch", "length", "rank", "short")
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in pythons}
        for number in range(options.rounds):
            names = list(pythons)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                found[name].append(run(name, pythons[name], job))
        print("\n".join(table(strategy, found, options.steps)), flush=True)


if __name__ == "__main__":
    main()
