"""Out of memory, signals and NaNs: the run goes on, or stops where it can be gone on from."""

import json
import os
import signal
import subprocess
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny import DATA, ROOT, few, held_out, quick, shallow
from transformers import Trainer

import modelforge
from modelforge.checkpointing.resumable import Resumable
from modelforge.errors import Interrupted, RunError
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.kept import Rows
from modelforge.evaluation.options import Options

TINY = ROOT / "configs" / "tiny"
MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def run(strategy, folder, *overrides):
    said = ("lora_dropout=0", "max_steps=6", "logging_steps=2", "save_steps=3")
    few_rows = held_out(DATA[strategy], 4)
    said = (f"model_name={shallow()}", f"eval_dataset={few_rows}", *said)
    return quick(strategy, folder, *said, *overrides)


def weights(result):
    return load_file(result.model_dir / "adapter_model.safetensors")


def metrics(result):
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    return [{k: v for k, v in row.items() if k != "session"} for row in rows]


def rows_in(inputs):
    """The rows of a batch: padded, or behind one another, each from position 0."""
    ids, positions = inputs["input_ids"], inputs.get("position_ids")
    if positions is None:
        return [tuple(t for t in row if t != 0) for row in ids.tolist()]
    begins = (positions[0] == 0).nonzero()[:, 0].tolist()
    return [tuple(row.tolist()) for row in ids[0].tensor_split(begins[1:])]


def rows_of_steps(monkeypatch):
    """The rows that each optimiser step learned from, by step, as they are trained on."""
    seen, current = {}, []
    step = Resumable.training_step
    begin, skip = Resumable.begin_step, Resumable.skip_unless_finite

    def training_step(self, model, inputs, *rest):
        loss = step(self, model, inputs, *rest)
        current.extend(rows_in(inputs) if isinstance(inputs, dict) else ())
        return loss

    def begin_step(self):
        current.clear()
        begin(self)

    def skip_unless_finite(self):
        seen[self.state.global_step] = sorted(current)
        skip(self)

    monkeypatch.setattr(Resumable, "training_step", training_step)
    monkeypatch.setattr(Resumable, "begin_step", begin_step)
    monkeypatch.setattr(Resumable, "skip_unless_finite", skip_unless_finite)
    return seen


def run_out_once(monkeypatch, at_step, where):
    """Run out of memory once at this step, in the backward pass or the optimiser."""
    left = [True]
    whole_step, whole_begin = Trainer.training_step, Resumable.begin_step
    micro_batches = []

    def begin_step(self):
        micro_batches.clear()
        whole_begin(self)
        if where == "optimizer" and not hasattr(self.optimizer, "spied"):
            self.optimizer.spied, apply = True, self.optimizer.step

            def step_or_die(*args):
                if left and self.state.global_step == at_step:
                    left.clear()
                    raise MEMORY
                return apply(*args)

            self.optimizer.step = step_or_die

    def training_step(self, *args, **kwargs):
        loss = whole_step(self, *args, **kwargs)
        micro_batches.append(loss)
        last = len(micro_batches) == self.args.gradient_accumulation_steps
        if where == "backward" and last and left and self.state.global_step == at_step:
            left.clear()
            raise MEMORY
        return loss

    monkeypatch.setattr(Trainer, "training_step", training_step)
    monkeypatch.setattr(Resumable, "begin_step", begin_step)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Each strategy's run that never ran out, and the rows of its steps; made when first asked."""
    made = {}

    def whole(strategy, *sizes):
        if strategy not in made:
            with pytest.MonkeyPatch.context() as patch:
                rows = rows_of_steps(patch)
                result = run(strategy, tmp_path_factory.mktemp(strategy), *sizes)
            made[strategy] = result, dict(rows)
        return made[strategy]

    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "where", "at_step"),
    [
        ("sft", "backward", 0),
        ("sft", "backward", 3),
        ("sft", "optimizer", 3),
        ("dpo", "backward", 3),
    ],
)
def test_out_of_memory_halves_the_micro_batch_and_loses_no_row(
    undisturbed, tmp_path, monkeypatch, strategy, where, at_step
):
    sizes = ["per_device_train_batch_size=4", "gradient_accumulation_steps=2", "save_steps=2"]
    if strategy == "dpo":  # a loss that is a mean over rows, whatever the micro-batch
        sizes += ['loss_type=["sigmoid"]', "loss_weights=[1.0]"]
    whole, expected = undisturbed(strategy, *sizes)
    with monkeypatch.context() as patch:
        run_out_once(patch, at_step, where)
        rows = rows_of_steps(patch)
        cut = run(strategy, tmp_path / "cut", *sizes)
    assert rows == expected and len(rows) == 6
    assert strategy == "dpo" or all(len(step) == 8 for step in rows.values())
    choices = json.loads((cut.run_dir / "choices.json").read_text())["choices"]
    assert choices["per_device_train_batch_size"]["value"] == 2
    assert choices["gradient_accumulation_steps"]["value"] == 4
    assert choices["per_device_train_batch_size"]["source"] == "memory"
    # The same rows in the same steps: the same weights, but for the order of additions.
    ours, theirs = weights(cut), weights(whole)
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-5) for k in theirs)
    steps = [row["step"] for row in metrics(cut) if "loss" in row]
    assert steps == [1, 2, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["grpo", "ppo"])
def test_out_of_memory_within_a_rollout_goes_on_with_its_answers(tmp_path, monkeypatch, strategy):
    sizes = ["per_device_train_batch_size=8", "gradient_accumulation_steps=2"]
    sizes += ["ppo.ppo_epochs=2"] if strategy == "ppo" else ["num_iterations=2"]
    whole = run(strategy, tmp_path / "whole", *sizes)
    with monkeypatch.context() as patch:
        run_out_once(patch, 3, "backward")  # in the second pass over a rollout
        cut = run(strategy, tmp_path / "cut", *sizes)
    rewards = [[row["reward"] for row in metrics(r) if "reward" in row] for r in (whole, cut)]
    # Halved micro-batches add in another order: later answers come from weights with that noise.
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-4)
    ours, theirs = weights(cut), weights(whole)
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-4) for k in theirs)


@pytest.mark.slow
def test_one_row_that_does_not_fit_ends_the_run_with_advice(tmp_path, monkeypatch):
    whole = Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step >= 3:
            raise MEMORY
        return whole(self, *args, **kwargs)

    options = ["per_device_train_batch_size=1", "gradient_accumulation_steps=2", "save_steps=2"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        with pytest.raises(RunError, match="one row at a time does not fit"):
            run("sft", tmp_path, *options)
    assert run("sft", tmp_path, *options).resumed_from.name == "checkpoint-2"


@pytest.mark.slow
def test_a_step_without_a_finite_gradient_changes_nothing_and_names_its_rows(
    tmp_path, monkeypatch, capsys
):
    whole = Trainer.training_step

    def training_step(self, *args, **kwargs):
        loss = whole(self, *args, **kwargs)
        if self.state.global_step in bad:
            self.model.get_parameter(
                next(n for n, p in self.model.named_parameters() if p.requires_grad)
            ).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "training_step", training_step)
    bad = {1, 3}
    result = run("sft", tmp_path)
    assert json.loads((result.run_dir / "results.json").read_text())["skipped_steps"] == [2, 4]
    said = capsys.readouterr().err
    assert "step 2: the gradient is not finite" in said and "Its rows:" in said
    assert all(value.isfinite().all() for value in weights(result).values())
    assert result.after["eval_loss"] < result.before["eval_loss"]

    bad = {2, 3, 4, 5, 6}
    with pytest.raises(RunError, match="5 steps in a row had no finite gradient"):
        run("sft", tmp_path, "max_steps=20", "save_steps=2")


@pytest.mark.slow
def test_a_signal_saves_the_step_and_the_run_goes_on_from_there(tmp_path, monkeypatch):
    whole = run("sft", tmp_path / "whole", "logging_steps=4")

    step = Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        with pytest.raises(Interrupted, match="stopped after step 3") as stopped:
            run("sft", tmp_path / "cut", "logging_steps=4")
    resumed = modelforge.train(stopped.value.run_dir)
    assert resumed.resumed_from.name == "checkpoint-3"
    assert metrics(resumed) == metrics(whole)
    assert all(torch.equal(weights(resumed)[k], v) for k, v in weights(whole).items())
    # Killed when all steps were done, and the end not written yet: the end alone is done again.
    (resumed.run_dir / "results.json").unlink()
    again = modelforge.train(resumed.run_dir)
    assert metrics(again) == metrics(whole) and again.after == whole.after
    assert all(torch.equal(weights(again)[k], v) for k, v in weights(whole).items())


@pytest.mark.slow
def test_the_command_exits_with_75_and_a_second_interrupt_stops_at_once(tmp_path, python):
    def start():
        options = [f"output_dir={tmp_path}", "max_steps=5000", "save_steps=5000"]
        options += ["eval_split=0", "eval_dataset=null", "report_to=none"]
        command = [python, "-m", "modelforge", "train", str(TINY / "sft.json")]
        for option in options:
            command += ["--set", option]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        for line in process.stderr:
            if line.startswith("step "):
                return process
        raise AssertionError("it never trained")

    process = start()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == Interrupted.exit_code == 75
    assert "resumes it" in said
    checkpoints = sorted(path.name for path in tmp_path.glob("*/checkpoints/checkpoint-*"))
    assert len(checkpoints) == 1

    process = start()
    process.send_signal(signal.SIGINT)
    time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode not in (0, 2)


@pytest.mark.slow
def test_an_evaluation_that_is_killed_comes_to_the_rows_of_one_that_is_not(python, tmp_path):
    """A process of its own and SIGKILL; benchmarks/evaluate_killed.py does it at 20 moments."""
    model, data = str(ROOT / "examples/tiny/model"), str(few("prompts_eval", 12))
    options = Options(data, samples=2, max_new_tokens=8, batch_size=2, output_dir=tmp_path / "cut")
    command = [python, "-m", "modelforge", "evaluate", model, "--data", data]
    command += ["--samples", "2", "--max-new-tokens", "8", "--batch-size", "2"]
    process = subprocess.Popen([*command, "-o", tmp_path / "cut"], stderr=subprocess.DEVNULL)
    while not (begun := list(tmp_path.glob("cut/*/.samples_*"))) or not begun[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = evaluate(model, options)
    whole = evaluate(model, replace(options, output_dir=tmp_path / "whole"))
    assert kept.rows == whole.rows and kept.metrics == whole.metrics
    both = [Rows(each.folder, each.task).path.read_bytes() for each in (kept, whole)]
    assert both[0] == both[1]
