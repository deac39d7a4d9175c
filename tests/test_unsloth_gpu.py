"""The real Unsloth: its kernels on a GPU; and on a CPU its loader and its rewritten trainers.

Unsloth has no kernels for a CPU. Releases since 2026.10.8 load and adapt with transformers and
PEFT there; and its rewrite of TRL's trainers runs anywhere. Both must train as TRL itself does.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "tiny"

pytestmark = pytest.mark.slow
installed = pytest.mark.skipif(find_spec("unsloth") is None, reason="Unsloth is not installed")
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU in this machine")
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: tested on that")
cpu_loader = pytest.mark.skipif(
    find_spec("unsloth_zoo") is None
    or not (Path(find_spec("unsloth_zoo").origin).parent / "cpu").is_dir(),
    reason="this Unsloth cannot load on a CPU",
)

# A run in a process of its own: after Unsloth nothing else may run in it.
RUN = """
import json, sys
import modelforge.training.resolve
from modelforge import Hardware, train

values, how = json.loads(sys.argv[1]), sys.argv[2]
if how != "as it is":
    card = Hardware("cuda", "no card", 1, 24.0, (8, 6), False, 64.0, 8)
    choose = modelforge.training.resolve.choose_provider
    modelforge.training.resolve.choose_provider = lambda *facts: choose(*facts[:-1], card)
if how == "its trainers":
    import unsloth as real
    from unsloth.models import rl
    rl.patch_trl_rl_trainers()
    import peft, transformers

    class Stock:
        @staticmethod
        def from_pretrained(model_name, max_seq_length, num_labels=None, **_):
            auto = transformers.AutoModelForCausalLM
            if num_labels:
                auto = transformers.AutoModelForSequenceClassification
            labels = {"num_labels": num_labels} if num_labels else {}
            model = auto.from_pretrained(model_name, dtype="float32", **labels)
            model.max_seq_length = max_seq_length
            return model, None

        @staticmethod
        def get_peft_model(model, use_gradient_checkpointing, random_state, **values):
            transformers.set_seed(random_state)
            task = "SEQ_CLS" if "Classification" in type(model).__name__ else "CAUSAL_LM"
            return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **values))

    real.FastLanguageModel = Stock
result = train(values)
lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
losses = [row["loss"] for row in map(json.loads, lines) if "loss" in row]
print("RESULT" + json.dumps({"losses": losses, "before": result.before, "after": result.after}))
"""


def run(strategy, folder, *, provider, how="as it is", environment=None, **values):
    shared = json.loads((CONFIGS / f"{strategy}.json").read_text()) | {
        "provider": provider,
        "max_steps": 5,
        "logging_steps": 1,
        "output_dir": str(folder),
        "report_to": "none",
        "per_device_train_batch_size": 8,
        "gradient_checkpointing": False,
    }
    for key in ("model_name", "dataset", "eval_dataset"):
        shared[key] = str((CONFIGS / shared[key]).resolve())
    del shared["$schema"]
    done = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(shared | values), how],
        capture_output=True,
        text=True,
        env=os.environ | {"UNSLOTH_COMPILE_LOCATION": str(folder / "cache")} | (environment or {}),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("RESULT")[2])


ALIKE = {"hardware_profile": "cpu", "optim": "adamw_torch"}
HOW = {
    "its trainers": {"UNSLOTH_ALLOW_CPU": "1"},
    "its loader": {"UNSLOTH_DISABLE_CPU_FALLBACK": "0"},
}


@installed
@no_gpu
@pytest.mark.parametrize(
    ("strategy", "how"),
    [
        ("sft", "its trainers"),
        ("reward", "its trainers"),
        ("dpo", "its trainers"),
        pytest.param("sft", "its loader", marks=cpu_loader),
    ],
)
def test_on_a_cpu_it_trains_as_trl_does(strategy, how, tmp_path):
    plain = run(strategy, tmp_path / "plain", provider="huggingface", **ALIKE)
    found = run(
        strategy,
        tmp_path / "unsloth",
        provider="unsloth",
        how=how,
        environment=HOW[how],
        **ALIKE,
    )
    assert found["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert found["after"]["eval_loss"] == pytest.approx(plain["after"]["eval_loss"], abs=1e-5)


@installed
@gpu
@pytest.mark.parametrize("strategy", ["sft", "qlora", "reward", "dpo"])
def test_on_a_gpu_it_trains_near_what_trl_does(strategy, tmp_path):
    """In bfloat16 and through other kernels: near, not equal."""
    plain = run(strategy, tmp_path / "plain", provider="huggingface")
    found = run(strategy, tmp_path / "unsloth", provider="unsloth")
    assert len(found["losses"]) == 5
    assert found["losses"] == pytest.approx(plain["losses"], rel=0.05, abs=0.02)


@installed
@gpu
def test_auto_takes_it_on_a_gpu(tmp_path):
    run("sft", tmp_path, provider="auto", run_name="auto")
    choices = json.loads((tmp_path / "auto" / "choices.json").read_text())["choices"]
    assert choices["provider"]["value"] == "unsloth", choices["provider"]["reason"]
