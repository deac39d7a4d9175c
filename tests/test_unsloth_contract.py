"""What providers/unsloth.py believes of Unsloth, held against Unsloth's own source.

Read, not imported: importing it needs a GPU. The source is the installed package's or, where the
variable MODELFORGE_UNSLOTH_WHEELS names a folder, that of the wheels there (``pip download
--no-deps unsloth unsloth_zoo``). The last test imports it in a process of its own, with the
variable that Unsloth keeps for that, and lets its real rewrite of TRL run.
"""

import ast
import json
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from modelforge.models.providers import unsloth

ROOT = Path(__file__).parents[1]
WHEELS = os.environ.get("MODELFORGE_UNSLOTH_WHEELS")

if not WHEELS and find_spec("unsloth") is None:
    pytest.skip(
        "no Unsloth here: install it, or set MODELFORGE_UNSLOTH_WHEELS to a folder of its wheels",
        allow_module_level=True,
    )


def read(path):
    """A file of the packages, such as ``unsloth/models/loader.py``."""
    package = path.partition("/")[0]
    if WHEELS:
        (wheel,) = Path(WHEELS).glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(path).decode()
    return (Path(find_spec(package).origin).parents[1] / path).read_text(encoding="utf-8")


def definition(path, *names):
    """The class or function of that name, inside the classes and functions before it."""
    node = ast.parse(read(path))
    for name in names:
        kinds = (ast.ClassDef, ast.FunctionDef)
        (node,) = [n for n in ast.walk(node) if isinstance(n, kinds) and n.name == name]
    return node


def parameters(function):
    """Name → default (its source, or None where there is none)."""
    positional = function.args.args
    defaults = [None] * (len(positional) - len(function.args.defaults)) + function.args.defaults
    pairs = list(zip(positional, defaults, strict=True))
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return {argument.arg: default and ast.unparse(default) for argument, default in pairs}


def strings(node):
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value}


def our_calls():
    """Method of FastLanguageModel → the keywords we pass."""
    tree = ast.parse(Path(unsloth.__file__).read_text(encoding="utf-8"))
    return {
        call.func.attr: {keyword.arg for keyword in call.keywords if keyword.arg}
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and ast.unparse(call.func.value) == "FastLanguageModel"
    }


LOADER, LLAMA = "unsloth/models/loader.py", "unsloth/models/llama.py"
RL, REPLACEMENTS = "unsloth/models/rl.py", "unsloth/models/rl_replacements.py"


def test_every_keyword_we_pass_is_there():
    calls = our_calls()
    assert set(calls) == {"from_pretrained", "get_peft_model"}
    loads = parameters(definition(LOADER, "FastLanguageModel", "from_pretrained"))
    assert calls["from_pretrained"] - {"use_safetensors"} <= set(loads)
    # Passed on by **kwargs; the second to transformers.
    passed_on = definition(LLAMA, "FastLlamaModel", "from_pretrained")
    assert "num_labels" in parameters(passed_on)
    assert "kwargs.get('use_safetensors')" in ast.unparse(passed_on)
    adapts = parameters(definition(LLAMA, "FastLlamaModel", "get_peft_model"))
    assert calls["get_peft_model"] <= set(adapts)


def test_what_must_be_said_is_what_unsloth_would_choose_otherwise():
    loads = parameters(definition(LOADER, "FastLanguageModel", "from_pretrained"))
    assert loads["load_in_4bit"] == "True" and loads["random_state"] == "3407"
    assert loads["use_exact_model_name"] == "False"
    assert loads["use_gradient_checkpointing"] == "'unsloth'"
    adapts = parameters(definition(LLAMA, "FastLlamaModel", "get_peft_model"))
    assert adapts["random_state"] == "3407" and adapts["lora_alpha"] == "16"


def test_the_architectures_are_those_with_kernels():
    function = definition(LOADER, "FastLanguageModel", "from_pretrained")
    found = {
        comparison.comparators[0].value
        for comparison in ast.walk(function)
        if isinstance(comparison, ast.Compare)
        and ast.unparse(comparison.left) == "model_type"
        and isinstance(comparison.ops[0], ast.Eq)
        and isinstance(comparison.comparators[0], ast.Constant)
    }
    # Of Cohere and Granite it says that their kernels are off.
    assert set(unsloth.ARCHITECTURES) == found


def test_the_linear_layers_are_those_with_kernels():
    function = definition(LLAMA, "FastLlamaModel", "get_peft_model")
    sets = [n for n in ast.walk(function) if isinstance(n, ast.Call) and "frozenset" in ast.dump(n)]
    assert any(set(unsloth.LINEAR) | {"lm_head"} == strings(call.args[0]) for call in sets)


def test_it_must_come_before_these():
    assert 'critical_modules = ["trl", "transformers", "peft"]' in read("unsloth/_gpu_init.py")


def test_the_variables_are_read():
    utilities = ast.unparse(definition("unsloth/models/_utils.py", "get_statistics"))
    assert "'UNSLOTH_DISABLE_STATISTICS' in os.environ" in utilities
    assert "UNSLOTH_COMPILE_LOCATION" in read("unsloth_zoo/compiler.py")
    assert "UNSLOTH_AUTO_INSTALL" in read("unsloth_zoo/llama_cpp.py")


def test_four_bit_is_nf4_with_double_quantisation():
    function = definition(LLAMA, "FastLlamaModel", "from_pretrained")
    made = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "BitsAndBytesConfig"
    ]
    assert any(
        call.get("bnb_4bit_quant_type") == "'nf4'"
        and call.get("bnb_4bit_use_double_quant") == "True"
        for call in made
    )


def test_a_reward_model_is_a_sequence_classifier_whose_head_may_not_be_named():
    loads = ast.unparse(definition(LLAMA, "FastLlamaModel", "from_pretrained"))
    assert "AutoModelForSequenceClassification.from_pretrained" in loads
    adapts = ast.unparse(definition(LLAMA, "FastLlamaModel", "get_peft_model"))
    assert "TaskType.SEQ_CLS" in adapts  # for which PEFT itself keeps the score head
    assert "is not allowed. Only" in adapts and "modules_to_save" in adapts


def test_sft_takes_labels_as_they_are_and_collates_them_without_borders():
    function = definition("unsloth_zoo/dataset_utils.py", "sft_prepare_dataset")
    branches = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "'labels' in column_names"
    ]
    body = "\n".join(ast.unparse(line) for line in branches[0].body)
    assert "self.data_collator = DataCollatorForSeq2Seq(tokenizer)" in body
    assert "do_tokenize = False" in body


def test_grpo_never_calls_the_loss_that_ppo_overrides():
    function = definition(REPLACEMENTS, "grpo_trainer_compute_loss", "compute_loss")
    called = {n.func.attr for n in ast.walk(function) if _is_method_call(n)}
    assert "_compute_loss" not in called
    assert 'RL_FUNCTIONS["grpo_trainer"].append(grpo_trainer_compute_loss)' in read(REPLACEMENTS)


def _is_method_call(node):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)


def test_grpo_turns_training_mode_on_whenever_it_generates():
    function = ast.unparse(definition(REPLACEMENTS, "grpo_trainer__generate_and_score_completions"))
    assert "self.model.for_training(" in function
    switch = ast.unparse(definition(LLAMA, "FastLlamaModel", "for_training"))
    assert "m.training = True" in switch


def test_the_rewrite_of_configs_is_marked_and_changes_defaults():
    assert '_UNSLOTH_PATCHED_CONFIG_FLAG = "_unsloth_patched_rl_config"' in read(RL)
    function = definition(RL, "_patch_trl_rl_trainers_impl")
    changed = [n.value for n in ast.walk(function) if _assigns(n, "replacements")]
    (common,) = [n for n in changed if isinstance(n, ast.Dict) and len(n.keys) > 10]
    assert strings(common) >= {"learning_rate", "optim", "seed", "weight_decay", 3407}


def _assigns(node, name):
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name


def test_we_never_call_what_installs_software():
    for path in [*(ROOT / "modelforge").rglob("*.py"), *(ROOT / "strategies").glob("*.py")]:
        assert "save_pretrained_gguf" not in path.read_text(encoding="utf-8"), path


REWRITE = """
import json, sys
from pathlib import Path
import unsloth
from unsloth.models import rl
rl.patch_trl_rl_trainers()
import dataclasses
from modelforge import load_config, get_strategy
from modelforge.models.providers.unsloth import Unsloth, plain_class

folder, found = Path(sys.argv[1]), {}
for name in ("sft", "reward", "dpo"):
    strategy = get_strategy(name)()
    config = load_config({"strategy": name, "model_name": "m", "dataset": "d", "report_to": "none"})
    device = {"use_cpu": True, "bf16": False}
    args = Unsloth().build_args(strategy, config, output_dir=folder, device=device)
    rewritten, plain = strategy.trl_config_class(), plain_class(strategy.trl_config_class())
    bare = [cls(output_dir=str(folder), use_cpu=True, bf16=False) for cls in (plain, rewritten)]
    fields = [field.name for field in dataclasses.fields(plain)]
    found[name] = {
        "trainer": strategy.trl_trainer_class().__name__,
        "moved": [f for f in fields if getattr(bare[0], f) != getattr(bare[1], f)],
        "ours": [f for f in fields if getattr(bare[0], f) != getattr(args, f)],
    }
print("FOUND" + json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("unsloth") is None, reason="Unsloth is not installed")
def test_the_real_rewrite_leaves_trls_values(tmp_path):
    """Its own rewrite of TRL runs; building our arguments on it raises where it changes one."""
    environment = {"UNSLOTH_ALLOW_CPU": "1", "UNSLOTH_COMPILE_LOCATION": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", REWRITE, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.partition("FOUND")[2])
    for name, said in found.items():
        assert said["trainer"].startswith("Unsloth"), name
        assert {"learning_rate", "seed", "optim", "weight_decay"} <= set(said["moved"])
        harmless = {"gradient_checkpointing_kwargs", "dataset_num_proc"}
        assert set(said["ours"]) <= harmless | {"report_to", "disable_tqdm", "max_length"}
