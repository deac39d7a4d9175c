"""How long the command itself takes: help, a typo, a check, and the way to the first step.

    OMP_NUM_THREADS=1 python benchmarks/startup.py [--repeats 3] [--rows 100000]
    … --llamafactory-python PATH/bin/python     # beside LLaMA-Factory's command too

Training is measured up to the end of the first training step of the tiny model with LoRA on a
thousand rows: by `modelforge train`, by a script written by hand with TRL, by the script behind
TRL's own command `trl sft`, and by LLaMA-Factory's command, where an environment of its own is
named (throughput.py says how it is made). The same misspelt key goes to each command. Each runs in
a process of its own, in turn. Times are CPU seconds of a process with its children, so that other
work on the machine counts little. They are medians; the check of many rows is measured once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from large_data import generate

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "tiny" / "model"
# Ends the process when the first training step is done.
FIRST_STEP = """
import os, sys
from transformers import Trainer
step = Trainer.training_step
def once(self, *args, **kwargs):
    step(self, *args, **kwargs)
    sys.stderr.flush()
    os._exit(0)
Trainer.training_step = once
"""
SAME = dict(learning_rate=1e-3, max_steps=5, per_device_train_batch_size=8, save_strategy="no",
            gradient_checkpointing=False, report_to="none", seed=1)  # fmt: skip
OURS = """
from modelforge.cli.main import main
sys.argv = ["modelforge", "train", sys.argv[1], "--quiet"]
main()
"""
BY_HAND = """
from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer
model, file, folder = sys.argv[1:]
rows = load_dataset("json", data_files=file, split="train")
args = SFTConfig(folder, max_length=512, assistant_only_loss=True, use_cpu=True, bf16=False, **SAME)
peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
SFTTrainer(
    AutoModelForCausalLM.from_pretrained(model), args, train_dataset=rows, peft_config=peft,
    processing_class=AutoTokenizer.from_pretrained(model),
).train()
"""
TRL = """
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, SFTConfig
from trl.scripts.sft import main
model, data, folder = sys.argv[1:]
main(
    ScriptArguments(dataset_name=data),
    SFTConfig(folder, max_length=512, assistant_only_loss=True, use_cpu=True, bf16=False, **SAME),
    ModelConfig(model, use_peft=True, lora_r=16, lora_alpha=32, lora_target_modules=["all-linear"]),
    DatasetMixtureConfig(),
)
"""


LLAMAFACTORY = """
from llamafactory.cli import main
sys.argv = ["llamafactory-cli", "train", sys.argv[1]]
main()
"""


def measured(*command: object, fails: bool = False, cache: Path) -> tuple[float, float]:
    """CPU and wall seconds of a command."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    wall = time.monotonic() - begin
    if (done.returncode != 0) is not fails:
        raise SystemExit(f"{command[:4]} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return cpu, wall


def config(folder: Path, rows: int) -> Path:
    """A config on so many rows of about 100 tokens, and its data."""
    generate(folder / f"rows{rows}.jsonl", rows, 100)
    values = SAME | {"strategy": "sft", "model_name": str(MODEL), "max_seq_length": 512}
    values |= {"dataset": f"rows{rows}.jsonl", "eval_split": 0, "lora_r": 16, "lora_alpha": 32}
    path = folder / f"c{rows}.json"
    path.write_text(json.dumps(values | {"output_dir": str(folder / "runs"), "resume": "never"}))
    return path


def of_llamafactory(python: str, folder: Path) -> dict[str, tuple[object, ...]]:
    """The same of LLaMA-Factory: what is measured → command."""
    about = {"rows": {"file_name": str(folder / "rows1000.jsonl"), "formatting": "sharegpt",
             "columns": {"messages": "messages"},
             "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                      "assistant_tag": "assistant", "system_tag": "system"}}}  # fmt: skip
    (folder / "dataset_info.json").write_text(json.dumps(about))
    values = {key: value for key, value in SAME.items() if key != "gradient_checkpointing"}
    values |= {"stage": "sft", "do_train": True, "finetuning_type": "lora", "template": "default",
               "model_name_or_path": str(MODEL), "dataset_dir": str(folder), "dataset": "rows",
               "cutoff_len": 512, "lora_rank": 16, "lora_alpha": 32, "lora_target": "all",
               "disable_gradient_checkpointing": True, "use_cpu": True,
               "output_dir": str(folder / "llamafactory")}  # fmt: skip
    good, typo = folder / "llamafactory.yaml", folder / "llamafactory-typo.yaml"
    good.write_text(json.dumps(values))  # JSON is YAML
    typo.write_text(json.dumps({**values, "model_nam": "m"}))
    run = "import sys\n" + LLAMAFACTORY
    return {
        "llamafactory-cli help": (python, "-c", run.replace('"train", sys.argv[1]', '"help"')),
        "llamafactory-cli, a typo": (python, "-c", run, typo),
        "llamafactory-cli train, first step": (python, "-c", FIRST_STEP + LLAMAFACTORY, good),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--llamafactory-python", help="python of an environment that has it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        small, large = config(folder, 1000), config(folder, options.rows)
        typo = folder / "typo.json"
        typo.write_text('{"strategy": "sft", "model_nam": "m", "dataset": "d.jsonl"}')
        (folder / "data").mkdir()
        (folder / "data" / "train.jsonl").write_text((folder / "rows1000.jsonl").read_text())
        same = f"SAME = {SAME!r}\n"
        ours = (sys.executable, "-m", "modelforge")
        train = {
            "modelforge train, first step": ("-c", FIRST_STEP + OURS, small),
            "TRL by hand, first step": (
                *("-c", FIRST_STEP + same + BY_HAND, MODEL, folder / "rows1000.jsonl"),
                folder / "by_hand",
            ),
            "TRL's own script, first step": (
                *("-c", FIRST_STEP + same + TRL, MODEL, folder / "data", folder / "trl"),
            ),
        }
        trl = (sys.executable, "-c", "from trl.cli import main; main()")
        misspelt = folder / "trl-typo.yaml"
        misspelt.write_text(f"model_nam: {MODEL}\ndataset_name: {folder / 'data'}\n")
        python = options.llamafactory_python
        theirs = of_llamafactory(python, folder) if python else {}
        times: dict[str, list[tuple[float, float]]] = {}
        for number in range(options.repeats):
            cache = folder / f"cache{number}"
            runs = {
                "modelforge --help": (*ours, "--help"),
                "check of a typo": (*ours, "check", typo),
                "trl --help": (*trl, "--help"),
                "trl sft, a typo": (*trl, "sft", "--config", misspelt),
            }
            runs |= {name: (sys.executable, *command) for name, command in train.items()} | theirs
            for name, command in runs.items():
                took = measured(*command, fails="typo" in name, cache=cache)
                times.setdefault(name, []).append(took)
        name = f"check of {options.rows} rows"
        if options.rows:
            times[name] = [measured(*ours, "check", large, cache=folder / "cache-check")]
    names = ("torch", "transformers", "trl", "peft")
    print(f"{datetime.date.today()}, {platform.machine()}, {os.cpu_count()} cores;", end=" ")
    print(", ".join(f"{name} {version(name)}" for name in names), end="\n\n")
    print("| what | CPU s | wall s |\n|---|---|---|")
    median = {}
    for name, took in times.items():
        median[name] = statistics.median(cpu for cpu, _ in took)
        print(f"| {name} | {median[name]:.2f} | {statistics.median(w for _, w in took):.2f} |")
    first = [median[name] for name in train]
    print(f"\nmodelforge / TRL by hand: {first[0] / first[1]:.2f}")
    print(f"modelforge / TRL's own script: {first[0] / first[2]:.2f}")
    if theirs:
        last = median["llamafactory-cli train, first step"]
        print(f"modelforge / LLaMA-Factory: {first[0] / last:.2f}")


if __name__ == "__main__":
    main()
