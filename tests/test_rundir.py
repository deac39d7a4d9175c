"""The run's folder: names, whole files, and which run is gone on with."""

import json
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import save_file

from modelforge import ConfigError, RunError, load_config
from modelforge.checkpointing.checkpoints import PARTIAL, cannot_write, checkpoints, rotate, seal
from modelforge.common.files import forget_after, write_whole
from modelforge.runs.folder import RunDir, choices_json, open_run, run_name

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


@given(st.text(min_size=1, max_size=30))
def test_any_model_name_gives_a_plain_folder_name(name):
    with suppress(ConfigError):  # a name that no file system takes
        made = run_name(load_config(MINIMAL | {"model_name": name}))
        assert "/" not in made and ".." not in made.split("-") and made.isascii()


def checkpoint_of(run, step):
    aside = run.checkpoints / PARTIAL / f"checkpoint-{step}"
    aside.mkdir(parents=True)
    (aside / "trainer_state.json").write_text("{}")
    (aside / "optimizer.pt").write_bytes(b"x" * 99)
    seal(aside, run.checkpoints / aside.name)


def test_auto_goes_on_from_the_newest_whole_checkpoint(tmp_path, capsys):
    chosen = config(tmp_path)
    run, checkpoint = open_run(chosen)
    assert checkpoint is None and not run.path.exists()
    begin(run, chosen)
    assert open_run(chosen)[1] is None
    for step in (9, 10, 100):
        checkpoint_of(run, step)
    assert open_run(chosen)[1].name == "checkpoint-100"
    (run.checkpoints / "checkpoint-100" / "optimizer.pt").write_bytes(b"x" * 98)
    assert open_run(chosen)[1].name == "checkpoint-10"
    assert "optimizer.pt has 98 of 99 bytes" in capsys.readouterr().err
    (run.checkpoints / "checkpoint-10" / "optimizer.pt").write_bytes(b"y" * 99)
    assert open_run(chosen)[1].name == "checkpoint-9"
    assert "optimizer.pt is not what was written" in capsys.readouterr().err
    with pytest.raises(RunError, match="is damaged"):
        open_run(config(tmp_path, resume=str(run.checkpoints / "checkpoint-10")))


def test_a_checkpoint_in_the_making_is_none(tmp_path):
    run = RunDir(tmp_path)
    run.create()
    aside = run.checkpoints / PARTIAL / "checkpoint-7"
    aside.mkdir(parents=True)
    (aside / "trainer_state.json").write_text("{}")
    assert run.last_checkpoint() is None
    seal(aside, run.checkpoints / "checkpoint-7")
    assert run.last_checkpoint().name == "checkpoint-7"


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path):
    run = RunDir(tmp_path)
    run.create()
    for step in (1, 2, 3, 10):
        checkpoint_of(run, step)
    rotate(run.checkpoints, keep=None, best=None)
    assert len(checkpoints(run.checkpoints)) == 4
    rotate(run.checkpoints, keep=2, best="elsewhere/checkpoint-1")
    assert [path.name for path in checkpoints(run.checkpoints)] == [
        *("checkpoint-1", "checkpoint-3", "checkpoint-10")
    ]


HOLD = """
import sys, time
from pathlib import Path
from modelforge.runs.folder import RunDir
with RunDir(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(60)
"""


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match=f"process {owner.pid} on"), RunDir(tmp_path).locked():
        pass
    owner.kill()
    owner.wait()
    with RunDir(tmp_path).locked():
        assert (tmp_path / ".owner.json").is_file()
    assert not (tmp_path / ".owner.json").exists()


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
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # a kill cut it
    run.forget_metrics_after(5)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 5]


def test_a_folder_that_was_deleted_is_not_made_anew_half_empty(tmp_path):
    run = RunDir(tmp_path / "run")
    with run.locked():
        run.write_json("a.json", 1)
        shutil.rmtree(run.path)
        with pytest.raises(RunError, match="was deleted while"):
            run.write_json("b.json", 2)
        run.checkpoints.mkdir(parents=True)  # as a checkpoint that is being saved does
        with pytest.raises(RunError, match="was deleted while"):
            run.write_json("b.json", 2)


def test_a_checkpoint_that_is_deleted_as_it_is_written_is_said(tmp_path):
    """Its own folder goes first: torch and safetensors then raise errors of their own."""
    gone = tmp_path / PARTIAL / "checkpoint-6"
    for write in (
        lambda: torch.save({"a": torch.ones(1)}, gone / "optimizer.pt"),
        lambda: save_file({"a": torch.ones(1)}, gone / "model.safetensors"),
        lambda: (gone / "state.json").write_text("{}"),
    ):
        with pytest.raises((OSError, RuntimeError, SafetensorError)) as raised:
            write()
        assert "was deleted while" in str(cannot_write(raised.value, tmp_path))
    for other in (RuntimeError("column 'x' does not exist"), FileNotFoundError(2, "", "/x/a.json")):
        assert cannot_write(other, tmp_path) is None


def test_a_run_goes_on_from_its_folder_alone(tmp_path, monkeypatch):
    (tmp_path / "data.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    chosen = config(tmp_path, resume="never", lora_r=4)
    run = open_run(chosen)[0]
    begin(run, chosen)
    monkeypatch.chdir("/")
    again = load_config(run.path)
    assert again.settings.lora_r == 4 and again.settings.dataset == str(tmp_path / "data.jsonl")
    assert open_run(again)[0].path == run.path
    with pytest.raises(ConfigError, match="holds no run"):
        load_config(tmp_path)
    (run.path / "choices.json").write_text('{"said": 1}')
    with pytest.raises(ConfigError, match="not what a run wrote"):
        load_config(run.path)


def test_a_folder_that_cannot_be_made_is_an_error_of_the_users(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunError, match="cannot be written"):
        RunDir(tmp_path / "runs" / "x").create()


def test_a_line_separator_within_a_text_ends_no_line(tmp_path):
    rows = [{"step": 1, "completion": "one\u2028two"}, {"step": 2}, {"step": 3}]
    path = tmp_path / "rollouts.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    forget_after(path, 2)
    assert RunDir(tmp_path).read_lines("rollouts.jsonl") == rows[:2]


def test_only_the_last_line_may_be_cut_and_each_other_is_an_object(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    whole = '{"completion": "ä"}\n'.encode()
    path.write_bytes(whole + whole[:-4])  # within a character
    assert RunDir(tmp_path).read_lines(path.name) == [{"completion": "ä"}]
    for line in (b"3\n", b"{\n", b"\xff\n"):
        path.write_bytes(whole + line + whole)
        with pytest.raises(RunError, match=r"rollouts.jsonl:2: is damaged"):
            RunDir(tmp_path).read_lines(path.name)


def test_a_file_is_written_whole_with_its_mode_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old")
    path.chmod(0o600)
    write_whole(path, "new")
    assert path.read_text() == "new" and path.stat().st_mode & 0o777 == 0o600

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "newer")
    assert path.read_text() == "new" and [each.name for each in tmp_path.iterdir()] == [path.name]
