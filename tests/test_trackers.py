"""Trackers: whatever one of them does, the run goes on, and says so once."""

import json
from pathlib import Path

import pytest
from tiny import few, shallow
from transformers import TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

import modelforge
from modelforge.callbacks import trackers

WARNING = "failed and is off for this run"


def train(tmp_path, **values):
    config = {
        "strategy": "sft",
        "model_name": str(shallow()),
        "dataset": str(few("sft_train", 100)),
        "save_strategy": "no",
        "eval_split": 8,
        "max_steps": 3,
        "max_seq_length": 64,
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "output_dir": str(tmp_path / "runs"),
        "run_name": "one",
    }
    return modelforge.train(config | values)


def steps(result):
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    return [row["step"] for row in rows if "loss" in row]


def raising(event):
    """A tracker that raises at one event."""

    def fail(self, *args, **kwargs):
        raise RuntimeError("the tracker's disk is full")

    return type("Broken", (TrainerCallback,), {event: fail})


@pytest.mark.parametrize(
    "event", ["__init__", "on_init_end", "on_train_begin", "on_log", "on_train_end"]
)
def test_a_tracker_that_raises_is_said_once_and_the_run_ends_well(
    event, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(trackers._PACKAGES, "codecarbon", ("json", "json"))  # it is installed
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "codecarbon", raising(event))
    result = train(tmp_path, report_to=["codecarbon", "tensorboard"])
    said = capsys.readouterr().err
    assert said.count(WARNING) == 1 and "the tracker's disk is full" in said
    assert steps(result) == [1, 2, 3]
    assert list((result.run_dir / "tensorboard").iterdir())  # the other one worked


@pytest.mark.parametrize("broken", ["a file", "read-only"])
def test_a_tensorboard_folder_that_cannot_be_written_does_not_end_the_run(
    broken, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "curves"
    if broken == "a file":
        folder.write_text("in its place")
    else:
        folder = Path("/proc/curves")  # not even root can write there
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(folder))
    result = train(tmp_path)
    assert capsys.readouterr().err.count(WARNING) == 1
    assert steps(result) == [1, 2, 3]
    assert (result.model_dir / "adapter_model.safetensors").is_file()


def test_a_tracker_changes_nothing_of_the_training(tmp_path):
    from safetensors.torch import load_file

    with_it = train(tmp_path / "with").model_dir / "adapter_model.safetensors"
    without = train(tmp_path / "without", report_to="none").model_dir / "adapter_model.safetensors"
    first, second = load_file(with_it), load_file(without)
    assert all(first[name].equal(second[name]) for name in first)


def test_wandb_with_a_bad_key_and_no_network_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a-key-of-no-account-at-all")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    result = train(tmp_path, report_to="wandb")
    wandb.teardown()
    said = capsys.readouterr().err
    assert said.count(WARNING) == 1 and "a-key-of-no-account" not in said
    assert steps(result) == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "package"),
    [("neptune", "neptune"), ("azure_ml", "azureml-core"), ("flyte", "flytekit")],
)
def test_a_tracker_that_is_not_installed_is_refused_before_the_run(name, package, tmp_path):
    with pytest.raises(
        modelforge.RunError, match=f"{name} is not installed.*pip install {package}"
    ):
        train(tmp_path, report_to=["tensorboard", name])
    assert not (tmp_path / "runs").exists()
