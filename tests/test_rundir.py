"""The run's folder: names, whole files, and which run is gone on with."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge import RunError, load_config
from modelforge.rundir import RunDir, choices_json, open_run, run_name

MINIMAL = {"strategy": "sft", "model_name": "org/some model", "dataset": "data.jsonl"}


def config(tmp_path, **values):
    return load_config(MINIMAL | {"output_dir": str(tmp_path / "runs")} | values)


def begin(run, chosen):
    run.create()
    run.write_json("choices.json", choices_json(chosen))


def test_the_name_says_what_is_trained_and_differs_with_the_config(tmp_path):
    first, other = config(tmp_path), config(tmp_path, seed=1)
    assert run_name(first).startswith("sft-some-model-")
    assert run_name(first) == run_name(config(tmp_path)) != run_name(other)
    assert run_name(config(tmp_path, resume="never")) == run_name(first)
    assert run_name(config(tmp_path, run_name="mine")) == "mine"


@given(st.text(max_size=30))
def test_any_model_name_gives_a_plain_folder_name(name):
    if name:
        made = run_name(load_config(MINIMAL | {"model_name": name}))
        assert "/" not in made and ".." not in made.split("-") and made.isascii()


def test_auto_goes_on_from_the_newest_whole_checkpoint(tmp_path):
    chosen = config(tmp_path)
    run, checkpoint = open_run(chosen)
    assert checkpoint is None and not run.path.exists()
    begin(run, chosen)
    for step in (9, 10, 100):
        folder = run.checkpoints / f"checkpoint-{step}"
        folder.mkdir()
        if step != 100:  # this one was cut short
            (folder / "trainer_state.json").write_text("{}")
    assert open_run(chosen)[1].name == "checkpoint-10"


def test_never_makes_a_folder_beside(tmp_path):
    chosen = config(tmp_path, resume="never")
    begin(open_run(chosen)[0], chosen)
    again, checkpoint = open_run(chosen)
    assert again.path.name == run_name(chosen) + "-2" and checkpoint is None


def test_a_folder_of_another_config_is_refused_with_what_differs(tmp_path):
    chosen = config(tmp_path, run_name="mine", seed=1)
    begin(open_run(chosen)[0], chosen)
    with pytest.raises(RunError, match="seed 1 → 2"):
        open_run(config(tmp_path, run_name="mine", seed=2))


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RunError, match="not a checkpoint folder"):
        open_run(config(tmp_path, resume="checkpoints/checkpoint-5"))


def test_files_are_whole_or_absent(tmp_path):
    run = RunDir(tmp_path / "run")
    run.create()
    run.write_json("a.json", {"x": 1})
    with pytest.raises(UnicodeEncodeError):
        run.write_text("a.json", '{"x": "\ud800"}')
    assert run.read_json("a.json") == {"x": 1}
    assert run.read_json("b.json") is None


def test_metrics_after_the_checkpoint_are_written_again_not_twice(tmp_path):
    run = RunDir(tmp_path)
    run.write_lines("metrics.jsonl", ({"step": step} for step in (1, 5, 7)))
    run.forget_metrics_after(5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 5]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_users(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        RunDir(tmp_path / "runs" / "x").create()
