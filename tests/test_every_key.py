"""No key is inert: each key of each schema reaches its place, or is refused with a reason."""

import ast
import dataclasses
import inspect
from functools import cache
from pathlib import Path

import pytest
import transformers
import trl

from modelforge import ConfigError, load_config
from modelforge.configfile import schema
from modelforge.registry import get_strategy

STRATEGIES = ["sft", "reward", "dpo", "kto", "grpo", "rloo", "ppo"]
# What the library reads of TRL's config, beside the trainer's own classes.
AROUND = ("trainer_callback.py", "trainer_utils.py", "training_args.py", "optimization.py",
          "trainer_optimizer.py", "trainer_pt_utils.py", "debug_utils.py")  # fmt: skip
CONFIGS = ("_config.py", "training_args.py", "ppo/config.py")
# Fields that ModelForge sets itself, from a key of its own of the same name.
BY_OURS = {"output_dir", "seed", "report_to", "run_name", "bf16", "fp16", "warmup_steps"}


def config(strategy, **values):
    base = {"strategy": strategy, "model_name": "m", "dataset": "d.jsonl"}
    return load_config(base | values)


@cache
def names_read(path):
    """The fields that a file reads of ``args``, or a config class of itself."""
    found = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            of = ast.unparse(node.value)
            if of.endswith("args") or (of == "self" and path.endswith(CONFIGS)):
                found.add(node.attr)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and node.args[1:]:
            found.add(getattr(node.args[1], "value", None))
    return found


def upstream_reads(strategy):
    """All fields that TRL's trainer and config, and what they stand on, read."""
    folder = Path(transformers.__file__).parent
    files = {str(folder / name) for name in AROUND if (folder / name).is_file()}
    files |= {str(p) for p in (folder / "integrations").glob("*.py")}
    files |= {
        str(Path(trl.__file__).parent / "trainer" / f"{n}.py") for n in ("utils", "callbacks")
    }
    for cls in (*strategy.trl_trainer_class().__mro__, *strategy.trl_config_class().__mro__):
        if cls.__module__.startswith(("trl.", "transformers.", "modelforge.")):
            files.add(inspect.getfile(cls))
    return set().union(*(names_read(path) for path in files))


def another(node, default):
    """A value of a key that its schema allows and that is not the default; None for none."""
    for branch in node.get("anyOf", [node]):
        kind = branch.get("type")
        kind = next((k for k in kind if k != "null"), None) if isinstance(kind, list) else kind
        if "enum" in branch:
            rest = [v for v in branch["enum"] if v not in (None, default, "", "no")]
            if rest:
                return rest[0]
        elif kind == "boolean":
            return not default
        elif kind in ("integer", "number"):
            low = branch.get("minimum", branch.get("exclusiveMinimum", 0))
            high = branch.get("maximum", branch.get("exclusiveMaximum"))
            one = 1 if kind == "integer" else 0.25
            value = (default if isinstance(default, int | float) else low) + one
            return value if high is None or value <= high else (low + high) / 2
        elif kind == "string":
            return "x"
        elif kind == "array" and "enum" not in branch.get("items", {}):
            return ["x"] if branch.get("items", {}).get("type") == "string" else None
    return None


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_key_of_trl_reaches_its_arguments_where_they_are_read_or_is_refused(name, tmp_path):
    strategy = get_strategy(name)
    properties = schema.load(strategy)["properties"]
    fields = {f.name: f.default for f in dataclasses.fields(strategy.trl_config_class())}
    read = upstream_reads(strategy)
    keys = set(properties) - set(strategy.settings.model_fields) - {"$schema"}
    reached, refused = set(), set()
    for key in sorted(keys):
        default = getattr(fields[key], "value", fields[key])
        value = another(properties[key], default)
        if key in strategy.ignored:
            with pytest.raises(ConfigError, match="does not look at it"):
                config(name, **{key: value if value is not None else "x"})
            refused.add(key)
            continue
        assert key in read or key in BY_OURS, f"{name}: nothing reads {key}"
        if value is None:
            continue
        try:
            said = config(name, **{key: value})
            args = strategy().build_args(said, output_dir=tmp_path, device={"use_cpu": True})
        except ConfigError as error:
            assert key in str(error) or "TRL refuses" in str(error), key
            refused.add(key)
            continue
        # transformers turns some texts into enums, lists and sets.
        found = getattr(args, key)
        assert found != default or value == default, f"{name}: {key} {value!r} got lost"
        reached.add(key)
    assert len(reached) > 0.8 * len(keys), sorted(keys - reached)


def test_what_is_owned_is_refused_with_what_to_set_instead():
    for key, instead in schema.OWNED.items():
        for name in STRATEGIES:
            if key in schema.load(get_strategy(name))["properties"]:
                continue
            with pytest.raises(ConfigError) as caught:
                config(name, **{key: "x"})
            assert any(instead in str(p) or key in str(p) for p in caught.value.problems), key
