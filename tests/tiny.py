"""Short runs of the tiny model, for tests of what a run does rather than of how well it learns."""

import functools
import json
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

import modelforge
from modelforge.data import load_tokenizer_template

ROOT = Path(__file__).parents[1]
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "kto": "labelled", "grpo": "prompts", "ppo": "prompts", "distill": "prompts"}  # fmt: skip


def held_out(name: str, rows: int = 8) -> Path:
    """The first rows of a held-out file: measuring all 150 takes longer than six steps."""
    return few(f"{name}_eval", rows)


@functools.cache
def few(name: str, rows: int) -> Path:
    """The first rows of a file of the tiny model's data."""
    lines = (ROOT / "examples/tiny/data" / f"{name}.jsonl").read_text().splitlines()
    path = Path(tempfile.mkdtemp(prefix="modelforge-tests-"), f"{name}.jsonl")
    path.write_text("\n".join(lines[:rows]) + "\n")
    return path


@functools.cache
def shallow() -> Path:
    """The tiny model's first two layers: for what a run does, half as much to compute."""
    whole, path = ROOT / "examples/tiny/model", Path(tempfile.mkdtemp(prefix="modelforge-tests-"))
    shutil.copytree(whole, path, dirs_exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=2)
    model.save_pretrained(path)
    return path


def talking(template="auto"):
    """The tiny model's tokenizer with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "examples/tiny/model")
    load_tokenizer_template(
        tokenizer, chat_template=template, task="text-generation", base_dir=Path()
    )
    return tokenizer


def quick(strategy, folder, *overrides, **keys):
    """Train the tiny preset on half its layers, few rows and no trackers; overrides come last."""
    data = few(f"{DATA[strategy]}_train", 200)
    said = {"output_dir": folder, "dataset": data, "report_to": "none"}
    said |= {"model_name": shallow(), "eval_dataset": held_out(DATA[strategy])}
    options = [f"{key}={value}" for key, value in (said | keys).items()]
    return modelforge.train(
        ROOT / "configs" / "tiny" / f"{strategy}.json", overrides=[*options, *overrides]
    )


def resumed_bitwise(strategy, folder, monkeypatch, *overrides, stop=10):
    """Train it whole, and stopped and resumed; see that both are the same, and give the first."""
    whole = quick(strategy, folder / "whole", *overrides)
    step = Trainer.training_step
    calls = []

    def training_step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            quick(strategy, folder / "cut", *overrides)
    again = quick(strategy, folder / "cut", *overrides)
    assert again.resumed_from is not None
    first, second = (
        load_file(next(result.model_dir.glob("*.safetensors"))) for result in (whole, again)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = []
    for result in (whole, again):
        rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
        logs.append([{k: v for k, v in row.items() if k != "session"} for row in rows])
    assert logs[0] == logs[1] and whole.after == again.after
    return whole
