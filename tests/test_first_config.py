"""The first config runs as it comes: `modelforge init`, then `check` and `train`, nothing edited.

There is no hub here, so the tiny model stands in for the small one that the configs name.
"""

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import modelforge
from modelforge import RunError
from modelforge.configfile.presets import MODEL, preset
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "examples" / "tiny" / "model")


@pytest.fixture
def line(command, monkeypatch, tmp_path):
    """Run a line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    return lambda text: command(*shlex.split(text)[1:])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_init_writes_passes_check_untouched(line, strategy, tmp_path):
    code, out, _ = line(f"modelforge init {strategy}")
    assert code == 0 and f"modelforge train {strategy}.json" in out and "HF_TOKEN" in out
    written = json.loads((tmp_path / f"{strategy}.json").read_text())
    assert written["model_name"] == MODEL
    assert len((tmp_path / written["dataset"]).read_text().splitlines()) == 64
    tiny = " ".join(
        f"--set {key}={TINY}" for key in ("model_name", "teacher_model") if key in written
    )
    code, out, err = line(f"modelforge check {strategy}.json --json {tiny}")
    assert code == 0, err
    assert json.loads(out)["data"]["eval_rows"] >= 8


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo"])
def test_what_init_writes_trains_untouched(line, strategy):
    line(f"modelforge init {strategy} --yaml")
    short = "--set max_steps=1 --set per_device_train_batch_size=2 --set report_to=none"
    code, out, err = line(
        f"modelforge train {strategy}.yaml --json --set model_name={TINY} {short}"
    )
    assert code == 0, err
    assert json.loads(out)["after"]["eval_loss"] > 0


def test_rows_that_are_there_stay(line, tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    _, out, _ = line("modelforge init sft -o mine.json")
    assert "data.jsonl was there already" in out
    assert (tmp_path / "data.jsonl").read_text() == '{"prompt": "Hi", "completion": "Ho"}\n'


def test_a_strategy_of_ones_own_gets_a_config_that_runs_too(line, monkeypatch):
    class Mine(modelforge.get_strategy("dpo")):
        name = "mine"

    monkeypatch.setitem(modelforge.registry._registered, "mine", Mine)
    assert preset("mine") == {
        "strategy": "mine", "model_name": MODEL, "dataset": "preferences.jsonl"
    }  # fmt: skip
    assert line("modelforge init mine")[0] == 0
    assert line(f"modelforge check mine.json --set model_name={TINY}")[0] == 0


def test_no_page_and_no_message_names_a_package_that_is_not_published():
    pages = [
        ROOT / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "modelforge").rglob("*.py"),
    ]
    for page in pages:
        assert not re.search(r"pip install\s+\S*modelforge", page.read_text()), page


@pytest.mark.parametrize("extra", ["unsloth", "deepspeed", "vllm", "wandb"])
def test_what_is_missing_is_installed_by_its_own_name(extra):
    from modelforge.machine.versions import install

    assert re.fullmatch(rf"pip install '{extra}[<>=]\S+'", install(extra))


def test_every_extra_has_its_message_and_its_place_in_the_readme(monkeypatch):
    """The other tests of these messages stand beside the code that each extra is for."""
    import modelforge.serving

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"dev", "docs"}
    code = "".join(path.read_text() for path in (ROOT / "modelforge").rglob("*.py"))
    asked = set(re.findall(r"""install\(["']([a-z]+)["']\)""", code))
    # Excel and the trackers name their one package themselves.
    assert extras - asked == {"xlsx", "wandb"} and "pip install openpyxl" in code
    readme = (ROOT / "README.md").read_text()
    assert all(f"`{extra}`" in readme for extra in extras)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RunError, match=r"fastapi.*not installed.*pip install 'fastapi>="):
        modelforge.serving.require_installed()


def test_a_place_that_takes_no_config_is_answered_with_what_to_do(tmp_path, command):
    (tmp_path / "file").write_text("")
    for name in ("sft", "sft-dpo"):
        code, _, error = command("init", name, "-o", str(tmp_path / "file" / "x.json"))
        assert code == 2 and "cannot be written" in error and "another with --output" in error
    (tmp_path / "sft.schema.json").mkdir()
    code, _, error = command("init", "sft", "-o", str(tmp_path / "x.json"))
    assert code == 2 and "cannot be written" in error and not (tmp_path / "x.json").exists()
