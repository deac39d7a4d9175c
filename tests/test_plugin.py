"""A package of one's own adds a strategy, a reward, a tool and an environment (examples/plugin)."""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
from tiny import few

from modelforge import ConfigError, get_strategy, list_strategies, load_config, registry

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
PLUGIN = ROOT / "examples" / "plugin"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as pip leaves it: its modules, and its entry points beside them."""
    site = tmp_path / "site"
    shutil.copytree(PLUGIN / "modelforge_plugin", site / "modelforge_plugin")
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    info = site / "modelforge_plugin-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: modelforge-plugin\nVersion: 0.1.0\n"
    )
    lines = [f"{k} = {v}" for k, v in project["entry-points"]["modelforge.strategies"].items()]
    (info / "entry_points.txt").write_text("\n".join(["[modelforge.strategies]", *lines]))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    yield
    for name in [name for name in sys.modules if name.startswith("modelforge_plugin")]:
        del sys.modules[name]


def config(**keys):
    values = {"model_name": str(TINY / "model"), "report_to": "none", "max_steps": 1}
    return values | {"max_seq_length": 128, "per_device_train_batch_size": 4} | keys


def test_its_files_are_short():
    """docs/extending.md says so."""
    paths = list((PLUGIN / "modelforge_plugin").glob("*.py"))
    assert len(paths) == 5
    for path in paths:
        assert len(path.read_text().splitlines()) <= 30, path


def test_its_strategy_is_listed_and_checked(installed, tmp_path, command):
    assert "steady-dpo" in list_strategies()
    assert "steady-dpo" in command("strategies")[1]
    rows = {"dataset": str(few("preference_train", 16)), "strategy": "steady-dpo"}
    with pytest.raises(ConfigError, match="no sft in it"):
        load_config(config(loss_type=["sigmoid"], **rows))
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(config(**rows) | {"eval_split": 0, "output_dir": str(tmp_path)}))
    code, out, err = command("check", path, "--json")  # builds its trainer, without weights
    assert code == 0, err
    assert json.loads(out)["choices"]["choices"]["loss_type"]["value"] == ["sigmoid", "sft"]
    assert get_strategy("steady-dpo").data_kind == "preference"


def test_its_reward_and_its_tool_and_its_environment_are_tried_without_a_model(
    installed, tmp_path, command
):
    template = {"chat_template": str(TINY / "calling.jinja"), "max_seq_length": 192}
    rows = {"dataset": str(few("prompts_train", 32)), "strategy": "grpo", "eval_split": 0}
    rows |= {"generation": {"max_new_tokens": 16}, "num_generations": 4}
    reward = {"rewards": ["modelforge_plugin.rewards:brief", "numeric_answer"]}
    cases = {
        "reward": reward,
        "tool": reward | {"tools": ["modelforge_plugin.tools:minus"]} | template,
        "environment": {"environment": "modelforge_plugin.environment:Guess"} | template,
    }
    for name, keys in cases.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(config(**rows, **keys) | {"output_dir": str(tmp_path)}))
        code, out, err = command("validate", path, "--json")
        assert code == 0, err
        told = json.loads(out)
        if name != "environment":
            assert told["rewards"]["brief"]["right"] == 1.0
            assert told["tools"] == (["minus"] if name == "tool" else [])
        else:
            assert told["environment"]["observations"][0].endswith("You may guess.")


def test_a_guess_is_worth_less_the_later_it_is_right(installed):
    from modelforge_plugin.environment import Guess

    game = Guess()
    game.reset(answer="5")
    assert [game.guess(n) for n in (3, 9, 5)] == ["larger", "smaller", "right"]
    assert game.get_reward() == pytest.approx(1 / 3)
