"""The card: the longest batch first, the config fitted by train itself, what a run teaches."""

import json
from pathlib import Path

import pytest
import torch
from machines import CPU, card
from safetensors.torch import load_file
from tiny import DATA, held_out, quick, shallow
from transformers import Trainer

import modelforge
from modelforge.callbacks.longest_batch import LongestBatchFirst, longest_rows
from modelforge.plan.calibration import calibration_file, learn, recall
from modelforge.plan.result import GIB, Plan
from modelforge.training import run as runs

TINY = Path(__file__).parents[1] / "configs" / "tiny"


def train(strategy, folder, *overrides):
    said = ("max_steps=2", "logging_steps=1", "save_strategy=no", f"model_name={shallow()}")
    return quick(strategy, folder, *said, *overrides, eval_dataset=held_out(DATA[strategy], 4))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "reward", "grpo", "ppo"])
def test_the_longest_batch_goes_first_and_leaves_no_trace(tmp_path, monkeypatch, strategy):
    options = ["per_device_train_batch_size=8", "gradient_accumulation_steps=2"]
    whole = train(strategy, tmp_path / "whole", *options)
    build, step, tried = runs.build_trainer, Trainer.training_step, []

    def build_trainer(job, parts):
        trainer = build(job, parts)
        trainer.add_callback(LongestBatchFirst(trainer, generates=job.strategy.generates))
        return trainer

    def training_step(self, model, inputs, *rest):
        if not self._at_step:  # no step has begun
            assert inputs if isinstance(inputs, list) else self.data_collator
            tried.append(inputs)
        return step(self, model, inputs, *rest)

    monkeypatch.setattr(runs, "build_trainer", build_trainer)
    monkeypatch.setattr(Trainer, "training_step", training_step)
    again = train(strategy, tmp_path / "again", *options)
    assert len(tried) == 1
    if isinstance(tried[0], list):
        assert len(tried[0]) == 16  # a whole rollout
    ours, theirs = (load_file(r.model_dir / "adapter_model.safetensors") for r in (again, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    logs = []
    for result in (whole, again):
        rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
        logs.append([{k: v for k, v in row.items() if k != "session"} for row in rows])
    assert logs[0] == logs[1]


def test_the_longest_rows_are_taken_and_repeated_where_there_are_few():
    from types import SimpleNamespace

    from datasets import Dataset

    pairs = [
        {"prompt_ids": [1] * p, "chosen_ids": [1] * c, "rejected_ids": [1] * r}
        for p, c, r in [(3, 1, 1), (1, 1, 9), (2, 6, 1)]
    ]
    trainer = SimpleNamespace(
        train_dataset=Dataset.from_list(pairs),
        args=SimpleNamespace(per_device_train_batch_size=2),
    )
    assert [row["prompt_ids"] for row in longest_rows(trainer, generates=False)] == [[1], [1, 1]]
    trainer.args.per_device_train_batch_size = 5
    assert len(longest_rows(trainer, generates=False)) == 5


@pytest.mark.slow
def test_train_fits_a_config_to_its_budget_and_keeps_to_that_when_it_goes_on(tmp_path):
    values = json.loads((TINY / "sft.json").read_text())
    for key in ("per_device_train_batch_size", "max_seq_length", "$schema"):
        values.pop(key)
    for key in ("model_name", "dataset"):
        values[key] = str((TINY / values[key]).resolve())
    values |= {"max_steps": 4, "save_steps": 2, "output_dir": str(tmp_path)}
    values |= {"eval_dataset": str(held_out("sft")), "report_to": "none"}
    result = modelforge.train(values | {"memory_budget_gb": 0.045})
    choices = json.loads((result.run_dir / "choices.json").read_text())["choices"]
    micro, length = (choices[k] for k in ("per_device_train_batch_size", "max_seq_length"))
    assert micro["source"] == length["source"] == "plan"
    assert 64 <= length["value"] < 1024  # as long as the longest row, and no longer
    assert micro["value"] * choices["gradient_accumulation_steps"]["value"] == 16
    planned = json.loads((result.run_dir / "plan.json").read_text())
    assert planned["predicted"]["fits"] and planned["measured"]["seconds_per_step"] > 0
    # Gone on with: the plan that it began with, whatever would be planned by now.
    (result.run_dir / "results.json").unlink()
    from modelforge.training.prepare import prepare

    job = prepare(modelforge.load_config(result.run_dir))
    assert job.checkpoint.name == "checkpoint-4"
    assert job.config.get("per_device_train_batch_size") == micro["value"]
    assert job.plan.to_dict() == planned["predicted"]
    with pytest.raises(modelforge.RunError, match="does not fit in"):
        modelforge.train(values | {"memory_budget_gb": 0.001})
    assert len(list(tmp_path.iterdir())) == 1


def a_plan(**values):
    return Plan(
        **{
            "strategy": "sft", "model": "m", "device": "cuda", "settings": {}, "parts": {},
            "peak_allocated": 9 * GIB, "peak_reserved": 10 * GIB, "context": GIB, "phase": "x",
            "phases": {}, "budget": None, "tokens_per_step": 1, "flops_per_step": 10**12,
            "seconds_per_step": None, **values,
        }
    )  # fmt: skip


def test_a_run_teaches_the_next_plan_on_that_machine_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("MODELFORGE_CACHE", str(tmp_path / "cache"))
    small = card(12)
    assert recall(small).reserved == 1.0
    learn(small, a_plan(), reserved=11 * GIB, context=GIB // 4, seconds=2.0)
    known = recall(small)
    assert known.reserved == pytest.approx(1.05)  # half of what one run showed
    assert known.context_gb == 0.25 and known.flops_per_second == 5e11
    # The next plan says 10.5, and 11 is measured again: it goes on towards 1.1.
    learn(
        small, a_plan(peak_reserved=round(10.5 * GIB)), reserved=11 * GIB, context=None, seconds=0
    )
    assert recall(small).reserved == pytest.approx(1.075)
    learn(small, a_plan(), reserved=30 * GIB, context=None, seconds=0)  # another run beside it
    assert recall(small).reserved == pytest.approx(1.075)
    assert recall(CPU).reserved == 1.0
    calibration_file().write_text("no JSON")
    assert recall(small).reserved == 1.0
