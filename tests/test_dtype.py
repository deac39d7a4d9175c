"""`dtype`: the type of the weights, and all weights trained in 16 bits."""

import json

import pytest
import torch
from safetensors.torch import load_file
from tiny import ROOT, few, quick, resumed_bitwise

from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError
from modelforge.machine.hardware import Hardware
from modelforge.machine.precision import warnings
from modelforge.models.providers.huggingface import weights_dtype

FULL = ("lora_r=0", "lora_alpha=null", "dtype=bfloat16", "max_steps=14", "learning_rate=0.001")


def config(**keys):
    said = {"strategy": "sft", "model_name": str(ROOT / "examples/tiny/model"), "dataset": "rows"}
    return load_config(said | keys)


def card(capability):
    bf16 = capability >= (8, 0)
    return Hardware("cuda", "a card", 1, 24.0, capability, bf16, 0.0, 0)


@pytest.mark.parametrize(
    ("keys", "on_cpu", "on_card", "on_old_card"),
    [
        ({}, torch.float32, torch.bfloat16, torch.float16),
        ({"lora_r": 0}, torch.float32, torch.float32, torch.float32),
        ({"lora_r": 0, "dtype": "bfloat16"}, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32, torch.float32, torch.float32),
    ],
)
def test_the_type_of_the_weights(keys, on_cpu, on_card, on_old_card):
    machines = [Hardware("cpu", "cpu", 0, 0.0, None, False, 8.0, 2), card((8, 9)), card((7, 5))]
    found = [weights_dtype(config(**keys), machine) for machine in machines]
    assert found == [on_cpu, on_card, on_old_card]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"dtype": "float16"}, "dtype"),
        ({"dtype": "bfloat16", "fp16": True}, "the weights are bfloat16"),
        ({"dtype": "float32", "provider": "unsloth"}, "Unsloth's kernels are for 16 bits"),
    ],
)
def test_a_type_that_cannot_be_is_refused(keys, said):
    with pytest.raises(ConfigError, match=said):
        config(**keys)


def test_a_plan_says_that_a_card_has_no_bfloat16(tmp_path, command):
    path = tmp_path / "config.json"
    said = {"strategy": "sft", "model_name": str(ROOT / "examples/tiny/model"),
            "dataset": str(few("sft_train", 8)), "dtype": "bfloat16"}  # fmt: skip
    path.write_text(json.dumps(said))
    code, *said = command("plan", path, "--gpu", "t4")
    assert code == 0 and "T4 does not compute in bfloat16" in " ".join(" ".join(said).split())


def test_what_16_bits_lose_is_warned_of():
    full = {"lora_r": 0, "dtype": "bfloat16"}
    stochastic = {"optim": "adamw_torch_8bit", "optim_args": "bf16_stochastic_round=True"}
    assert "512th" in next(warnings(config(**full)))
    assert "512th" in next(warnings(config(**full, optim="adamw_torch_8bit")))
    for kept in ({"lora_r": 0}, {"dtype": "bfloat16"}, full | {"optim": "stable_adamw"},
                 full | stochastic):  # fmt: skip
        assert not list(warnings(config(**kept)))


@pytest.mark.slow
def test_all_weights_are_trained_in_16_bits_and_resume_bitwise(tmp_path, monkeypatch):
    whole = resumed_bitwise("sft", tmp_path, monkeypatch, *FULL, "save_steps=5")
    assert whole.after["eval_loss"] < whole.before["eval_loss"] - 0.5
    (path,) = whole.model_dir.glob("*.safetensors")
    assert {weight.dtype for weight in load_file(path).values()} == {torch.bfloat16}
    assert json.loads((whole.run_dir / "results.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["dpo", "reward"])
def test_other_strategies_train_all_weights_in_16_bits(strategy, tmp_path):
    done = quick(strategy, tmp_path, *FULL, "max_steps=3", "save_strategy=no")
    weights = load_file(next(done.model_dir.glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_lora_on_a_16_bit_base_keeps_its_adapter_in_32(tmp_path):
    done = quick("sft", tmp_path, "dtype=bfloat16", "max_steps=3", "save_strategy=no")
    weights = load_file(next(done.model_dir.glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "keys"), [("sft", FULL), ("qlora", ("dtype=bfloat16",))])
def test_what_was_trained_in_16_bits_is_exported_and_proven(strategy, keys, command, tmp_path):
    done = quick(strategy, tmp_path / "runs", *keys, "max_steps=3", "save_strategy=no")
    for kind in ("bf16", "f32"):
        said = ("--format", "merged", "--type", kind, "--output", tmp_path / kind)
        code, _, err = command("export", done.run_dir, *said)
        assert code == 0, err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft-full-1b", "sft-full-3b"])
def test_the_presets_of_all_weights_fit_24_gb(name, command, tmp_path):
    assert command("init", name, "--output", tmp_path / name)[0] == 0
    code, out, _ = command("plan", tmp_path / name / "1-sft.json", "--gpu", "rtx-4090", "--json")
    planned = json.loads(out)
    assert code == 0 and planned["fits"]
