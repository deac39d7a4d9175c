"""A base whose files do not hold what its config says: refused before it is loaded, or at once."""

import pytest
import torch
from bases import base
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from tiny import few

from modelforge import ModelError, load_config
from modelforge.training import shape
from modelforge.training.preflight import all_are_numbers, same_as_base
from modelforge.training.prepare import prepare
from modelforge.training.run import load


def config(model, strategy="sft"):
    data = few("preference_train" if strategy == "reward" else "sft_train", 8)
    values = {"strategy": strategy, "model_name": str(model), "max_steps": 1, "report_to": "none"}
    values |= {"dataset": str(data), "max_seq_length": 64, "output_dir": str(model / "runs")}
    return load_config(values)


def changed(folder, change, **keys):
    """The tiny model with other weights, or with another config.json."""
    weights = load_file(base(folder, **keys) / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without(weights, *parts):
    return {name: each for name, each in weights.items() if not any(p in name for p in parts)}


def narrow(weights):
    name = "model.layers.0.self_attn.q_proj.weight"
    return weights | {name: weights[name][:, :10].contiguous()}


WRONG = {
    "a layer is missing": (lambda w: without(w, "layers.1."), {}, "lack 9 of its weights"),
    "the config has a layer more": (dict, {"num_hidden_layers": 5}, "lack 9 of its weights"),
    "another shape": (narrow, {}, r"q_proj.weight is \[128, 10\].* and \[128, 128\]"),
    "the head of an untied one": (
        lambda w: without(w, "lm_head"), {"tied": False}, "lack 1 of its weights, such as lm_head",
    ),
}  # fmt: skip
RIGHT = {
    "the trunk alone": (lambda w: {k.removeprefix("model."): v for k, v in w.items()}, "sft"),
    "tied, saved as the head": (
        lambda w: without(w, "embed") | {"lm_head.weight": w["model.embed_tokens.weight"]}, "sft",
    ),
    "under a score head": (dict, "reward"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_do_not_fit_their_config_are_refused_by_check(name, tmp_path, monkeypatch):
    change, keys, says = WRONG[name]
    wrong = config(changed(tmp_path / "m", change, **keys))
    with pytest.raises(ModelError, match=says):
        prepare(wrong)
    if "lack" in says:  # where the files name them otherwise, they are missed when they are loaded
        monkeypatch.setattr(shape, "misfits", lambda *args: ())
        with pytest.raises(ModelError, match=says):
            load(prepare(wrong))


@pytest.mark.parametrize("name", RIGHT)
def test_names_of_other_savers_are_understood(name, tmp_path):
    change, strategy = RIGHT[name]
    assert load(prepare(config(changed(tmp_path / "m", change), strategy)))


def test_a_config_that_transformers_cannot_build_is_one_message(tmp_path):
    with pytest.raises(ModelError, match="not a multiple of the number of attention heads"):
        prepare(config(base(tmp_path / "m", num_attention_heads=3)))


def test_an_untrained_adapter_that_changes_the_base_is_refused(tmp_path, capsys):
    prepared = prepare(config(base(tmp_path / "m")))
    loaded = load(prepared)
    model = get_peft_model(loaded.model, loaded.peft_config)
    same_as_base(prepared, model)
    assert "the untrained adapter gives the same answers as the base" in capsys.readouterr().err
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight += 0.5 * ("lora_B" in name)
    with pytest.raises(
        ModelError, match=r"answers '.*' with its untrained adapter and '.*' without"
    ):
        same_as_base(prepared, model)


def test_weights_that_are_no_numbers_are_refused_before_training(tmp_path):
    def spoilt(weights):
        weights["model.layers.2.mlp.up_proj.weight"][3, 4] = torch.nan
        return weights

    prepared = prepare(config(changed(tmp_path / "m", spoilt)))
    with pytest.raises(ModelError, match=r"layers.2.mlp.up_proj.weight holds values that are no"):
        all_are_numbers(prepared, load(prepared).model)
