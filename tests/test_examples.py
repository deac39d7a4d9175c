"""The examples beyond the first five, run in small."""

import json
import os
import runpy
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import shallow

import modelforge
from modelforge import load_config

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_every_example_is_numbered_once_and_begins_with_its_command():
    named = sorted(p.name for p in EXAMPLES.iterdir() if p.is_file() and p.name != "__init__.py")
    assert [name[:2] for name in named] == [f"{n:02}" for n in range(1, len(named) + 1)]
    for name in named:
        text = (EXAMPLES / name).read_text()
        if name.endswith(".py"):
            assert f"python examples/{name}" in text.partition('"""\n')[0]
        elif name.endswith(".sh"):
            assert f"sbatch examples/{name}" in text.partition("#SBATCH")[0]


def test_the_job_for_slurm_starts_every_node_with_what_slurm_says(tmp_path, monkeypatch):
    """Two commands of Slurm's are stood in for; what the second node starts is ModelForge's."""
    for name, body in {
        "scontrol": "printf 'node-a\\nnode-b\\n'",
        "srun": 'exec "$@"',
        "modelforge": 'printf "%s\\n" "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"JOB_NODELIST": "node-[a-b]", "NNODES": "2", "GPUS_ON_NODE": "8", "NODEID": "1"}
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for key, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    script = EXAMPLES / "10_slurm.sh"
    done = subprocess.run(["bash", script, "c.json"], capture_output=True, text=True, check=True)
    command, config, *options = done.stdout.split()
    assert (command, config) == ("train", "c.json") and options[:2] == ["--num-processes", "16"]
    said = dict(option.split("=", 1) for option in options[2:] if option != "--set")
    keys = {"strategy": "sft", "model_name": "m", "dataset": "d.jsonl"}
    overrides = [f"{key}={value}" for key, value in said.items()]
    found = load_config(keys, overrides=[*overrides, "distributed.num_processes=16"])
    distributed = found.settings.distributed
    assert (distributed.num_machines, distributed.machine_rank) == (2, 1)
    assert (distributed.main_address, distributed.main_port) == ("node-a", 29500)


@pytest.mark.slow
def test_hh_rlhf_is_read_as_it_is_and_trained_to_a_policy(tmp_path, capsys):
    """The pairs of hh-rlhf are two whole dialogues; what both share is the prompt."""
    example = runpy.run_path(str(EXAMPLES / "07_hh_rlhf.py"))
    pairs = example["as_hh"](tmp_path, 40)
    small = {"max_steps": 1, "eval_split": 4, "per_device_train_batch_size": 8}
    small |= {"generation": {"max_new_tokens": 4}, "eval_prompts": 4, "report_to": "none"}
    result = example["main"](pairs, tmp_path, model=str(shallow()), **small)
    assert "eval_reward" in result.after and "40 rows, read as" in capsys.readouterr().err
    assert (result.run_dir.parent / "report.html").is_file()


def test_the_calculator_answers_and_its_config_is_one(tmp_path, monkeypatch):
    """It takes minutes to learn; docs/rewards.md has what it printed."""
    example = runpy.run_path(str(EXAMPLES / "06_calculator.py"))
    assert (example["plus"](14, 3), example["minus"]("14", 3)) == (17, 11)
    begun = SimpleNamespace(run_dir=EXAMPLES / "tiny" / "model")
    asked = []
    monkeypatch.setattr(modelforge, "train", lambda config: asked.append(config) or begun)
    example["main"](tmp_path)
    for config in asked:
        assert load_config(config).settings.dataset.startswith(str(tmp_path))
    assert [config["strategy"] for config in asked] == ["sft", "grpo"]
    rows = (tmp_path / "shown.jsonl").read_text().splitlines()
    assert len(rows) == 400 and "tool_calls" in rows[0]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("fastapi") is None, reason="needs the extra serve")
def test_what_is_said_of_served_answers_becomes_pairs(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "08_serve_and_collect.py"))
    assert example["main"](tmp_path, questions=1, answers=4) == 1
    (row,) = map(json.loads, (tmp_path / "preferences.jsonl").read_text().splitlines())
    assert len(row["chosen"][0]["content"]) < len(row["rejected"][0]["content"])
