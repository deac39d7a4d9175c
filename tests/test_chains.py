"""What one strategy leaves is a model for each other one: trained right, or refused by `check`."""

import json
from pathlib import Path

import pytest
import torch
from bases import TINY

import modelforge
from modelforge import ModelError
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

DATA = Path(__file__).parents[1] / "examples" / "tiny" / "data"
ROWS = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference"}
STRATEGIES = ("sft", "qlora", "reward", "dpo", "grpo", "rloo", "ppo")


def config(strategy, folder, **said):
    path = folder / f"{strategy}.jsonl"
    rows = (DATA / f"{ROWS.get(strategy, 'prompts')}_train.jsonl").read_text().splitlines()[:8]
    path.write_text("\n".join(rows))
    values = {
        "strategy": strategy, "model_name": str(TINY), "dataset": str(path), "max_steps": 1,
        "learning_rate": 1e-2, "per_device_train_batch_size": 8, "max_seq_length": 32,
        "save_strategy": "no", "report_to": "none", "output_dir": str(folder / "runs"),
        "optim": "adamw_torch", "lora_r": 4,
    }  # fmt: skip
    if strategy in ("grpo", "rloo", "ppo"):
        values |= {"generation": {"max_new_tokens": 4}, "rewards": ["numeric_answer"]}
    return modelforge.load_config(values | said)


@pytest.fixture(scope="module")
def left(tmp_path_factory):
    """The run of a language model and of a reward model, as an adapter and with all weights."""
    folder = tmp_path_factory.mktemp("left")
    return {
        (kind, rank): modelforge.train(config(kind, folder, lora_r=rank)).run_dir
        for kind in ("sft", "reward")
        for rank in (4, 0)
    }


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0], ids=["adapter", "all weights"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_language_model_is_trained_on_by_each_strategy(left, strategy, rank, tmp_path):
    start = left["sft", rank]
    prepared = prepare(config(strategy, tmp_path, model_name=str(start)))
    trainer = build_trainer(prepared, load(prepared))
    ids = torch.tensor([[1, 5, 90, 120, 33, 6, 47, 2]])
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    begun = modelforge_states(start, ids)
    with torch.no_grad():
        states = base.model(ids)[0]
    exact = strategy != "qlora"  # whose base is rounded
    assert torch.allclose(states, begun, atol=1e-4 if exact else 3.0)
    assert any(p.requires_grad for p in model.parameters())


def modelforge_states(run, ids):
    """The last hidden states of a run's model, by plain transformers and PEFT."""
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    adapter = (run / "model" / "adapter_config.json").is_file()
    kind = AutoPeftModelForCausalLM if adapter else AutoModelForCausalLM
    model = kind.from_pretrained(run / "model").eval()
    base = model.get_base_model() if adapter else model
    with torch.no_grad():
        return base.model(ids)[0]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0], ids=["adapter", "all weights"])
@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "reward"])
def test_a_reward_model_is_no_language_model(left, strategy, rank, tmp_path):
    chained = config(strategy, tmp_path, model_name=str(left["reward", rank]))
    with pytest.raises(ModelError, match="reward model") as refused:
        prepare(chained)
    assert refused.value.problems[0].fix


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 0], ids=["adapter", "all weights"])
def test_a_reward_model_is_trained_on_as_one(left, rank, tmp_path):
    start = left["reward", rank]
    prepared = prepare(config("reward", tmp_path, model_name=str(start)))
    trainer = build_trainer(prepared, load(prepared))
    from safetensors.torch import load_file

    name = "adapter_model" if rank else "model"
    weights = load_file(start / "model" / f"{name}.safetensors")
    (head,) = [w for key, w in weights.items() if "score" in key.split(".")]
    trained = [
        p for n, p in trainer.model.named_parameters() if ".score." in f".{n}" and p.requires_grad
    ]
    assert any(torch.equal(head, p) for p in trained)


@pytest.mark.slow
def test_a_reward_model_on_an_sft_adapter_is_saved_for_plain_peft_and_for_ppos_base(left, tmp_path):
    start = left["sft", 4]
    result = modelforge.train(config("reward", tmp_path, model_name=str(start), max_steps=2))
    saved = json.loads((result.run_dir / "results.json").read_text())["saved"]
    assert saved["loaded"] and saved["difference"] < 1e-4
    adapter = json.loads((result.model_dir / "adapter_config.json").read_text())
    before = json.loads((start / "model" / "adapter_config.json").read_text())
    assert adapter["task_type"] == "SEQ_CLS" and adapter["r"] == before["r"]
    assert adapter["base_model_name_or_path"] == before["base_model_name_or_path"]
    policy = config(
        "ppo", tmp_path, model_name=str(start), reward_model=str(result.run_dir), rewards=None
    )
    modelforge.train(policy)


@pytest.mark.slow
def test_a_classifier_of_several_labels_is_no_reward_model(left, tmp_path):
    import shutil

    folder = tmp_path / "classifier"
    shutil.copytree(left["reward", 0] / "model", folder)
    path = folder / "config.json"
    labels = {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
    path.write_text(json.dumps(json.loads(path.read_text()) | labels))
    with pytest.raises(ModelError, match="2 labels"):
        prepare(config("reward", tmp_path, model_name=str(folder)))


@pytest.mark.slow
def test_an_adapter_made_for_another_base_is_refused(left, tmp_path):
    import shutil

    from bases import base
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = tmp_path / "adapter"
    shutil.copytree(left["sft", 4] / "model", folder)
    other = base(tmp_path / "other", intermediate_size=256)
    shape = AutoConfig.from_pretrained(other)
    AutoModelForCausalLM.from_config(shape).save_pretrained(other)
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(other)})
    )
    with pytest.raises(ModelError, match="made for another base"):
        prepare(config("sft", tmp_path, model_name=str(folder)))
