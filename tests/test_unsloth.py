"""The provider unsloth without a GPU: when it is chosen, what it refuses, and a whole run.

The run is on a package that stands in for Unsloth: it notes what is asked of it, rewrites TRL's
config as Unsloth does, and loads the tiny model with transformers and PEFT. Whether the real one
takes these calls is for test_unsloth_contract.py; whether it trains, for test_unsloth_gpu.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from machines import CPU, card

from modelforge import ConfigError, RunError, get_strategy, load_config
from modelforge.config import Choice
from modelforge.models.providers import choice, unsloth
from modelforge.models.providers.choice import choose_provider
from modelforge.models.source import ModelSource, find_model
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
SOURCE = ModelSource(str(TINY / "model"), None, None, str(TINY / "model"))
DATA = {"reward": "preference", "dpo": "preference", "rlhf": "preference"}
MINIMAL = {"model_name": str(TINY / "model"), "report_to": "none", "max_seq_length": 64}


def config(strategy="sft", **values):
    data = TINY / "data" / f"{DATA.get(strategy, 'sft')}_train.jsonl"
    return load_config({"strategy": strategy, "dataset": str(data), **MINIMAL, **values})


@pytest.fixture
def installed(monkeypatch):
    """As if Unsloth were installed, and the process fresh."""
    monkeypatch.setattr(unsloth, "find_spec", lambda name: object())
    monkeypatch.setattr(unsloth, "sys", SimpleNamespace(modules={}, stderr=sys.stderr))
    monkeypatch.setattr(unsloth.Unsloth, "start", lambda self: None)
    monkeypatch.delenv("WORLD_SIZE", raising=False)


def chosen(config, *, source=SOURCE, hardware=None):
    strategy = get_strategy(config.settings.strategy)()
    return choose_provider(config, strategy, source, hardware or card(24))[1]


def problems(config, *, source=SOURCE, hardware=None):
    with pytest.raises(RunError) as caught:
        chosen(config, source=source, hardware=hardware)
    return [str(problem) for problem in caught.value.problems]


def test_the_choice_follows_what_the_strategy_says(installed):
    for name in STRATEGIES:
        can, why = get_strategy(name).unsloth
        teacher = {"teacher_model": str(TINY / "model")} if name == "distill" else {}
        found = chosen(config(name, **teacher))
        assert found.value == ("unsloth" if can else "huggingface"), name
        assert found.reason and (can or why in found.reason)


def test_auto_says_what_it_found(installed):
    assert chosen(config()) == Choice(
        "unsloth", "machine", f"{choice_name()} has kernels for llama on card"
    )


def choice_name():
    try:
        return f"Unsloth {choice.version('unsloth')}"
    except choice.PackageNotFoundError:
        return "Unsloth"


def test_auto_is_huggingface_where_anything_is_missing_and_says_what(installed, monkeypatch):
    assert "CUDA GPU" in chosen(config(), hardware=CPU).reason
    old = card(16).__class__("cuda", "old card", 1, 16.0, (6, 1), False, 64.0, 8)
    assert "needs compute capability 7.0, and old card has 6.1" in (
        chosen(config(), hardware=old).reason
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process" in chosen(config()).reason
    monkeypatch.delenv("WORLD_SIZE")
    monkeypatch.setattr(unsloth.sys, "modules", {"trl": object()})
    assert "before trl" in chosen(config()).reason
    monkeypatch.setattr(unsloth, "find_spec", lambda name: None)
    assert chosen(config()) == Choice("huggingface", "machine", "Unsloth is not installed")


@pytest.mark.parametrize(
    ("strategy", "values", "says"),
    [
        ("sft", {"lora_r": 0}, "lora_r: trains all weights"),
        ("sft", {"use_8bit": True}, "use_8bit"),
        ("qlora", {"bnb_4bit_quant_type": "fp4"}, "its 4-bit is nf4"),
        ("qlora", {"use_double_quant": False}, "quantises the constants too"),
        ("sft", {"bf16": False}, "mixed precision"),
        ("sft", {"packing": True}, "borders"),
        ("grpo", {}, "held-out reward goes missing"),
        ("ppo", {}, "never calls the one that PPO overrides"),
    ],
)
def test_what_it_cannot_do_is_said_when_asked_for_and_avoided_when_not(
    installed, strategy, values, says
):
    automatic = chosen(config(strategy, **values))
    assert automatic.value == "huggingface" and automatic.reason
    try:
        asked = config(strategy, provider="unsloth", **values)
    except ConfigError as error:  # without looking at the machine
        found = [str(problem) for problem in error.problems]
    else:  # once the strategy's defaults are known
        found = problems(asked)
    assert any(says in line and "set provider to huggingface" in line for line in found), found


def test_asked_for_where_it_cannot_work_it_says_all_that_is_in_the_way(monkeypatch):
    monkeypatch.setattr(unsloth, "find_spec", lambda name: None)
    found = problems(config(provider="unsloth"), hardware=CPU)
    assert any("not installed → pip install 'unsloth>=" in line for line in found)
    assert any("needs a CUDA GPU" in line for line in found)


def test_an_architecture_without_kernels_is_left_to_transformers(installed, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt_neox"}')
    source = ModelSource(str(tmp_path), None, None, str(tmp_path))
    assert "no kernels for" in chosen(config(), source=source).reason
    (found,) = problems(config(provider="unsloth"), source=source)
    assert "gpt_neox" in found and "llama" in found
    nowhere = ModelSource("nobody/has-this", None, None, "nobody/has-this")
    assert "unknown architecture" in chosen(config(), source=nowhere).reason


def test_an_adapter_is_gone_on_from_where_its_meaning_stays(installed, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_model.safetensors").touch()

    def source(base):
        text = json.dumps({"base_model_name_or_path": str(base)})
        (adapter / "adapter_config.json").write_text(text)
        return find_model(str(adapter), base_dir=TINY, revision=None, where="model_name")

    assert chosen(config("dpo"), source=source(TINY / "model")).value == "unsloth"
    assert "looks for the base" in chosen(config("dpo"), source=source("model")).reason


def test_after_unsloth_nothing_else_runs_in_the_process(monkeypatch):
    monkeypatch.setitem(sys.modules, "unsloth", SimpleNamespace())
    (found,) = problems(config(provider="huggingface"), hardware=CPU)
    assert "patches of TRL stay" in found


def rewritten(plain, **other):
    """A config class as Unsloth makes them: other defaults, and values changed unasked."""

    class Rewritten(plain):
        _unsloth_patched_rl_config = True

        def __init__(self, **kwargs):
            super().__init__(
                **{"learning_rate": 5e-5, "seed": 3407, "weight_decay": 0.001} | kwargs
            )
            vars(self).update(other)

    return Rewritten


def dpo_args(folder, **other):
    from trl import DPOConfig

    strategy = get_strategy("dpo")()
    strategy.trl_config_class = lambda: rewritten(DPOConfig, **other)
    device = {"use_cpu": True, "bf16": False}
    return unsloth.Unsloth().build_args(strategy, config("dpo"), output_dir=folder, device=device)


def test_every_value_is_trls_and_what_unsloth_changes_all_the_same_is_an_error(tmp_path):
    from trl import DPOConfig

    plain = DPOConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    args = dpo_args(tmp_path, dataset_num_proc=2)
    assert (args.learning_rate, args.weight_decay) == (plain.learning_rate, plain.weight_decay)
    assert args.seed == 42 and unsloth.plain_class(type(args)) is DPOConfig
    with pytest.raises(ConfigError) as caught:
        dpo_args(tmp_path, max_grad_norm=0.3, beta=0.5)
    found = [str(problem) for problem in caught.value.problems]
    assert len(found) == 2 and "beta: Unsloth makes it 0.5 where 0.1 is meant" in found[1]


# --- a whole run, on the stand-in ---------------------------------------------------------------

FAKE = """
import json, os, sys

def note(what, **values):
    with open(os.environ["FAKE_UNSLOTH_LOG"], "a") as log:
        log.write(json.dumps({"what": what, **values}, default=str) + "\\n")

heavy = [n for n in ("transformers", "trl", "peft", "datasets") if n in sys.modules]
names = ("COMPILE_LOCATION", "DISABLE_STATISTICS", "AUTO_INSTALL", "DISABLE_CPU_FALLBACK")
note("import", heavy=heavy, **{n: os.environ.get("UNSLOTH_" + n) for n in names})
print("a banner on stdout")

import peft, transformers, trl

OTHER = {"learning_rate": 5e-5, "optim": "adamw_8bit", "per_device_train_batch_size": 4,
         "gradient_accumulation_steps": 2, "weight_decay": 0.001, "warmup_steps": 0.1,
         "seed": 3407, "logging_steps": 1}

def rewrite(plain):
    class Rewritten(plain):
        _unsloth_patched_rl_config = True
        def __init__(self, **kwargs):
            super().__init__(**{**OTHER, **kwargs})
            note("config", **{k: getattr(self, k) for k in OTHER})
    Rewritten.__module__ = "trl"
    Rewritten.__name__ = Rewritten.__qualname__ = plain.__name__
    return Rewritten

for name in ("SFTConfig", "RewardConfig"):
    setattr(trl, name, rewrite(getattr(trl, name)))

class FastLanguageModel:
    @staticmethod
    def from_pretrained(model_name, dtype, num_labels=None, **kwargs):
        note("from_pretrained", model_name=model_name, dtype=dtype, num_labels=num_labels, **kwargs)
        headless = os.environ.get("FAKE_UNSLOTH_HEADLESS")
        if num_labels and not headless:
            auto = transformers.AutoModelForSequenceClassification
            return auto.from_pretrained(model_name, dtype=dtype, num_labels=num_labels), None
        return transformers.AutoModelForCausalLM.from_pretrained(model_name, dtype=dtype), None

    @staticmethod
    def get_peft_model(model, use_gradient_checkpointing, random_state, **kwargs):
        note("get_peft_model", use_gradient_checkpointing=use_gradient_checkpointing,
             random_state=random_state, **kwargs)
        task = "SEQ_CLS" if "Classification" in type(model).__name__ else "CAUSAL_LM"
        return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **kwargs))
"""

# The command, on a machine where only the choice sees a card.
COMMAND = """
import modelforge.training.resolve
from modelforge import Hardware
from modelforge.cli.main import main
card = Hardware("cuda", "a card", 1, 24.0, (8, 6), True, 64.0, 8)
choose = modelforge.training.resolve.choose_provider
modelforge.training.resolve.choose_provider = lambda *facts: choose(*facts[:-1], card)
main()
"""


@pytest.fixture
def stand_in(tmp_path):
    """Runs the command on the stand-in: (exit code, stdout, stderr, what was asked of it)."""
    package = tmp_path / "packages" / "unsloth"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(FAKE)
    (tmp_path / "work").mkdir()

    def run(*arguments, **environment):
        log = tmp_path / "log.jsonl"
        log.write_text("")
        path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
        clean = {k: v for k, v in os.environ.items() if not k.startswith("UNSLOTH_")}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path / "work",
            env=clean | {"PYTHONPATH": path, "FAKE_UNSLOTH_LOG": str(log)} | environment,
        )
        asked = [json.loads(line) for line in log.read_text().splitlines()]
        return done.returncode, done.stdout, done.stderr, asked

    return run


def write(tmp_path, strategy, **values):
    data = TINY / "data" / f"{DATA.get(strategy, 'sft')}_train.jsonl"
    shared = {"strategy": strategy, "dataset": str(data), "eval_split": 8, "max_steps": 2}
    path = tmp_path / f"{strategy}.json"
    path.write_text(json.dumps(shared | MINIMAL | {"output_dir": str(tmp_path / "runs")} | values))
    return str(path)


@pytest.mark.slow
def test_a_whole_run_goes_through_the_stand_in(stand_in, tmp_path):
    values = {"learning_rate": 1e-3, "lora_r": 4, "run_name": "one"}
    code, out, err, asked = stand_in("train", write(tmp_path, "sft", **values), "--json")
    assert code == 0, err
    assert json.loads(out)["after"]["eval_loss"] > 0  # the banner went elsewhere
    assert "a banner on stdout" in err
    first, *others = asked
    assert first["what"] == "import" and first["heavy"] == []
    assert first["DISABLE_STATISTICS"] == "1" and first["AUTO_INSTALL"] == "0"
    assert not Path(first["COMPILE_LOCATION"]).exists()  # removed at the end
    assert [o["what"] for o in others] == ["config", "from_pretrained", "get_peft_model"]
    made, loaded, adapted = others
    assert made["learning_rate"] == 1e-3 and made["seed"] == 42 and made["weight_decay"] == 0.0
    assert made["optim"] != "adamw_8bit" and made["logging_steps"] == 10
    assert loaded["load_in_4bit"] is False and loaded["use_exact_model_name"] is True
    assert loaded["random_state"] == 42 and loaded["max_seq_length"] == 64
    assert loaded["dtype"] == "torch.float32" and loaded["num_labels"] is None
    assert adapted["r"] == 4 and adapted["target_modules"] == list(unsloth.LINEAR)
    assert loaded["use_gradient_checkpointing"] == adapted["use_gradient_checkpointing"]
    run = tmp_path / "runs" / "one"
    stored = json.loads((run / "choices.json").read_text())["choices"]["provider"]
    assert stored["value"] == "unsloth" and "kernels for llama on a card" in stored["reason"]
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.slow
def test_a_reward_model_without_its_head_ends_the_run(stand_in, tmp_path):
    path = write(tmp_path, "reward", provider="unsloth")
    code, _, err, asked = stand_in("train", path, FAKE_UNSLOTH_HEADLESS="1")
    assert code == 2 and "without a score head" in err, err
    assert asked[-1]["what"] == "from_pretrained" and asked[-1]["num_labels"] == 1


@pytest.mark.slow
def test_a_reward_models_head_is_trained_and_saved(stand_in, tmp_path):
    from safetensors.torch import load_file

    code, _, err, _ = stand_in("train", write(tmp_path, "reward", run_name="two"))
    assert code == 0, err
    saved = load_file(tmp_path / "runs" / "two" / "model" / "adapter_model.safetensors")
    assert any("score" in name for name in saved)
