"""Real data and a real pretrained model, where they are at hand: recognised, and trained on."""

import itertools
import os
from pathlib import Path

import pytest

import modelforge

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


@pytest.mark.parametrize(("strategy", "name"), CASES)
def test_a_real_file_is_recognised_and_trains(strategy, name, tmp_path):
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
    result = modelforge.train(config)
    assert result.after
    assert (result.model_dir / "adapter_model.safetensors").is_file()
