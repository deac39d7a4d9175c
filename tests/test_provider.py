"""Loading: the provider's small interface, all weights or an adapter, 4-bit where it is exact."""

import json
from pathlib import Path

import pytest
import torch
from machines import CPU, card
from transformers.training_args import OptimizerNames

import modelforge
from modelforge import ModelError, Problem, get_strategy, load_config
from modelforge.models.lora import lora_defaults
from modelforge.models.providers import choice
from modelforge.models.providers.huggingface import HuggingFace, weights_dtype
from modelforge.models.source import find_model
from modelforge.training.defaults import Facts, fill

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "tiny" / "model"


# In this order.
ASKED = [
    *("problems", "start", "load_model_config", "load_tokenizer", "stop_tokens", "build_args"),
    "load_model",
]


class Recorder(HuggingFace):
    """A provider that notes what is asked of it, as another one would answer."""

    asked: list[str] = []

    def __getattribute__(self, name):
        if name in ASKED:
            Recorder.asked.append(name)
        return super().__getattribute__(name)


def config(tmp_path, **values):
    return {
        "strategy": "sft",
        "model_name": str(MODEL),
        "dataset": str(ROOT / "examples" / "tiny" / "data" / "sft_train.jsonl"),
        "eval_split": 8,
        "max_steps": 2,
        "max_seq_length": 64,
        "report_to": "none",
        "output_dir": str(tmp_path),
    } | values


def test_a_run_asks_a_provider_for_seven_things_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "get_provider", lambda name: Recorder)
    modelforge.train(config(tmp_path))
    assert Recorder.asked == ASKED


def test_a_refusing_provider_ends_the_run_with_its_reason(tmp_path, monkeypatch):
    class Refusing(HuggingFace):
        def problems(self, config, source, hardware):
            yield Problem("provider", "it is Sunday")
            yield Problem("provider", "the shops are shut")

    monkeypatch.setattr(choice, "get_provider", lambda name: Refusing)
    with pytest.raises(modelforge.RunError, match=r"(?s)it is Sunday.*shops are shut"):
        modelforge.train(config(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_all_weights_are_trained_and_saved_where_the_rank_is_zero(tmp_path):
    from transformers import AutoModelForCausalLM

    result = modelforge.train(config(tmp_path, lora_r=0, learning_rate=1e-3, seed=3))
    before = AutoModelForCausalLM.from_pretrained(MODEL).state_dict()
    after = AutoModelForCausalLM.from_pretrained(result.model_dir).state_dict()
    assert before.keys() == after.keys()
    assert all(not torch.equal(before[name], after[name]) for name in before if "proj" in name)
    assert "library_name: transformers" in (result.model_dir / "README.md").read_text()


def test_frozen_weights_are_16_bit_and_trained_ones_32_bit(tmp_path):
    lora = load_config(config(tmp_path))
    full = load_config(config(tmp_path, lora_r=0))
    assert weights_dtype(lora, card(16)) is torch.bfloat16
    assert weights_dtype(lora, card(16, bf16=False)) is torch.float16
    assert weights_dtype(full, card(16)) is torch.float32
    assert weights_dtype(lora, CPU) is torch.float32


def test_what_the_machine_cannot_do_is_turned_off_with_its_reason(tmp_path):
    asked = load_config(config(tmp_path, use_8bit=True, optim="paged_adamw_8bit", lora_r=4))
    choices = lora_defaults(asked, CPU)
    assert choices["use_8bit"].value is False and "CUDA" in choices["use_8bit"].reason
    assert choices["optim"].value == "adamw_8bit" and choices["optim"].reason
    assert choices["lora_alpha"].value == 32
    known = {each.value for each in OptimizerNames}
    for paged in (name for name in known if name.startswith("paged_")):
        asked = load_config(config(tmp_path, optim=paged))
        assert lora_defaults(asked, CPU)["optim"].value in known, paged
    asked = load_config(config(tmp_path, use_8bit=True, optim="paged_adamw_8bit", lora_r=4))
    assert set(lora_defaults(asked, card(16))) == {"lora_alpha"}


def test_a_length_beyond_the_models_context_is_lowered_with_the_reason(tmp_path):
    asked = load_config(config(tmp_path, max_seq_length=100_000))
    context = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"]
    fitted = fill(asked, Facts(get_strategy("sft")(), CPU, context=context))
    assert fitted.settings.max_seq_length == context
    assert "context" in fitted.choices["max_seq_length"].reason


def test_a_hub_id_is_no_path_and_a_path_is_no_hub_id(tmp_path):
    def find(name):
        return find_model(name, base_dir=tmp_path, revision="main", where="model_name")

    assert find("org/model").base == "org/model" and find("org/model").revision == "main"
    (tmp_path / "models" / "mine").mkdir(parents=True)
    with pytest.raises(ModelError, match="did you mean"):
        find("./models/mnie")
