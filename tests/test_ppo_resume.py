"""A PPO run that was killed goes on as if it never was; several processes are one run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelforge.errors import RunError

sys.path.append(str(Path(__file__).parent))  # the tests are no package

from ppo_parts import (
    PROMPTS,
    brief,
    cheerful,
    logs,
    policy,
    trainer,
)

EVERYTHING = {
    "value_mode": "adapter", "reference": "initial", "ref_update_steps": 4, "kl_target": 0.5,
    "kl_horizon": 50, "kl_stop": 5e-3, "reward_normalization": "standardize",
    "reward_normalize_sources": True, "gradient_accumulation_steps": 2, "steps_per_generation": 4,
    "per_device_train_batch_size": 2, "entropy_coef": 0.01, "logging_steps": 3,
}  # fmt: skip
REFERENCE = {"reward_normalization": "reference"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kills", "rows"),
    [({}, (1, 4, 6), 500), (EVERYTHING, (2, 5, 8), 500), (REFERENCE, (3, 7), 20)],
    ids=["plain, within and between rollouts", "everything on", "over several epochs"],
)
def test_a_killed_run_goes_on_as_if_never_killed(tmp_path, settings, kills, rows):
    def run(folder, resume=None):
        t = trainer(
            folder, policy(init_lora_weights=False), rewards=(cheerful, brief), max_steps=12,
            data=PROMPTS.select(range(rows)),
            **{"save_strategy": "steps", "save_steps": 1, **settings},
        )  # fmt: skip
        t.train(resume_from_checkpoint=resume)
        return t

    whole = run(tmp_path / "whole")
    timings = {"step_time", "epoch", "total_flos"}
    for step in kills:
        resumed = run(tmp_path / f"from-{step}", str(tmp_path / "whole" / f"checkpoint-{step}"))
        for ours, theirs in zip(logs(resumed), logs(whole), strict=True):
            assert {k: v for k, v in ours.items() if k not in timings} == {
                k: v for k, v in theirs.items() if k not in timings
            }
        for (name, ours), theirs in zip(
            resumed.model.named_parameters(), whole.model.parameters(), strict=True
        ):
            assert torch.equal(ours, theirs), name
        assert resumed.kl.coef == whole.kl.coef
        assert resumed.shaper.moments.state() == whole.shaper.moments.state()


def test_a_checkpoint_that_does_not_fit_is_refused(tmp_path):
    t = trainer(tmp_path, max_steps=1, save_strategy="steps", save_steps=1)
    t.train()
    checkpoint = tmp_path / "checkpoint-1"
    other = trainer(tmp_path / "other", policy(r=8), max_steps=2)
    with pytest.raises((RunError, RuntimeError), match=r"fit|size mismatch"):
        other.train(resume_from_checkpoint=str(checkpoint))
    (checkpoint / "ppo" / "value_head.safetensors").unlink()
    with pytest.raises(RunError, match="no PPO checkpoint"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    state = checkpoint / "modelforge" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"processes": 2}))
    with pytest.raises(RunError, match="written by 2 processes"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    state.unlink()
    with pytest.raises(RunError, match="no checkpoint of ModelForge"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=str(checkpoint))


TWO = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
import ppo_parts as parts

def run(folder, mode, resume=None):
    t = parts.trainer(folder, save_strategy="steps", save_steps=3, max_steps=6, kl_target=1.0,
                      kl_stop=0.5, value_mode=mode)
    t.train(resume_from_checkpoint=resume)
    assert t.accelerator.num_processes == 2
    own = torch.cat([b["advantages"][b["loss_mask"] > 0] for b in t._buffered_inputs]).double()
    sums = torch.stack([own.sum(), (own**2).sum(), torch.tensor(len(own)).double()])
    dist.all_reduce(sums)
    assert abs(sums[0] / sums[2]) < 1e-3 and abs(sums[1] / sums[2] - 1) < 1e-3, sums
    assert abs(own.mean()) > 1e-4  # neither process is white alone
    trained = [p.detach().flatten() for p in t.model.parameters() if p.requires_grad]
    both = [torch.empty_like(torch.cat(trained)) for _ in range(2)]
    dist.all_gather(both, torch.cat(trained))
    assert torch.equal(*both)
    return parts.logs(t)

for mode in ("trunk_detached", "adapter"):
    folder = {folder!r} + "/" + mode
    whole = run(folder + "/whole", mode)
    resumed = run(folder + "/resumed", mode, folder + "/whole/checkpoint-3")
    for a, b in zip(whole, resumed, strict=True):
        for key in ("loss", "reward", "kl/reference", "value/loss", "kl/coef"):
            assert a[key] == b[key], (key, a, b)
    print("both agree")
"""


@pytest.mark.slow
def test_two_processes_whiten_together_stay_equal_and_resume(tmp_path, python):
    script = tmp_path / "two.py"
    tests = str(Path(__file__).parent)
    script.write_text(TWO.format(tests=tests, folder=str(tmp_path)))
    result = subprocess.run(
        [python, "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)],
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("both agree") == 4
