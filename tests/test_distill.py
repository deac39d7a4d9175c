"""distill: a student learns from a teacher on its own answers."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import ROOT, held_out, quick, resumed_bitwise
from transformers import AutoModelForCausalLM

import modelforge
from modelforge import load_config
from modelforge.models.teacher import (
    find_teacher,
    load_teacher,
    refuse_other_vocabulary,
    teacher_without_weights,
)
from modelforge.plan import plan
from modelforge.registry import get_strategy
from modelforge.strategies.distill import Distill
from modelforge.training.prepare import prepare

TINY = ROOT / "examples" / "tiny"
CONFIG = ROOT / "configs" / "tiny" / "distill.json"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The tiny model after a few steps of sft."""
    folder = tmp_path_factory.mktemp("teacher")
    eight = held_out("sft", 4)
    return quick("sft", folder, max_steps=25, save_strategy="no", eval_dataset=eight).run_dir


def test_the_student_comes_nearer_to_its_teacher_and_a_stopped_run_goes_on(
    teacher, tmp_path, monkeypatch
):
    said = (f"teacher_model={teacher}", "max_steps=6", "save_steps=2", "logging_steps=1",
            "learning_rate=0.004", f"eval_dataset={held_out('prompts', 8)}",
            "per_device_train_batch_size=8", "gradient_accumulation_steps=2")  # fmt: skip
    whole = resumed_bitwise("distill", tmp_path, monkeypatch, *said, stop=7)
    assert whole.after["eval_loss"] < 0.8 * whole.before["eval_loss"]
    card = (whole.model_dir / "README.md").read_text()
    assert "distill" in card
    assert json.loads((whole.run_dir / "config.json").read_text())["teacher_model"] == str(teacher)


def test_the_teacher_stands_in_the_plan(teacher):
    values = {"strategy": "distill", "model_name": str(TINY / "model"), "dataset": "d",
              "max_seq_length": 64, "generation": {"max_new_tokens": 16}}  # fmt: skip
    found = plan(load_config({**values, "teacher_model": str(TINY / "model")}))
    weights = sum(p.stat().st_size for p in (TINY / "model").glob("*.safetensors"))
    assert found.parts["reference, reward, value"] > 0.3 * weights  # 16-bit on a card
    assert found.phases["generation"] > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher_model": None}, "is missing"),
        ({"teacher_model": "./none"}, "none"),
        ({"add_tokens": ["<new>"]}, "does not know"),
        ({"teacher_modell": "x"}, "did you mean 'teacher_model'"),
    ],
)
def test_what_cannot_be_distilled_is_refused(change, says, tmp_path):
    values = json.loads(CONFIG.read_text()) | {"teacher_model": str(TINY / "model")} | change
    values |= {"model_name": str(TINY / "model"), "output_dir": str(tmp_path)}
    for key in ("dataset", "eval_dataset"):
        values[key] = str(held_out("prompts", 8))
    with pytest.raises(modelforge.UserError, match=says):
        prepare(load_config(values))
    assert not list(tmp_path.iterdir())


def test_a_teacher_of_another_vocabulary_is_refused_before_it_is_loaded(tmp_path):
    other = tmp_path / "other"
    shutil.copytree(TINY / "model", other)
    words = json.loads((other / "tokenizer.json").read_text())
    first = next(iter(words["model"]["vocab"]))
    words["model"]["vocab"]["zzz"] = words["model"]["vocab"].pop(first)
    (other / "tokenizer.json").write_text(json.dumps(words))
    values = json.loads(CONFIG.read_text()) | {"model_name": str(TINY / "model")}
    values |= {"teacher_model": str(other), "output_dir": str(tmp_path / "runs")}
    values |= {"dataset": str(held_out("prompts", 8)), "eval_dataset": None}
    with pytest.raises(modelforge.ConfigError, match="another vocabulary"):
        prepare(load_config(values))


def test_a_reward_model_is_no_teacher(tmp_path):
    """Its trunk fits a language model too, and its head would stay behind."""
    shutil.copytree(TINY / "model", tmp_path / "scores")
    path = tmp_path / "scores" / "config.json"
    kind = {"architectures": ["LlamaForSequenceClassification"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | kind))
    config = load_config(CONFIG, overrides=[f"teacher_model={tmp_path / 'scores'}"])
    with pytest.raises(modelforge.ModelError, match=r"teacher_model: .*reward model"):
        refuse_other_vocabulary(config, find_teacher(str(tmp_path / "scores"), Path()))


def test_a_teacher_with_more_rows_than_the_student_is_cut_to_its(tmp_path):
    model = AutoModelForCausalLM.from_pretrained(TINY / "model")
    rows, wide = model.get_output_embeddings().weight.shape
    ids = torch.arange(6, 30)[None]
    with torch.no_grad():
        wanted = model.eval()(ids).logits
        model.resize_token_embeddings(rows + 64)
        model.get_output_embeddings().weight[rows:] = 3.0
    shutil.copytree(TINY / "model", tmp_path / "wide")
    model.save_pretrained(tmp_path / "wide")
    source = find_teacher(str(tmp_path / "wide"), Path())
    config = load_config(CONFIG, overrides=[f"teacher_model={tmp_path / 'wide'}"])
    refuse_other_vocabulary(config, source)
    found = load_teacher(source, config, rows=rows, device=torch.device("cpu"), use_4bit=False)
    assert torch.equal(found(ids).logits, wanted)
    assert teacher_without_weights(source, rows).lm_head.weight.shape == (rows, wide)


@pytest.mark.parametrize("strategy", ["grpo", "distill"])
def test_fewer_prompts_than_a_rollout_takes_are_refused(strategy, tmp_path, command):
    values = json.loads((CONFIG.parent / f"{strategy}.json").read_text())
    del values["$schema"], values["per_device_train_batch_size"]
    values |= {"model_name": str(TINY / "model"), "dataset": str(held_out("prompts", 6))}
    values |= {"output_dir": str(tmp_path / "runs"), "eval_dataset": None, "eval_split": 0}
    values |= {"teacher_model": values["model_name"]} if strategy == "distill" else {}
    path = tmp_path / "few.json"
    path.write_text(json.dumps(values))
    for name in ("check", "train"):
        code, _, error = command(name, path)
        assert code == 2 and "has 6 prompts to train on, and one rollout takes 16" in error, error
    assert not (tmp_path / "runs").exists()


def test_a_trl_without_its_trainer_is_named_with_the_version_that_has_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", SimpleNamespace(__version__="1.14.0"))
    with pytest.raises(
        modelforge.ConfigError, match=r"needs DistillationConfig.*1\.14.*trl>=1\.16"
    ):
        Distill.trl_config_class()


@pytest.mark.parametrize(
    ("name", "near"),
    [("orpo", "04_orpo.py"), ("simpo", "sigmoid_norm"), ("ipo", "loss_type ipo"),
     ("gkd", "strategy distill"), ("distil", "did you mean 'distill'")],
)  # fmt: skip
def test_a_method_without_a_strategy_leads_to_the_nearest(name, near):
    with pytest.raises(modelforge.ConfigError, match=f"'{name}' is unknown.*{near}"):
        get_strategy(name)


def test_batches_of_pairs_without_padding_which_trl_has_switched_off_are_refused():
    said = {"strategy": "dpo", "model_name": "m", "dataset": "d", "padding_free": True}
    with pytest.raises(modelforge.ConfigError, match=r"padding_free.*TRL 1\.14"):
        load_config(said)
