"""Real data and a real pretrained model, where they are at hand: recognised, and trained on."""

import itertools
import math
import os
from pathlib import Path

import pytest
import torch

import modelforge
from modelforge import load_config
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MODELFORGE_SHARED", ROOT.parent / "shared"))
MODEL = SHARED / "models" / "stories260K"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not MODEL.is_dir(), reason="needs the folder of real data and models"),
]

DEMONSTRATIONS = [
    *("gpteacher_codegen", "gpteacher_roleplay", "gsm8k_train", "svamp", "truthfulqa"),
    *("self_instruct_user", "lf_kto_en", "advbench"),
]
PAIRS = [
    *("hh_helpful_base_train", "hh_harmless_base_train", "lf_dpo_en", "truthfulqa"),
    "anthropic_agreeableness",
]
PROMPTS = ["gsm8k_train", "svamp", "mt_bench", "xstest", "advbench"]
CASES = [
    *(("sft", name) for name in DEMONSTRATIONS),
    ("qlora", "gsm8k_train"),
    *(("reward", name) for name in PAIRS),
    *(("dpo", name) for name in PAIRS),
    *(("grpo", name) for name in PROMPTS),
]


@pytest.fixture(scope="module")
def whole():
    """Strategy → the run of its first file, from the config to the saved model."""
    return {}


@pytest.mark.parametrize(("strategy", "name"), CASES)
def test_a_real_file_is_recognised_and_trains(strategy, name, tmp_path, whole):
    # Whole files are read by test_data_load.py.
    data = tmp_path / f"{name}.jsonl"
    with (SHARED / "data" / data.name).open(encoding="utf-8") as rows:
        data.write_text("".join(itertools.islice(rows, 300)), encoding="utf-8")
    config = {
        "strategy": strategy,
        "model_name": str(MODEL),
        "dataset": str(data),
        "eval_split": 4,
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "max_seq_length": 256,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "output_dir": str(tmp_path),
    }
    if strategy == "grpo":
        config |= {"num_generations": 2, "generation": {"max_new_tokens": 8}}
        if name not in ("gsm8k_train", "svamp"):
            config["rewards"] = [{"name": "length", "arguments": {"target": 4}}]
    if strategy not in whole:
        whole[strategy] = result = modelforge.train(config)
        assert result.after
        assert (result.model_dir / "adapter_model.safetensors").is_file()
        return
    # A run's beginning and end are the same for all of its files: here the rows are trained on.
    prepared = prepare(load_config(config))
    trainer = build_trainer(prepared, load(prepared))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    assert trainer.train().global_step == 2
    assert all(math.isfinite(row["loss"]) for row in trainer.state.log_history if "loss" in row)
    # Two answers of one reward teach nothing, and a model this small often gives such.
    changed = any(not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    assert changed or strategy == "grpo"
    figures = [value for value in trainer.evaluate().values() if value is not None]
    assert figures and all(math.isfinite(value) for value in figures)
