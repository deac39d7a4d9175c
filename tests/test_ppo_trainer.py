"""PPOTrainer on the tiny model: its loss, its rollouts, resuming, and the hooks it leans on."""

import inspect
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOTrainer

from modelforge.errors import ConfigError, ModelError, RunError
from modelforge.ppo.config import PPOConfig
from modelforge.ppo.roles import CRITIC, POLICY, REFERENCE, adapter_parameters, inference, using
from modelforge.ppo.trainer import HOOKS, METRICS, STATE, PPOTrainer

TINY = Path(__file__).parent.parent / "examples" / "tiny" / "model"
TOKENIZER = AutoTokenizer.from_pretrained(TINY, padding_side="left")
PROMPTS = load_dataset(
    "json", data_files=str(TINY.parent / "data" / "prompts_train.jsonl"), split="train"
).select_columns(["prompt"])


def cheerful(completions, **kwargs):
    return [c[0]["content"].count("!") + 0.01 * len(c[0]["content"]) for c in completions]


def brief(completions, **kwargs):
    return [-0.1 * len(c[0]["content"].split()) for c in completions]


def policy(**lora):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    return get_peft_model(
        base,
        LoraConfig(
            **{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM",
               "lora_dropout": 0.1, **lora}
        ),
    )  # fmt: skip


def trainer(folder, model=None, rewards=(cheerful,), data=PROMPTS, callbacks=None, **settings):
    """Rollouts of 8 completions, two minibatches of 4, two epochs: a cycle of four updates."""
    config = PPOConfig(
        **{
            "output_dir": str(folder), "use_cpu": True, "bf16": False, "report_to": "none",
            "disable_tqdm": True, "save_strategy": "no", "logging_steps": 1,
            "per_device_train_batch_size": 4, "steps_per_generation": 2, "num_iterations": 2,
            "gradient_accumulation_steps": 1, "max_completion_length": 12, "max_steps": 8,
            "learning_rate": 2e-3, "value_learning_rate": 1e-2, "gradient_checkpointing": False,
            **settings,
        }
    )  # fmt: skip
    return PPOTrainer(
        policy() if model is None else model, list(rewards), config, train_dataset=data,
        processing_class=TOKENIZER, callbacks=callbacks,
    )  # fmt: skip


def first_minibatch(t):
    """A rollout and its first minibatch, as the training loop would come by them."""
    t.create_optimizer()
    t.current_gradient_accumulation_steps = 1
    t.model.train()
    return t._prepare_inputs(next(iter(t.get_train_dataloader())))


def logs(t):
    return [entry for entry in t.state.log_history if "loss" in entry]


# --- the contract with TRL -----------------------------------------------------------------------


def test_trl_still_has_the_hooks_this_trainer_leans_on():
    for name, parameters in HOOKS.items():
        hook = getattr(GRPOTrainer, name, None)
        assert hook is not None, f"TRL's GRPOTrainer has no {name} any more"
        known = inspect.signature(hook).parameters
        takes_any = any(p.kind is p.VAR_POSITIONAL for p in known.values())
        missing = [p for p in parameters if p not in known and not takes_any]
        assert not missing, f"{name} no longer takes {missing}: {list(known)}"
        assert name in vars(PPOTrainer), f"HOOKS names {name}, which PPOTrainer does not override"


def test_trl_still_keeps_the_state_that_a_checkpoint_needs(tmp_path):
    t = trainer(tmp_path)
    for name in (*STATE, "eos_token_ids", "reward_func_names", "reward_weights"):
        assert hasattr(t, name), f"TRL's GRPOTrainer has no {name} any more"
    batch = first_minibatch(t)
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"):
        assert key in batch, f"TRL's rollout has no {key} any more"
    assert len(t._buffered_inputs) == t.args.steps_per_generation
    assert t._raw_rewards.shape == (8, 1)


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["bnpo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("value_mode", ["trunk_detached", "trunk", "adapter"])
def test_the_loss_is_ppos_written_by_hand(tmp_path, loss_type, value_mode):
    t = trainer(
        tmp_path, loss_type=loss_type, value_mode=value_mode, epsilon=0.2, epsilon_high=0.3,
        entropy_coef=0.01, value_coef=0.7, value_clip_range=0.15,
    )  # fmt: skip
    batch = first_minibatch(t)
    torch.manual_seed(0)  # as if the policy and the critic had moved since the rollout
    for key in ("old_per_token_logps", "old_values", "returns"):
        batch[key] = batch[key] + 0.3 * torch.randn_like(batch[key])

    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
    length, mask = batch["completion_ids"].size(1), batch["completion_mask"].float()
    out = t.model(input_ids=ids, attention_mask=attention, output_hidden_states=True)
    all_logps = out.logits[:, :-1].log_softmax(-1)[:, -length:]
    logps = all_logps.gather(-1, batch["completion_ids"][..., None])[..., 0]
    entropy = -(all_logps.exp() * all_logps).sum(-1)
    hidden = out.hidden_states[-1]
    if value_mode == "adapter":
        with using(t.model, CRITIC):
            hidden = t.model(ids, attention, output_hidden_states=True).hidden_states[-1]
    values = t.critic.head.linear(hidden[:, -length - 1 : -1])[..., 0]

    ratio, advantages = (logps - batch["old_per_token_logps"]).exp(), batch["advantages"]
    tokens = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages) * mask
    surrogate = {
        "bnpo": tokens.sum() / mask.sum(),
        "grpo": (tokens.sum(1) / mask.sum(1)).mean(),
        "dr_grpo": tokens.sum() / (len(mask) * 12),
    }[loss_type]
    moved = batch["old_values"] + (values - batch["old_values"]).clamp(-0.15, 0.15)
    errors = torch.max((values - batch["returns"]) ** 2, (moved - batch["returns"]) ** 2)
    by_hand = (
        surrogate
        - 0.01 * (entropy * mask).sum() / mask.sum()
        + 0.7 * 0.5 * (errors * mask).sum() / mask.sum()
    )
    loss = t.compute_loss(t.model, batch)
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)

    loss.backward()
    gradients = {n: p.grad for n, p in t.model.named_parameters() if p.grad is not None}
    t.model.zero_grad()
    by_hand.backward()
    for name, gradient in gradients.items():
        # by hand, the trunk takes part: of a detached one the policy's gradient is another
        if value_mode != "trunk_detached" or "v_head" in name:
            assert torch.allclose(gradient, t.model.get_parameter(name).grad, atol=1e-5), name


def test_a_detached_trunk_gets_no_gradient_from_the_value_loss(tmp_path):
    gradients = {}
    for mode in ("trunk_detached", "trunk"):
        t = trainer(tmp_path, value_mode=mode)
        batch = first_minibatch(t)
        batch["advantages"] = torch.zeros_like(batch["advantages"])
        batch["returns"] = batch["returns"] + 1
        t.compute_loss(t.model, batch).backward()
        gradients[mode] = sum(
            p.grad.abs().sum() for p in adapter_parameters(t.model, POLICY).values()
        )
        assert t.critic.head.linear.weight.grad.abs().sum() > 0
    assert gradients["trunk_detached"] == 0 < gradients["trunk"]


@pytest.mark.parametrize("value_mode", ["trunk", "adapter"])
def test_gradient_checkpointing_changes_no_gradient(tmp_path, value_mode):
    found = {}
    for checkpointing in (False, True):
        t = trainer(
            tmp_path, policy(init_lora_weights=False), value_mode=value_mode,
            gradient_checkpointing=checkpointing,
        )  # fmt: skip
        if checkpointing:  # as transformers does when training begins
            t.model.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        batch = first_minibatch(t)
        t.compute_loss(t.model, batch).backward()
        found[checkpointing] = {
            n: p.grad.clone() for n, p in t.model.named_parameters() if p.grad is not None
        }
        assert t.model.is_gradient_checkpointing is checkpointing
    assert found[True].keys() == found[False].keys()
    for name, gradient in found[False].items():
        assert torch.allclose(found[True][name], gradient, atol=1e-6), name


# --- the rollout ---------------------------------------------------------------------------------


def test_rewards_kl_and_advantages_are_put_together_as_written(tmp_path):
    t = trainer(
        tmp_path, policy(init_lora_weights=False), rewards=(cheerful, brief),
        reward_weights=[0.7, 0.3], kl_coef=0.3, missing_eos_penalty=2.0, normalize_advantages=False,
        gamma=1.0, gae_lambda=1.0, max_completion_length=5,
    )  # fmt: skip
    first_minibatch(t)
    for batch in t._buffered_inputs:
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)
        length, mask = batch["completion_ids"].size(1), batch["completion_mask"].float()
        logps = {}
        for adapter in (POLICY, None):
            with inference(t.model), using(t.model, adapter):
                logits = t.model(input_ids=ids, attention_mask=attention).logits
            picked = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
            logps[adapter] = picked[:, -length:]
        texts = TOKENIZER.batch_decode(batch["completion_ids"], skip_special_tokens=True)
        chats = [[{"content": text}] for text in texts]
        reward = 0.7 * torch.tensor(cheerful(chats)) + 0.3 * torch.tensor(brief(chats))
        lengths = mask.sum(1).long()
        ends = batch["completion_ids"][torch.arange(len(ids)), lengths - 1]
        reward = reward - 2.0 * (ends != TOKENIZER.eos_token_id)
        kl = (logps[POLICY] - logps[None]) * mask
        to_go = torch.flip(torch.cumsum(torch.flip(-0.3 * kl, [1]), 1), [1]) + reward[:, None]
        assert torch.allclose(batch["returns"], to_go * mask, atol=1e-4)
        assert torch.allclose(batch["advantages"], (to_go - batch["old_values"]) * mask, atol=1e-4)
        assert torch.allclose(batch["old_per_token_logps"] * mask, logps[POLICY] * mask, atol=1e-5)
    assert t.shaper.moments.count.item() == 0


def test_training_raises_the_reward_and_logs_every_metric_each_step(tmp_path):
    t = trainer(
        tmp_path, max_steps=40, per_device_train_batch_size=16, learning_rate=5e-3, kl_coef=0.01,
        missing_eos_penalty=1.0,
    )  # fmt: skip
    assert {m.p for m in t.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}
    t.train()
    history = logs(t)
    for entry in history:
        for key in (*METRICS, "reward", "rewards/cheerful/mean", "entropy", "grad_norm",
                    "clip_ratio/region_mean", "completions/mean_length"):  # fmt: skip
            assert math.isfinite(float(entry[key])), (key, entry)
    rewards = [float(entry["reward"]) for entry in history]
    assert sum(rewards[-12:]) / 12 > sum(rewards[:12]) / 12 + 0.1
    assert history[0]["kl/reference"] == 0 < history[-1]["kl/reference"]
    # the folder holds the policy alone, and loads with plain PEFT to the same model
    t.save_model(str(tmp_path / "model"))
    assert not [path for path in (tmp_path / "model").iterdir() if path.is_dir()]
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path / "model").eval()
    ids = torch.tensor([TOKENIZER("Add 3 and 4.")["input_ids"]])
    with inference(t.model):
        assert torch.allclose(loaded(ids).logits, t.model(ids).logits, atol=1e-5)


def test_the_reference_is_the_base_the_beginning_or_a_later_policy(tmp_path):
    begun = policy(init_lora_weights=False)  # as after SFT
    t = trainer(tmp_path, begun, reference="initial", ref_update_steps=8, max_steps=16)
    before = {n: p.detach().clone() for n, p in adapter_parameters(begun, REFERENCE).items()}
    t.train()
    kl = [entry["kl/reference"] for entry in logs(t)]
    assert abs(kl[0]) < 1e-6 and abs(kl[4]) > 1e-4  # begins at the SFT policy, moves away
    assert abs(kl[8]) < 1e-6 and abs(kl[12]) > 1e-4  # the policy of step 8 is the reference now
    assert any((before[n] != p).any() for n, p in adapter_parameters(t.model, REFERENCE).items())
    t = trainer(tmp_path, policy(init_lora_weights=False), max_steps=4)
    t.train()
    assert abs(logs(t)[0]["kl/reference"]) > 0.1  # to the base, the SFT policy is far from it


def test_an_epoch_stops_at_its_kl_limit_without_moving_a_weight(tmp_path):
    weights = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()
                                      if p.requires_grad]))  # fmt: skip

    t = trainer(tmp_path, kl_stop=1e-7, max_steps=8, weight_decay=0.1, callbacks=[Watch()])
    t.train()
    # the first update of a rollout has KL 0; the second passes the limit and is the last
    assert [e["updates_skipped"] for e in logs(t)] == [0, 0, 1, 1, 0, 0, 1, 1]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert same == [False, True, True, False, False, True, True]


def test_rewards_that_judge_nothing_teach_nothing(tmp_path):
    def picky(completions, **kwargs):
        return [None] * 4 + [1.0] * (len(completions) - 4)

    t = trainer(tmp_path, rewards=(picky,), steps_per_generation=1, per_device_train_batch_size=8)
    batch = first_minibatch(t)
    judged = batch["loss_mask"].any(1)
    assert judged.sum() == 4 and not batch["advantages"][~judged].any()


def test_evaluation_leaves_the_state_of_training_alone(tmp_path):
    t = trainer(tmp_path, kl_target=1.0, reward_normalization="standardize", max_steps=4)
    t.train()
    state = (t.kl.coef, t.shaper.moments.state(), t.rollout_metrics)
    result = t.evaluate(PROMPTS.select(range(8)))
    assert math.isfinite(result["eval_loss"]) and "eval_reward" in result
    assert state == (t.kl.coef, t.shaper.moments.state(), t.rollout_metrics)


# --- resuming ------------------------------------------------------------------------------------

EVERYTHING = {
    "value_mode": "adapter", "reference": "initial", "ref_update_steps": 4, "kl_target": 0.5,
    "kl_horizon": 50, "kl_stop": 5e-3, "reward_normalization": "standardize",
    "reward_normalize_sources": True, "gradient_accumulation_steps": 2, "steps_per_generation": 4,
    "per_device_train_batch_size": 2, "entropy_coef": 0.01, "logging_steps": 3,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "kills", "rows"),
    [({}, (1, 4, 6), 600), (EVERYTHING, (2, 5, 8), 600), ({}, (3, 7), 20)],
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
    if settings:  # transformers' own average since the last log begins anew at a resume
        timings.add("loss")
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
    state = checkpoint / "ppo" / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"processes": 2}))
    with pytest.raises(RunError, match="written by 2 processes"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=str(checkpoint))
    state.unlink()
    with pytest.raises(RunError, match="no complete PPO checkpoint"):
        trainer(tmp_path / "other", max_steps=2).train(resume_from_checkpoint=str(checkpoint))


# --- what is refused -----------------------------------------------------------------------------


def test_settings_that_break_ppo_are_all_named():
    with pytest.raises(ConfigError) as error:
        PPOConfig(
            output_dir="out", beta=0.1, use_vllm=True, mask_truncated_completions=True,
            ref_update_steps=5, kl_estimator="k2", gamma=1.5, value_clip_range=0.0,
            loss_type="sapo", per_device_train_batch_size=1,
        )  # fmt: skip
    named = {problem.where for problem in error.value.problems}
    assert named == {
        "beta", "use_vllm", "mask_truncated_completions", "ref_update_steps", "kl_estimator",
        "gamma", "value_clip_range", "loss_type", "generation_batch_size",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="did you mean 'trunk_detached'"):
        PPOConfig(output_dir="out", per_device_train_batch_size=8, value_mode="trunk_detach")


def test_a_model_without_lora_or_an_unknown_reward_is_refused(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(TINY)
    with pytest.raises(ModelError, match="LoRA adapter"):
        trainer(tmp_path, base)
    with pytest.raises(ConfigError, match="did you mean 'cheerful'"):
        trainer(tmp_path, reward_ensemble=["cheeful"])


# --- several processes ---------------------------------------------------------------------------

TWO = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, {tests!r})
import test_ppo_trainer as parts

def run(folder, resume=None):
    t = parts.trainer(folder, save_strategy="steps", save_steps=3, max_steps=6, kl_target=1.0,
                      kl_stop=0.5, value_mode={value_mode!r})
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

whole = run({folder!r} + "/whole")
resumed = run({folder!r} + "/resumed", {folder!r} + "/whole/checkpoint-3")
for a, b in zip(whole, resumed, strict=True):
    for key in ("loss", "reward", "kl/reference", "value/loss", "kl/coef"):
        assert a[key] == b[key], (key, a, b)
print("both agree")
"""


@pytest.mark.slow
@pytest.mark.parametrize("value_mode", ["trunk_detached", "adapter"])
def test_two_processes_whiten_together_stay_equal_and_resume(tmp_path, value_mode):
    script = tmp_path / "two.py"
    tests = str(Path(__file__).parent)
    script.write_text(TWO.format(tests=tests, folder=str(tmp_path), value_mode=value_mode))
    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
         "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("both agree") == 2
