"""dial: models between a run's start and its end."""

import json

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tiny import quick

import modelforge
from modelforge.training.dial import _best, _condition, dial


def test_a_condition_names_a_figure_and_the_best_that_meets_it_is_taken():
    figures = {
        0.0: {"eval_rewards/accuracies": 0.5, "parent.eval_loss": 1.0},
        0.5: {"eval_rewards/accuracies": 0.8, "parent.eval_loss": 1.1},
        1.0: {"eval_rewards/accuracies": 0.9, "parent.eval_loss": 1.6},
    }
    measure = modelforge.Measure("eval_rewards/accuracies", "", higher_is_better=True)
    for text, chosen in (
        ("parent.eval_loss<=1.2", 0.5),
        ("parent.loss < 2", 1.0),
        ("accuracies>=0.5", 1.0),
    ):
        assert _best(figures, [_condition(text)], measure) == chosen
    with pytest.raises(modelforge.RunError, match="no λ meets it"):
        _best(figures, [_condition("parent.eval_loss<=0.5")], measure)
    with pytest.raises(modelforge.RunError, match="is no figure of this run"):
        _best(figures, [_condition("words>=0.9")], measure)
    with pytest.raises(modelforge.RunError, match="is no condition"):
        _condition("loss about 2")


@pytest.mark.slow
def test_a_share_between_two_adapters_is_one_that_plain_peft_loads(tmp_path):
    start = quick("sft", tmp_path, "max_steps=3")
    said = [f"model_name={start.run_dir}", "max_steps=3", "eval_strategy=no"]
    end = quick("sft", tmp_path, *said, "learning_rate=0.01")
    found = dial(end.run_dir, at=0.5, output=tmp_path / "half")
    assert found.figures[0.0]["eval_loss"] == pytest.approx(end.before["eval_loss"], abs=1e-4)
    assert found.figures[1.0]["eval_loss"] == pytest.approx(end.after["eval_loss"], abs=1e-4)
    assert found.figures[0.5]["parent.eval_loss"] > 0
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "half")
    assert model.peft_config["default"].r == 32
    merged = model.merge_and_unload().state_dict()

    def whole(folder):
        loaded = AutoPeftModelForCausalLM.from_pretrained(folder)
        return loaded.merge_and_unload().state_dict()

    first, last = whole(start.model_dir), whole(end.model_dir)
    for name, weight in merged.items():
        assert torch.allclose(weight, (first[name] + last[name]) / 2, atol=1e-5)
    about = json.loads((tmp_path / "half" / "dial.json").read_text())
    assert about["lambda"] == 0.5 and load_file(tmp_path / "half" / "adapter_model.safetensors")
    with pytest.raises(modelforge.RunError, match="is there already"):
        dial(end.run_dir, at=0.5, output=tmp_path / "half")
