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
        "evaluate",
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


# The rooms from the ground up: a room imports only from rooms on lower floors.
FLOORS = (
    ("redact",),
    ("errors",),
    ("common",),
    ("config",),
    ("data", "checkpointing"),
    ("machine", "runs", "measuring"),
    ("callbacks",),
    ("strategy",),
    ("registry",),
    ("models", "web"),
    ("constraints",),
    ("configfile", "rewards"),
    ("ppo", "evaluation"),
    ("strategies", "plan", "inference"),
    ("training",),
    ("export", "feedback", "importing", "safety"),
    ("serving",),
    ("cli",),
    ("__main__",),
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FACE = "modelforge"  # __init__.py, which hands names on and stands above all
LIMIT, FUNCTION_LIMIT, TOP_LIMIT = 400, 60, 8


def modules():
    """Every module of the package and its file; data folders hold no rooms."""
    for folder, name in (("modelforge", "modelforge"), ("strategies", "modelforge.strategies")):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            yield ".".join((name, *parts)), path


MODULES = dict(modules())


def arrows():
    """(importing module, imported module): at the top, inside functions, for type checkers."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                wholes = [f"{node.module}.{alias.name}" for alias in node.names]
                found = [whole if whole in MODULES else node.module for whole in wholes]
            else:
                continue
            yield from ((name, to) for to in found if to in MODULES and to != name)


def room(module):
    return [*module.split("."), FACE][1]


def test_a_room_imports_only_from_lower_floors():
    upwards = {
        (name, to)
        for name, to in arrows()
        if FACE not in (name, to) and room(name) != room(to)
        if FLOOR[room(to)] >= FLOOR[room(name)]
    }
    assert not upwards
    assert not {name for name, to in arrows() if to == FACE and room(name) not in ("cli",)}


def test_no_files_import_each_other_in_a_circle():
    uses = {}
    for name, to in arrows():
        uses.setdefault(name, set()).add(to)
    uses.pop(FACE, None)
    while free := {name for name in uses if not uses[name] & uses.keys()}:
        uses = {name: to for name, to in uses.items() if name not in free}
    assert not uses


def test_every_room_is_packaged_and_has_a_floor():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = project["tool"]["setuptools"]["packages"]
    folders = {name for name, path in MODULES.items() if path.name == "__init__.py"} | {
        "modelforge.configs",
        "modelforge.tiny",
    }
    assert sorted(packaged) == sorted(folders)
    assert {room(name) for name in MODULES} - {FACE} <= set(FLOOR)


def test_files_and_functions_are_short_and_few_lie_at_the_top():
    for path in MODULES.values():
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= LIMIT, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= FUNCTION_LIMIT, f"{path}: {node.name} has {length} lines"
    assert len(list((ROOT / "modelforge").glob("*.py"))) <= TOP_LIMIT


# What only some commands need, and takes longer to import than to say what is wrong with a config.
SLOW = {"huggingface_hub", "httpx", "jinja2", "scipy", "sklearn"}
# What is imported where a command starts, and what checking a config takes.
LIGHT = ("config", "errors", "registry", "strategy", "common", "configfile", "runs", "cli")


@pytest.mark.parametrize("name", [n for n in MODULES if room(n) in (*LIGHT, FACE)])
def test_light_modules_import_no_ml_library(name):
    found = set(imports(MODULES[name], top_level_only=True))
    assert not {imported.partition(".")[0] for imported in found} & HEAVY


def test_the_whole_command_line_starts_without_torch(tmp_path):
    config = tmp_path / "c.json"
    config.write_text('{"strategy": "rlhf", "model_name": "m", "dataset": "d.jsonl"}')
    program = (
        "import sys, modelforge.cli.main\n"
        f"modelforge.load_config({str(config)!r})\n"
        f"print(sorted({HEAVY | SLOW} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "strategies").glob("*.py")), ids=lambda p: p.name)
def test_strategies_import_no_ml_library_at_the_top(path):
    top = {name.partition(".")[0] for name in imports(path, top_level_only=True)}
    assert not top & HEAVY


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
