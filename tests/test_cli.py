"""The command: what it prints, for people and for machines, and its exit codes."""

import inspect
import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny import few

from modelforge import get_strategy, list_strategies, load_config, registry
from modelforge.cli import main as cli
from modelforge.cli.compare import compare
from modelforge.cli.evaluate import evaluate
from modelforge.cli.options import print_json
from modelforge.config import Settings
from modelforge.registry import STRATEGIES
from modelforge.rewards import BUILTIN, FROM_TRL

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny"


def test_strategies_profiles_and_schema_for_people_and_machines(command):
    code, out, _ = command("strategies")
    assert code == 0 and all(name in out for name in list_strategies())
    listed = json.loads(command("strategies", "--json")[1])
    assert listed["dpo"]["data"] == "preference"
    assert "mid" in command("profiles")[1]
    assert json.loads(command("profiles", "--json")[1])[0]["name"] == "cpu"
    assert json.loads(command("schema", "grpo")[1])["properties"]["rewards"]
    code, _, err = command("schema", "grop")
    assert code == 2 and "did you mean 'grpo'" in err


@pytest.mark.parametrize("command", [evaluate, compare])
def test_the_data_come_first_among_the_options(command):
    names = list(inspect.signature(command).parameters)
    assert names[1] == "data" and names[-1] == "as_json"


def test_doctor_says_what_can_run_here(command):
    report = json.loads(command("doctor", "--json")[1])
    assert report["versions"]["trl"] and report["hardware"]["cores"] >= 1
    assert all(state == "can run" for state in report["strategies"].values())
    assert report["providers"]["unsloth"].startswith("cannot run")
    assert "providers" in command("doctor")[1]


@pytest.mark.parametrize("strategy", list_strategies())
@pytest.mark.parametrize("ending", ["json", "yaml"])
def test_init_writes_a_config_that_loads_and_never_overwrites(command, tmp_path, strategy, ending):
    path = tmp_path / f"mine.{ending}"
    assert command("init", strategy, "--output", path)[0] == 0
    assert load_config(path).settings.strategy == strategy
    assert (tmp_path / f"{strategy}.schema.json").is_file()
    written = path.read_text()
    assert f"{strategy}.schema.json" in written
    assert ending == "json" or "# The model to train" in written
    assert command("init", strategy, "--output", path)[0] == 2
    assert path.read_text() == written


def test_check_reports_the_data_and_the_choices(command):
    code, out, err = command("check", TINY / "dpo.json", "--json")
    report = json.loads(out)
    assert code == 0 and report["config"] == "ok"
    assert report["data"]["kept"] == report["data"]["train_rows"] + report["data"]["eval_rows"]
    assert report["choices"]["choices"]["provider"]["reason"]
    assert "chosen for you" in err


def test_a_bad_config_is_json_for_a_machine_too(command, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"strategy": "sft", "model_name": "m", "dataset": "d", "lora_rr": 1}')
    code, out, _ = command("check", path, "--json")
    problem = json.loads(out)["problems"][0]
    assert code == 2 and problem["where"] == "bad.json: lora_rr" and "lora_r" in problem["fix"]


def test_data_shows_what_is_trained_on_and_converts(command, tmp_path):
    target = tmp_path / "normal.jsonl"
    code, out, err = command("data", TINY / "sft.json", "--rows", "1", "--to", target, "--json")
    assert code == 0 and json.loads(out)["supervised_share"] < 1
    assert "hats" in err or "What" in err or "many" in err
    row = json.loads(target.read_text().splitlines()[0])
    assert set(row) <= {"messages", "prompt", "completion"}


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr("modelforge.registry.list_strategies", broken)
    monkeypatch.setattr("sys.argv", ["modelforge", "strategies"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def shipped_configs():
    found = (ROOT / "configs").rglob("*.json")
    return sorted(path for path in found if "strategy" in json.loads(path.read_text()))


@pytest.mark.parametrize("path", shipped_configs(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_shipped_config_is_valid(path):
    assert load_config(path).settings.strategy in list_strategies()


def test_the_documents_name_every_key_reward_and_strategy():
    config = (ROOT / "docs" / "config.md").read_text()
    assert all(f"`{key}`" in config for key in Settings.model_fields)
    rewards = (ROOT / "docs" / "rewards.md").read_text()
    assert all(f"| `{name}` |" in rewards for name in BUILTIN)
    assert all(f"| `{name}` | {reward.gives} |" in rewards for name, reward in FROM_TRL.items())
    readme = (ROOT / "README.md").read_text()
    assert all(f"| `{name}` |" in readme for name in STRATEGIES)


def test_every_promise_names_a_test_that_is_there():
    files = sorted((ROOT / "tests").glob("test_*.py"))
    there = {path.stem for path in files}
    there |= {n for path in files for n in re.findall(r"^def (test_\w+)", path.read_text(), re.M)}
    named = set(re.findall(r"test_\w+", (ROOT / "docs" / "recovery.md").read_text()))
    assert len(named) > 20 and named <= there, named - there


def test_the_readmes_config_and_links_hold(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"```json\n(.*?)```", readme, re.DOTALL)
    assert load_config(json.loads(block)).settings.strategy == "qlora"
    assert len(block.strip().splitlines()) == 8
    for target in re.findall(r"\]\(([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"\n{name}: install" in makefile
    for name in re.findall(r"^modelforge (\w+)", readme, re.MULTILINE):
        assert name in {command.callback.__name__ for command in cli.app.registered_commands}


LOUD = """
import atexit, os, subprocess, sys
import modelforge
from modelforge.cli.main import main

@modelforge.register_strategy
class Loud(modelforge.get_strategy("sft")):
    name = "loud"
    def check_data(self, config, columns):
        print("a library says hello")
        os.write(1, b"compiled code says hello\\n")
        subprocess.run(["echo", "a child says hello"])
        atexit.register(print, "a library says goodbye")
        return super().check_data(config, columns)

sys.argv = ["modelforge", "check", "c.json", "--json"]
main()
"""


def loud_config(folder):
    config = json.loads((TINY / "sft.json").read_text()) | {"strategy": "loud", "report_to": "none"}
    config.pop("$schema")
    for key in ("model_name", "dataset", "eval_dataset"):
        config[key] = str((TINY / config[key]).resolve())
    path = folder / "c.json"
    path.write_text(json.dumps(config))
    return path


@pytest.mark.slow
def test_json_is_pure_whatever_a_library_prints_and_how(python, tmp_path):
    loud_config(tmp_path)
    done = subprocess.run([python, "-c", LOUD], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["config"] == "ok"
    for words in ("a library says hello", "compiled code", "a child", "a library says goodbye"):
        assert words in done.stderr


class Loud(get_strategy("sft")):
    """Prints whenever it is asked something."""

    name = "loud"
    summary = "prints"

    def check_data(self, config, columns):
        print("a library says hello")
        return super().check_data(config, columns)

    @classmethod
    def trl_trainer_class(cls):
        print("a library says hello")
        return super().trl_trainer_class()


@pytest.mark.parametrize("line", ["check C", "data C", "plan C --vram 8", "doctor", "strategies"])
def test_every_json_is_pure(line, command, tmp_path, monkeypatch):
    monkeypatch.setitem(registry._registered, "loud", Loud)
    path = loud_config(tmp_path)
    words = [str(path) if word == "C" else word for word in line.split()]
    code, out, err = command(*words, "--json")
    assert code == 0, err
    assert json.loads(out)
    assert ("a library says hello" in err) == (words[0] in ("check", "plan", "doctor"))


def test_a_figure_that_is_no_number_is_null_in_json(capsys):
    print_json({"loss": float("nan"), "rows": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "rows": [None, 1.5]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_train", "02_own_strategy", "03_own_reward", "04_orpo"])
def test_every_example_runs(name, tmp_path, monkeypatch):
    """Beside the first rows of its data: measuring all of them takes most of its time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    script = shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path)
    shutil.copytree(ROOT / "examples/tiny/model", tmp_path / "tiny/model")
    (tmp_path / "tiny/data").mkdir()
    for data in (ROOT / "examples/tiny/data").glob("*.jsonl"):
        rows = few(data.stem, 16 if data.stem.endswith("eval") else 100)
        shutil.copy(rows, tmp_path / "tiny/data")
    runpy.run_path(script, run_name="__main__")
    assert (tmp_path / "runs").is_dir()


@pytest.mark.slow
def test_the_demo_raises_both_figures(command, tmp_path):
    """In fewer steps; it measures both figures itself, so that the trainer need not."""
    less = ("save_strategy=no", "eval_dataset=null", "eval_split=0", "max_steps=100")
    said = [part for value in less for part in ("--set", value)]
    code, out, err = command("demo", "--output", tmp_path, "--json", *said)
    assert code == 0, err
    report = json.loads(out)
    task, pairs = list(report["before"])
    assert report["after sft"][task] > report["before"][task] + 0.1
    assert report["after dpo"][pairs] > report["after sft"][pairs] + 0.1


def test_plan_needs_no_gpu_and_says_what_sets_the_peak(command):
    code, out, err = command("plan", TINY / "sft.json", "--vram", "8", "--json")
    planned = json.loads(out)
    assert code == 0, err
    assert planned["fits"] and planned["total"] < 8 * 2**30
    assert planned["peak_allocated"] == sum(planned["parts"].values()) and "Plan: sft" in err
    huge = ("--set", "max_seq_length=100000", "--set", "per_device_train_batch_size=64")
    code, _, err = command("plan", TINY / "sft.json", "--vram", "0.6", *huge)
    assert code == 2 and "memory_budget_gb" in err
