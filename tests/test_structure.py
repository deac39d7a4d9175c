"""The rules that hold the house together: what is public, and which way imports go."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import modelforge
from modelforge import Strategy, get_strategy, list_strategies, register_strategy
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "transformers", "trl", "datasets", "peft", "accelerate", "bitsandbytes"}


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def test_the_public_names():
    assert modelforge.__all__ == [
        "Config",
        "ConfigError",
        "DataError",
        "Hardware",
        "Measure",
        "ModelError",
        "ModelForgeError",
        "Parts",
        "Problem",
        "Profile",
        "RLHFConfig",
        "RLHFTrainer",
        "Result",
        "RunError",
        "Strategy",
        "UserError",
        "choose_profile",
        "detect_hardware",
        "get_strategy",
        "list_profiles",
        "list_strategies",
        "load_config",
        "register_strategy",
        "train",
    ]
    assert all(hasattr(modelforge, name) for name in modelforge.__all__)
    assert callable(modelforge.train)


@pytest.mark.parametrize("name", ["train", "load_config", "choose_profile"])
def test_all_but_the_first_argument_are_keyword_only_and_typed(name):
    signature = inspect.signature(getattr(modelforge, name))
    first, *others = signature.parameters.values()
    assert all(other.kind is other.KEYWORD_ONLY for other in others)
    assert all(p.annotation is not p.empty for p in (first, *others))
    assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize(
    "module",
    [
        "__init__",
        "config",
        "errors",
        "registry",
        "schema",
        "cli",
        "strategy",
        "source",
        "rundir",
        "console",
        "rlhf",
    ],
)
def test_light_modules_import_no_ml_library(module):
    found = set(imports(ROOT / "modelforge" / f"{module}.py", top_level_only=True))
    assert not {name.partition(".")[0] for name in found} & HEAVY


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=lambda p: p.name)
def test_strategies_import_neither_the_run_nor_the_registry(path):
    banned = {"modelforge.cli", "modelforge.run", "modelforge.prepare", "modelforge.registry"}
    assert not set(imports(path)) & banned
    top = {name.partition(".")[0] for name in imports(path, top_level_only=True)}
    assert not top & HEAVY


def test_rooms_do_not_import_upwards():
    upward = {"modelforge.cli", "modelforge.run", "modelforge.prepare"}
    for room in ("data", "rewards", "providers", "ppo", "plan"):
        for path in (ROOT / "modelforge" / room).rglob("*.py"):
            assert not set(imports(path)) & upward, path


def test_strategies_are_found_by_name_and_nothing_else_is_known():
    assert list_strategies()[: len(STRATEGIES)] == list(STRATEGIES)
    for name in STRATEGIES:
        assert get_strategy(name).name == name
    with pytest.raises(modelforge.ConfigError, match="did you mean 'grpo'"):
        get_strategy("grop")


def test_a_registered_strategy_is_known_and_a_taken_name_is_refused():
    class Mine(get_strategy("sft")):
        name = "mine-in-a-test"

    assert register_strategy(Mine) is Mine
    assert get_strategy("mine-in-a-test") is Mine and "mine-in-a-test" in list_strategies()
    with pytest.raises(ValueError, match="taken"):
        register_strategy(type("Other", (Strategy,), {"name": "sft"}))


def test_a_folder_named_strategies_in_the_working_folder_changes_nothing(tmp_path):
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text("raise SystemExit('shadowed')")
    program = "import modelforge; print(modelforge.get_strategy('dpo').__module__)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "modelforge.strategies.dpo", done.stderr
