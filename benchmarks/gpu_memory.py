"""Predicted against measured memory on this machine's GPU, with random weights.

Each case is planned on the meta device, then trained for two steps by TRL's own trainer, in a
process of its own: models of the real shapes, weights drawn at random, rows of the longest length.
Prints allocated and reserved, predicted and measured, and what CUDA holds besides.

    python benchmarks/gpu_memory.py                  all cases that fit this card
    python benchmarks/gpu_memory.py --case 3         one of them
    python benchmarks/gpu_memory.py --tiny           the same code on the CPU at a tiny size

On the CPU there is no counter to compare with: --tiny shows that the script runs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")

import torch
from transformers import LlamaConfig

from modelforge import registry
from modelforge.config import Choice, Config
from modelforge.configfile.load import load_config
from modelforge.machine.hardware import detect_hardware, device_arguments
from modelforge.plan import plan
from modelforge.plan.meta_run import build_meta_run
from modelforge.plan.planner import card, find
from modelforge.plan.step import MetaRun, alone

GIB = 2**30
QLORA = {"use_4bit": True, "gradient_checkpointing": True, "lora_r": 16}
CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("sft", "llama-3.2-1b", {"per_device_train_batch_size": 4, "max_seq_length": 1024}),
    ("sft", "llama-3.2-1b", {"lora_r": 0, "gradient_checkpointing": True, "max_seq_length": 1024}),
    ("sft", "llama-3.2-1b", {**QLORA, "optim": "paged_adamw_8bit", "max_seq_length": 2048}),
    ("sft", "llama-3.1-8b", {**QLORA, "per_device_train_batch_size": 2, "max_seq_length": 2048}),
    ("sft", "llama-3.1-8b", {**QLORA, "lora_dropout": 0.05, "max_seq_length": 4096}),
    ("dpo", "llama-3.2-1b", {"per_device_train_batch_size": 2, "max_seq_length": 1024}),
    ("dpo", "llama-3.1-8b", {**QLORA, "max_seq_length": 1024}),
    ("reward", "llama-3.1-8b", {**QLORA, "max_seq_length": 1024}),
    ("grpo", "llama-3.2-1b", {"per_device_train_batch_size": 8, "max_seq_length": 512}),
    ("grpo", "llama-3.1-8b", {**QLORA, "per_device_train_batch_size": 8, "max_seq_length": 512}),
    ("rloo", "llama-3.2-1b", {"per_device_train_batch_size": 8, "max_seq_length": 512}),
    (
        "ppo",
        "llama-3.1-8b",
        {
            **QLORA,
            "per_device_train_batch_size": 4,
            "max_seq_length": 512,
            "ppo": {"reference": "base"},
        },
    ),
]


def case_config(number: int, *, folder: Path | None) -> Config:
    """A case's config; of a tiny model where a folder is given for it."""
    strategy, model, said = CASES[number]
    if folder is not None:
        model, said = str(tiny_model(folder)), {**said, "max_seq_length": 64}
        said["optim"] = "adamw_torch"
        # TRL makes a quantised model's head bfloat16, which needs mixed precision.
        said["use_4bit"] = "use_4bit" in said and strategy != "reward"
    config = load_config({"strategy": strategy, "model_name": model, "dataset": "d", **said})
    defaults = {
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 2,
        "gradient_checkpointing": False,
        "use_4bit": False,
        **{key: value for key, (value, _) in registry.get_strategy(strategy).defaults.items()},
    }
    config = config.with_defaults({key: Choice(v, "default") for key, v in defaults.items()})
    return config.with_defaults(registry.get_strategy(strategy)().derived_defaults(config))


def tiny_model(folder: Path) -> Path:
    LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=512,
    ).save_pretrained(folder)
    return folder


def materialise(model: Any, device: str) -> Any:
    """A meta model with random weights, packed in 4 bits layer by layer where it is quantised."""
    import bitsandbytes as bnb

    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            shape = (module.out_features, module.in_features)
            drawn = torch.randn(shape, dtype=torch.bfloat16).mul_(0.02)
            weight = module.weight
            module.weight = bnb.nn.Params4bit(
                drawn,
                requires_grad=False,
                compress_statistics=weight.compress_statistics,
                quant_type=weight.quant_type,
                module=module,
            ).to(device)
            module.quant_state = module.weight.quant_state
    for module in model.modules():
        for name, tensor in [*module._parameters.items()]:
            if tensor is not None and tensor.device.type == "meta":
                drawn = torch.randn(tensor.shape, dtype=tensor.dtype, device=device).mul_(0.02)
                module._parameters[name] = torch.nn.Parameter(drawn, tensor.requires_grad)
        for name, tensor in [*module._buffers.items()]:
            if tensor is not None and tensor.device.type == "meta":
                module._buffers[name] = torch.ones_like(tensor, device=device)
    model.tie_weights()
    return model


def train(job: MetaRun, device: str) -> None:
    """Two optimiser steps of the job's trainer."""
    args = job.arguments["args"]
    args.max_steps, args.save_strategy, args.logging_strategy = 2, "no", "no"
    if job.generates:
        # Completions of full length, whatever random weights would say.
        args.generation_kwargs = {"min_new_tokens": job.generates[2]}
    batches = 2 * args.gradient_accumulation_steps

    class Real(job.trainer_class):
        def get_train_dataloader(self) -> Any:
            return [self.data_collator(job.batch)] * batches

    Real(**job.arguments | {"model": materialise(job.arguments["model"], device)}).train()


def run_case(number: int, *, tiny: bool) -> dict[str, Any]:
    """Plan and train one case; sizes in GiB."""
    hardware = card(None) if tiny else detect_hardware()
    with tempfile.TemporaryDirectory() as name:
        config = case_config(number, folder=Path(name) / "tiny" if tiny else None)
        predicted = plan(config, hardware=hardware)
        place = replace(hardware, device="cpu", bf16=False) if tiny else hardware
        with alone():  # the planned trainer's arguments take the CPU for the device
            shape = find(config).architecture
            job = build_meta_run(config, shape, place, adapter=None, output_dir=Path(name))
        strategy = registry.get_strategy(config.settings.strategy)()
        device = {k: c.value for k, c in device_arguments(place, config.said).items()}
        job.arguments["args"] = strategy.build_args(config, output_dir=Path(name), device=device)
        job.arguments["args"].report_to = []
        train(job, place.device)
    result = {
        "allocated": [predicted.peak_allocated / GIB, None],
        "reserved": [predicted.peak_reserved / GIB, None],
        "context": [predicted.context / GIB, None],
    }
    if not tiny:
        free, total = torch.cuda.mem_get_info()
        result["allocated"][1] = torch.cuda.max_memory_allocated() / GIB
        result["reserved"][1] = torch.cuda.max_memory_reserved() / GIB
        # Right for a card that nobody else uses.
        result["context"][1] = (total - free - torch.cuda.memory_reserved()) / GIB
    return result


def show(number: int, result: dict[str, Any]) -> str:
    strategy, model, said = CASES[number]
    cells = []
    for name, (predicted, measured) in result.items():
        if measured is None:
            cells.append(f"{name} {predicted:.3f} predicted")
        else:
            error = f" ({predicted / measured - 1:+.1%})" if measured else ""
            cells.append(f"{name} {predicted:.3f} / {measured:.3f}{error}")
    return f"{number:2} {strategy:6} {model:12} {json.dumps(said)}\n   " + ", ".join(cells)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", type=int, choices=range(len(CASES)))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", action="store_true", help="one case as JSON")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        print("no CUDA device here: nothing to measure. --tiny runs the script on the CPU.")
        return 2
    if options.json:
        print(json.dumps(run_case(options.case, tiny=options.tiny)))
        return 0
    if not options.tiny:
        properties = torch.cuda.get_device_properties(0)
        print(
            f"{properties.name}, {properties.total_memory / GIB:.1f} GiB, torch {torch.__version__}"
        )
    print("predicted / measured in GiB")
    chosen = range(len(CASES)) if options.case is None else [options.case]
    for number in chosen:
        command = [sys.executable, __file__, "--json", "--case", str(number)]
        command += ["--tiny"] if options.tiny else []
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"{number:2} failed: {done.stderr.strip().splitlines()[-1]}", flush=True)
            continue
        print(show(number, json.loads(done.stdout.splitlines()[-1])), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
