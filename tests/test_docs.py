"""The documents say what is there: commands, keys, configs, links and run names."""

import ast
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

import modelforge
from modelforge import load_config
from modelforge.cli import main as cli
from modelforge.config import Settings
from modelforge.runs.folder import run_name

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Another page may show a part of a config; these keys make it a whole one.
WHOLE = {"strategy": "grpo", "model_name": "m", "dataset": "d.jsonl"}


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands():
    groups = {group.name for group in cli.app.registered_groups}
    return groups | {command.callback.__name__ for command in cli.app.registered_commands}


def readme_config():
    (block,) = blocks(README, "json")
    return json.loads(block)


def test_the_readmes_table_has_every_command():
    assert set(re.findall(r"^\| `modelforge (\w+)", README, re.MULTILINE)) == commands()


def test_the_readme_names_every_command_without_json():
    parsed = typer.main.get_command(cli.app).commands
    parsed |= {f"{a} {b}": c for a in parsed for b, c in getattr(parsed[a], "commands", {}).items()}
    ends = {name: c for name, c in parsed.items() if not getattr(c, "commands", None)}
    without = {n for n, c in ends.items() if not any("--json" in p.opts for p in c.params)}
    (told,) = re.findall(r"^.*Every command has `--json`, except (.*)\.$", README, re.MULTILINE)
    assert set(re.findall(r"`(.+?)`", told)) == without


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_only_commands_and_files_that_are_there(page):
    text = page.read_text()
    named = set(re.findall(r"(?:^|`)modelforge ([a-z]+)", text, re.MULTILINE))
    assert named <= commands(), named - commands()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
    for target in re.findall(r"`((?:tests|benchmarks|examples|configs|modelforge)/[^` ]+)`", text):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_configs_are_valid(page, tmp_path, monkeypatch):
    (tmp_path / "rewards.py").write_text("def my_reward(completions, **columns):\n    return []\n")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "plugin"))
    monkeypatch.chdir(tmp_path)
    for block in blocks(page.read_text(), "json"):
        values = json.loads(block if block.startswith("{") else f"{{{block}}}")
        load_config({**WHOLE, **values})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_pages_python_imports_what_is_there(page):
    for block in blocks(page.read_text(), "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                public = importlib.import_module(str(node.module)).__all__
                assert {alias.name for alias in node.names} <= set(public)
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "modelforge":
                assert node.attr in modelforge.__all__


def test_the_page_of_keys_says_what_the_schema_says():
    page = (ROOT / "docs" / "config.md").read_text()
    for key, field in Settings.model_fields.items():
        assert f"| `{key}` | {field.description} | " in page


def test_the_readme_names_the_folder_that_its_config_trains_in():
    name = run_name(load_config(readme_config()))
    assert set(re.findall(r"runs/([\w.-]+-[0-9a-f]{6})\b", README)) == {name}


@pytest.mark.slow
def test_the_readmes_commands_run(tmp_path, monkeypatch, capsys):
    data = str(TINY / "data" / "sft_train.jsonl")
    small = {"max_steps": 2, "max_seq_length": 128, "per_device_train_batch_size": 2}
    config = {**readme_config(), "model_name": str(TINY / "model"), "dataset": data, **small}
    del config["num_train_epochs"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    lines = [line for line in lines if line.startswith("modelforge ")]
    assert len(lines) >= 6
    for line in lines:
        if "train sft.json" in line:  # what `init` wrote, with the tiny model and fewer steps
            first = json.loads((tmp_path / "sft.json").read_text())
            del first["num_train_epochs"]
            first |= {"model_name": str(TINY / "model"), "report_to": "none", **small}
            (tmp_path / "sft.json").write_text(json.dumps(first))
        if "check sft.json" in line:
            line = f"modelforge check sft.json --set model_name={TINY / 'model'}"
        monkeypatch.setattr("sys.argv", shlex.split(line, comments=True))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code, capsys.readouterr().err
    assert (tmp_path / "runs" / run_name(load_config("config.json")) / "model").is_dir()


@pytest.mark.slow
def test_a_run_writes_the_files_that_the_readme_lists(tmp_path):
    result = modelforge.train(
        {
            "strategy": "sft",
            "model_name": str(TINY / "model"),
            "dataset": str(TINY / "data" / "sft_train.jsonl"),
            "output_dir": str(tmp_path),
            "max_steps": 1,
            "max_seq_length": 128,
        }
    )
    section = README.partition("## The run's folder")[2].partition("\n## ")[0]
    listed = re.findall(r"`([\w.]+/?)`", "".join(re.findall(r"^\| `.*?\|", section, re.MULTILINE)))
    assert len(listed) == 11
    assert all((result.run_dir / name).exists() for name in listed), listed
