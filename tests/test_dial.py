"""dial: models between a run's start and its end."""

import json
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tiny import ROOT, quick
from transformers import AutoModelForCausalLM

import modelforge
from modelforge.training.dial import _best, _condition, _parent, _refuse_unknown, dial

ALL_WEIGHTS = ("lora_r=0", "lora_alpha=null", "max_steps=2", "eval_strategy=no", "save_strategy=no")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run of all weights."""
    return quick("sft", tmp_path_factory.mktemp("full"), *ALL_WEIGHTS, "learning_rate=0.001")


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
        _refuse_unknown([_condition("words>=0.9")], figures[0.0])
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


@pytest.mark.slow
def test_a_share_of_all_weights_is_a_model_that_plain_transformers_loads(full, tmp_path):
    found = dial(full.run_dir, keep=["neutral_kl<0.02"], output=tmp_path / "part")
    assert found.figures[0.0]["neutral_kl"] < 1e-6
    for share, figures in ((0.0, full.before), (1.0, full.after)):
        assert found.figures[share]["eval_loss"] == pytest.approx(figures["eval_loss"], abs=1e-6)
    neutral = json.loads((full.run_dir / "results.json").read_text())["neutral"]
    assert found.figures[1.0]["neutral_kl"] == pytest.approx(neutral["kl"], rel=1e-6)
    assert found.chosen in (0.25, 0.5, 0.75)  # measured from both sides of the condition
    assert found.figures[found.chosen]["neutral_kl"] < 0.02 < neutral["kl"]
    part, start, end = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (found.folder, ROOT / "examples/tiny/model", full.model_dir)
    )
    for name, weight in part.items():
        assert torch.allclose(weight, torch.lerp(start[name], end[name], found.chosen), atol=1e-7)


def test_what_cannot_be_dialled_is_refused_before_a_model_is_loaded(full, tmp_path, command):
    def copied(name, gone):
        run = shutil.copytree(full.run_dir, tmp_path / name)
        path = run / gone
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return run

    run, damaged = full.run_dir, copied("damaged", "results.json")
    (damaged / "results.json").write_text('{"steps": ')
    for arguments, told in (
        ((tmp_path / "nowhere",), "holds no finished run"),
        ((copied("unfinished", "results.json"),), "holds no finished run"),
        ((copied("no model", "model"),), "holds no finished run"),
        ((damaged,), "results.json: is damaged"),
        ((run, "--keep", "loss about 2"), "is no condition"),
        ((run, "--at", "1.5"), "set a share from 0 (start) to 1"),
        ((run, "--at", "0.5", "--keep", "loss<2"), "--keep: has no effect"),
        ((run, "--output", tmp_path / "new"), "--output: has no effect"),
        ((run, "--at", "0.5", "--output", tmp_path), "is there already"),
    ):
        code, _, said = command("dial", *arguments)
        assert code == 2 and told in " ".join(said.split()), (arguments, said)
        assert "loading" not in said
    assert not list(run.glob("*model-at*"))


def test_the_run_it_began_with_is_left_out_where_its_data_are_gone(full, tmp_path, capsys):
    run = shutil.copytree(full.run_dir, tmp_path / "run")
    choices = json.loads((run / "choices.json").read_text())
    choices["said"]["dataset"] = "gone.jsonl"
    (run / "choices.json").write_text(json.dumps(choices))
    assert _parent(run / "model", trust_remote_code=False) is None
    said = " ".join(capsys.readouterr().err.split())
    assert "are left out" in said and "gone.jsonl" in said


@pytest.mark.parametrize(
    "more",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"target_parameters": ["q_proj.weight"]},
        {"init_lora_weights": "pissa"},
        {"peft_type": "LOHA"},
    ],
)
def test_an_adapter_that_is_no_sum_of_products_is_refused(full, tmp_path, more):
    run = shutil.copytree(full.run_dir, tmp_path / "run")
    path = run / "model" / "adapter_config.json"
    path.write_text(json.dumps({"peft_type": "LORA", "bias": "none"} | more))
    with pytest.raises(modelforge.RunError, match="a share of it is no adapter"):
        dial(run)
