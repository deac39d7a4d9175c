"""PPOTrainer on the tiny model: its loss, its rollouts, and the hooks it leans on."""

import inspect
import itertools
import math
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    TrainerCallback,
)
from trl import GRPOTrainer

from modelforge.checkpointing.resumable import COUNTERS
from modelforge.errors import ConfigError, ModelError
from modelforge.models.adapters import adapter_parameters, inference, using
from modelforge.ppo.config import PPOConfig
from modelforge.ppo.metrics import METRICS
from modelforge.ppo.reference import CRITIC, POLICY, REFERENCE
from modelforge.ppo.trainer import HOOKS, PPOTrainer
from modelforge.rewards.prompts import weights_kept
from modelforge.rewards.shared_base import SharedBaseReward

sys.path.append(str(Path(__file__).parent))  # the tests are no package

from ppo_parts import (
    LAYERS,
    PROMPTS,
    TINY,
    TOKENIZER,
    brief,
    cheerful,
    first_minibatch,
    logs,
    policy,
    trainer,
)

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
    for name in (
        *COUNTERS[:2],
        "_buffered_inputs",
        "_metrics",
        "eos_token_ids",
        "reward_func_names",
        "reward_weights",
    ):
        assert hasattr(t, name), f"TRL's GRPOTrainer has no {name} any more"
    batch = first_minibatch(t)
    for key in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages"):
        assert key in batch, f"TRL's rollout has no {key} any more"
    assert len(t._buffered_inputs) == t.args.steps_per_generation
    assert t._raw_rewards.shape == (8, 1)


# --- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["bnpo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("value_mode", ["trunk_detached", "trunk", "adapter", "frozen"])
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
    if value_mode == "frozen":
        with t.model.disable_adapter(), torch.no_grad():
            hidden = t.model(ids, attention, output_hidden_states=True).hidden_states[-1]
    values = t.critic.head.linear(hidden[:, -length - 1 : -1])[..., 0]

    ratio, advantages = (logps - batch["old_per_token_logps"]).exp(), batch["advantages"]
    tokens = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.3) * advantages) * mask
    # the mean over the tokens of the rollout, of which this is one of several micro-batches
    whole = batch["tokens"] / t.args.steps_per_generation
    mean = whole if loss_type == "bnpo" else mask.sum()
    surrogate = {
        "bnpo": tokens.sum() / whole,
        "grpo": (tokens.sum(1) / mask.sum(1)).mean(),
        "dr_grpo": tokens.sum() / (len(mask) * 12),
    }[loss_type]
    moved = batch["old_values"] + (values - batch["old_values"]).clamp(-0.15, 0.15)
    errors = torch.max((values - batch["returns"]) ** 2, (moved - batch["returns"]) ** 2)
    by_hand = (
        surrogate - 0.01 * (entropy * mask).sum() / mean + 0.7 * 0.5 * (errors * mask).sum() / whole
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
    for mode in ("trunk_detached", "trunk", "frozen"):
        t = trainer(tmp_path, value_mode=mode)
        batch = first_minibatch(t)
        torch.nn.init.normal_(t.critic.head.linear.weight)  # at zero it sends nothing back
        batch["advantages"] = torch.zeros_like(batch["advantages"])
        batch["returns"] = batch["returns"] + 1
        t.compute_loss(t.model, batch).backward()
        gradients[mode] = sum(
            p.grad.abs().sum() for p in adapter_parameters(t.model, POLICY).values()
        )
        assert t.critic.head.linear.weight.grad.abs().sum() > 0
    assert gradients["trunk_detached"] == gradients["frozen"] == 0 < gradients["trunk"]


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
    assert history[0]["kl/reference"] == pytest.approx(0, abs=1e-6)  # float32's noise
    assert history[-1]["kl/reference"] > 1e-6
    # the folder holds the policy alone, and loads with plain PEFT to the same model
    t.save_model(str(tmp_path / "model"))
    assert not [path for path in (tmp_path / "model").iterdir() if path.is_dir()]
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, num_hidden_layers=LAYERS)
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

    class Alarms(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()
                                      if p.requires_grad]))  # fmt: skip

    t = trainer(tmp_path, kl_stop=1e-7, max_steps=8, weight_decay=0.1, callbacks=[Alarms()])
    t.train()
    # the first update of a rollout has KL 0; the second would pass the limit and is left out
    assert [e["updates_skipped"] for e in logs(t)] == [0, 1, 1, 1, 0, 1, 1, 1]
    same = [torch.equal(a, b) for a, b in itertools.pairwise(weights)]
    assert same == [True, True, True, False, True, True, True]


def test_rewards_that_judge_nothing_teach_nothing(tmp_path):
    def picky(completions, **kwargs):
        return [None] * 4 + [1.0] * (len(completions) - 4)

    t = trainer(
        tmp_path, policy(init_lora_weights=False), rewards=(picky,), steps_per_generation=1,
        per_device_train_batch_size=8, entropy_coef=0.1,
    )  # fmt: skip
    batch = first_minibatch(t)
    judged = batch["loss_mask"].any(1)
    assert judged.sum() == 4 and not batch["advantages"][~judged].any()
    # and they take nothing from what the others teach: the gradient is theirs alone
    for loss_type, share in (("bnpo", 1), ("grpo", 2), ("dr_grpo", 2), ("dapo", 1)):
        t.loss_type = t.args.loss_type = loss_type
        alone = {k: v[judged] if v.dim() else v for k, v in batch.items() if v is not None}
        # a mean over rows is over all eight: `_judge` has weighed the advantages for that
        weighed = batch | {"advantages": batch["advantages"] * share}
        gradients = []
        for part in (weighed, alone):
            t.model.zero_grad()
            t.compute_loss(t.model, part).backward()
            gradients.append([p.grad for p in t.model.parameters() if p.grad is not None])
        for mixed, theirs in zip(*gradients, strict=True):
            assert torch.allclose(mixed, theirs, atol=1e-6), loss_type


def test_evaluation_leaves_the_state_of_training_alone(tmp_path):
    t = trainer(tmp_path, kl_target=1.0, reward_normalization="standardize", max_steps=4)
    t.train()
    state = (t.kl.coef, t.shaper.moments.state(), t.rollout_metrics)
    result = t.evaluate(PROMPTS.select(range(8)))
    assert math.isfinite(result["eval_loss"]) and "eval_reward" in result
    assert state == (t.kl.coef, t.shaper.moments.state(), t.rollout_metrics)


@pytest.mark.parametrize("four_bit", [False, True])
def test_policy_reference_reward_and_value_on_one_base(tmp_path, four_bit):
    torch.manual_seed(0)
    scorer = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(
            TINY, num_labels=1, num_hidden_layers=LAYERS
        ),
        LoraConfig(r=4, target_modules="all-linear", task_type="SEQ_CLS",
                   modules_to_save=["score"], init_lora_weights=False),
    )  # fmt: skip
    scorer.save_pretrained(tmp_path / "reward")
    loading = {"dtype": torch.float32}
    if four_bit:
        loading["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    model = policy(**loading)
    reward = SharedBaseReward(tmp_path / "reward", name="quality", tokenizer=TOKENIZER).attach(
        model
    )
    t = trainer(tmp_path, model, rewards=(reward, brief), max_steps=4, value_mode="adapter",
                reference="initial", save_strategy="steps", save_steps=4)  # fmt: skip
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    learning = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad}
    assert {p.dtype for p in learning.values()} == {torch.float32}  # TRL had made them bfloat16
    t.train()
    parameters = dict(model.named_parameters())
    assert all(torch.equal(parameters[n], p) for n, p in frozen.items())
    assert all(not torch.equal(parameters[n], p) for n, p in learning.items())
    assert {n for n in learning if POLICY not in n and CRITIC not in n} == {
        n for n in learning if "v_head" in n
    }
    assert all(math.isfinite(entry["rewards/quality/mean"]) for entry in logs(t))
    folders = {p.name for p in (tmp_path / "checkpoint-4").rglob("*") if p.is_dir()}
    assert folders == {
        "modelforge",
        "ppo",
        CRITIC,
        REFERENCE,
    }  # reward adapters are their own run's


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
    with pytest.raises(ConfigError) as error:
        PPOConfig(
            output_dir="out", per_device_train_batch_size=8, epsilon=1.5, epsilon_high=-0.1,
            kl_coef=0, kl_target=6.0, value_coef=-1.0, entropy_coef=-0.1,
            reward_normalize_sources=True, reward_ensemble=["a"],
            multi_objective_aggregation="normalize_then_sum",
        )  # fmt: skip
    named = {problem.where for problem in error.value.problems}
    assert named == {
        "epsilon", "epsilon_high", "kl_target", "value_coef", "entropy_coef",
        "reward_normalize_sources", "reward_ensemble", "multi_objective_aggregation",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="nothing steers it"):
        PPOConfig(output_dir="out", per_device_train_batch_size=8, kl_horizon=50)
    with pytest.raises(ConfigError, match="did you mean 'trunk_detached'"):
        PPOConfig(output_dir="out", per_device_train_batch_size=8, value_mode="trunk_detach")


@pytest.mark.parametrize("theirs", [True, False])
def test_liger_is_refused_where_trl_would_leave_out_ppos_loss(theirs, monkeypatch):
    """TRL 1.14 has a loss of its own for it, which never calls `_compute_loss`; 1.16 has none."""
    monkeypatch.delattr(GRPOTrainer, "compute_liger_loss", raising=False)
    if theirs:
        monkeypatch.setattr(GRPOTrainer, "compute_liger_loss", lambda self: None, raising=False)
    said = {"output_dir": "out", "per_device_train_batch_size": 8, "use_liger_kernel": True}
    said |= {"use_cpu": True, "bf16": False}
    with pytest.raises(ConfigError, match="GRPO's loss in place") if theirs else nullcontext():
        PPOConfig(**said)


def test_a_model_without_lora_or_an_unknown_reward_is_refused(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(TINY)
    with pytest.raises(ModelError, match="LoRA adapter"):
        trainer(tmp_path, base)
    with pytest.raises(ConfigError, match="did you mean 'cheerful'"):
        trainer(tmp_path, reward_ensemble=["cheeful"], reward_std_penalty=0.5)
    with pytest.raises(ConfigError, match="1 of them is no ensemble"):
        trainer(tmp_path, reward_std_penalty=0.5)


def test_a_model_cast_for_a_rollout_gets_its_weights_back():
    model = policy()
    held = {n: (t.dtype, t.clone()) for n, t in model.state_dict().items()}
    with weights_kept(model):
        model.to(torch.bfloat16)
    for name, tensor in model.state_dict().items():
        dtype, value = held[name]
        assert tensor.dtype == dtype and torch.equal(tensor, value), name
    buffers = [b for b in model.buffers() if b.is_floating_point()]
    assert buffers and {b.dtype for b in buffers} == {torch.float32}


def test_the_critic_begins_at_the_mean_return_and_learns_at_its_own_rate(tmp_path):
    t = trainer(tmp_path, value_learning_rate=None, value_warmup_steps=2, max_steps=4)
    before = {n: p.detach().clone() for n, p in adapter_parameters(t.model, POLICY).items()}
    moved = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            now = adapter_parameters(t.model, POLICY)
            moved.append(any(not torch.equal(now[n], p) for n, p in before.items()))

    t.add_callback(Look())
    t.train()
    first = logs(t)[0]
    assert first["value/explained_variance"] == pytest.approx(0, abs=1e-5)
    assert first["value/mean"] == pytest.approx(first["value/return"], abs=0.02)
    assert t.critic.head.linear.weight.abs().sum() > 0
    assert moved == [False, False, True, True]  # the value learns alone at first
    rates = {g.get("name"): g["initial_lr"] for g in t.optimizer.param_groups}
    assert rates["value"] == pytest.approx(10 * t.args.learning_rate)


def test_policy_and_critic_are_clipped_each_by_its_own_norm(tmp_path):
    t = trainer(tmp_path, max_grad_norm=0.5)
    first_minibatch(t)
    critic = {id(p) for p in t.critic.parameters()}
    for p in t.model.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 100.0 if id(p) in critic else 1e-6)
    norm = t._clip_grad_norm(t.model)
    norms = [0.0, 0.0]
    for p in t.model.parameters():
        if p.grad is not None:
            norms[id(p) in critic] += p.grad.square().sum().item()
    assert norm < 0.5 and norms[0] == pytest.approx(float(norm) ** 2, rel=1e-3)
    assert math.sqrt(norms[1]) == pytest.approx(0.5, rel=1e-3)


def test_minibatches_are_drawn_anew_in_each_epoch(tmp_path):
    t = trainer(tmp_path, per_device_train_batch_size=4, steps_per_generation=4, num_iterations=2)
    t.create_optimizer()
    t.current_gradient_accumulation_steps = 1
    t.model.train()
    prompts = next(iter(t.get_train_dataloader()))
    seen = []
    for step in range(8):
        t._step = step
        batch = t._prepare_inputs(prompts)
        seen.append({tuple(row) for row in batch["returns"].tolist()})
    epochs = [set.union(*seen[i : i + 4]) for i in (0, 4)]
    assert epochs[0] == epochs[1] and seen[:4] != seen[4:]
