"""Bases whose weights are quantised where they are stored."""

import json
import shutil

import pytest
from tiny import ROOT, few
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from modelforge import UserError, load_config
from modelforge.training.prepare import prepare
from modelforge.training.run import load

TINY = ROOT / "examples" / "tiny" / "model"


@pytest.fixture(scope="module")
def in_4bit(tmp_path_factory):
    """The tiny model as others publish a base in 4-bit."""
    folder = tmp_path_factory.mktemp("stored") / "bnb-4bit"
    shutil.copytree(TINY, folder)
    asked = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(
        TINY, quantization_config=asked, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


def config(model, folder, **said):
    values = {"strategy": "sft", "model_name": str(model), "dataset": str(few("sft_train", 8)),
              "eval_split": 0, "max_seq_length": 64, "report_to": "none", "max_steps": 2,
              "optim": "adamw_torch", "output_dir": str(folder / "runs")}  # fmt: skip
    return load_config(values | said)


def test_a_base_that_is_stored_in_4_bit_is_trained_and_recorded_so(in_4bit, tmp_path, capfd):
    prepared = prepare(config(in_4bit, tmp_path))
    choices = prepared.config.choices
    assert [choices[key].value for key in ("use_4bit", "use_8bit", "use_double_quant")] == [
        *(True, False, False)
    ]
    assert "stored in 4-bit" in choices["use_4bit"].reason
    model = load(prepared).model
    assert model.is_loaded_in_4bit
    assert "already has" not in capfd.readouterr().err  # of transformers, on a second config


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"use_8bit": True}, "use_8bit: is true, and the weights of the model are stored in 4-bit"),
        ({"use_4bit": False}, "use_4bit: is false"),
        ({"lora_r": 0}, "lora_r: 0 trains all weights, and those of the model are quantised"),
    ],
)
def test_what_a_stored_form_cannot_be_is_refused(in_4bit, tmp_path, said, words):
    with pytest.raises(UserError) as refused:
        prepare(config(in_4bit, tmp_path, **said))
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"quant_method": "nosuch"}, "stored in nosuch: Unknown quantization type"),
        ({"quant_method": "aqlm", "nbits_per_codebook": 16}, "stored in aqlm: "),
        ({"bits": 4}, "stored in a form without a name"),
        ("gptq", "no usable model there"),
    ],
)
def test_a_stored_form_that_cannot_be_loaded_here_is_refused_before_the_weights(
    stored, words, tmp_path
):
    shutil.copytree(TINY, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": stored}))
    with pytest.raises(UserError) as refused:
        prepare(config(tmp_path / "model", tmp_path))
    assert words in str(refused.value)
