"""Every documented key of PPO, and every variant of GRPO, changes what is learned or is refused."""

import dataclasses
import functools
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import set_seed
from trl import GRPOConfig, GRPOTrainer

from modelforge import ConfigError, load_config
from modelforge.ppo.settings import TRL_NAMES, PPOSection
from modelforge.strategies.grpo import GRPO

sys.path.append(str(Path(__file__).parent))  # the tests are no package

from ppo_parts import PROMPTS, TINY, TOKENIZER, brief, cheerful, policy, trainer

ROOT = Path(__file__).parents[1]

# A key of PPO → its value, and what else it needs to count (the same without it is the baseline).
PPO = {
    "kl_coef": (0.5, {}),
    "kl_target": (1e-6, {}),
    "kl_horizon": (4, {"kl_target": 0.01}),
    "kl_estimator": ("k3", {}),
    "kl_cap": (1e-6, {}),
    "kl_stop": (1e-9, {}),
    "clip_range": (0.001, {}),
    "value_clip_range": (0.001, {}),
    "gamma": (0.5, {}),
    "gae_lambda": (0.1, {}),
    "ppo_epochs": (1, {}),
    "value_coef": (0.0, {}),
    "value_mode": ("trunk", {}),
    "value_learning_rate": (0.1, {}),
    "value_warmup_steps": (2, {}),
    "rollout_size": (8, {"steps_per_generation": None}),
    "entropy_coef": (0.1, {}),
    "normalize_advantages": (False, {}),
    "reference": ("initial", {}),
    "ref_update_steps": (1, {"reference": "initial", "kl_coef": 1.0}),
    "reward_normalization": ("standardize", {"normalize_advantages": False}),
    "reward_normalize_sources": (True, {"reward_normalization": "standardize"}),
    "reward_clip": (0.01, {"normalize_advantages": False}),
    "reward_std_penalty": (1.0, {}),
    "reward_aggregation": ("worst", {}),
    "whiten_rewards": (True, {}),
    "missing_eos_penalty": (5.0, {}),
}
# Keys that change nothing before the first update: 'reference' begins as the base does, so that
# alone moves no number; what it is for is tested in test_ppo_trainer.
ALIKE = {"reference"}


def test_the_table_has_every_key_of_the_document():
    told = (ROOT / "docs" / "rlhf.md").read_text().partition("| `ppo.` |")[2].partition("\n\n")[0]
    assert (
        set(re.findall(r"^\| `(\w+)` \|", told, re.M)) == set(PPO) == set(PPOSection.model_fields)
    )


@functools.cache
def learned(**settings):
    """All trained weights after two rollouts of two updates each, and the weight of the KL."""
    with tempfile.TemporaryDirectory() as folder:
        set_seed(0)
        few = {"max_steps": 4, "max_completion_length": 6, "steps_per_generation": 1}
        values = {**few, **settings}
        values = {key: value for key, value in values.items() if value is not None}
        if "steps_per_generation" in settings:  # which trainer() sets
            values["steps_per_generation"] = None
        t = trainer(folder, rewards=(cheerful, brief), data=PROMPTS.select(range(32)), **values)
        t.train()
        weights = {n: p.detach().clone() for n, p in t.model.named_parameters() if p.requires_grad}
        return weights, t.kl.coef


@pytest.mark.parametrize("key", sorted(set(PPO) - ALIKE))
def test_a_key_of_ppo_changes_what_is_learned(key):
    value, more = PPO[key]
    (was, coef), (now, other) = (
        learned(**more),
        learned(**{**more, TRL_NAMES.get(key, key): value}),
    )
    same = was.keys() == now.keys() and all(torch.equal(was[name], now[name]) for name in was)
    assert not same or coef != other


VARIANTS = {
    "loss_type dr_grpo": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "loss_type dapo": {"loss_type": "dapo"},
    "loss_type cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "epsilon_high": {"epsilon_high": 0.9, "epsilon": 0.001},
    "mask_truncated_completions": {"mask_truncated_completions": True},
    "importance_sampling_level": {"importance_sampling_level": "sequence"},
    "top_entropy_quantile": {"top_entropy_quantile": 0.2},
    "delta": {"delta": 1.0001},
    "loss_type bnpo": {"loss_type": "bnpo"},
    "loss_type sapo": {"loss_type": "sapo"},
    "loss_type luspo": {"loss_type": "luspo", "importance_sampling_level": "sequence"},
    "loss_type vespo": {"loss_type": "vespo"},
    "scale_rewards": {"scale_rewards": "batch"},
}


@functools.cache
def group_learned(name):
    """The trained weights after four steps of GRPO with the keys of a variant."""
    with tempfile.TemporaryDirectory() as folder:
        keys = {
            "strategy": "grpo", "model_name": str(TINY), "dataset": "rows.jsonl", "max_steps": 4,
            "rewards": ["numeric_answer"], "per_device_train_batch_size": 8, "num_generations": 4,
            "generation": {"max_new_tokens": 6}, "max_seq_length": 64, "num_iterations": 2,
            "learning_rate": 1e-2, "report_to": "none", "loss_type": "grpo", "bf16": False,
            "save_strategy": "no", "lr_scheduler_type": "constant", "gradient_checkpointing": False,
        }  # fmt: skip
        config = load_config(keys | VARIANTS.get(name, {}))
        args = GRPO().build_args(config, output_dir=Path(folder), device={"use_cpu": True})
        args.disable_tqdm = True
        set_seed(0)
        t = GRPOTrainer(
            # All of its layers: answers have to differ in length.
            policy(lora_dropout=0.0, layers=4), [cheerful], args,
            train_dataset=PROMPTS.select(range(16)), processing_class=TOKENIZER,
        )  # fmt: skip
        t.train()
        return {n: p.detach().clone() for n, p in t.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_a_variant_of_grpo_is_reached_by_its_keys(name):
    was, now = group_learned("grpo"), group_learned(name)
    assert any(not torch.equal(was[key], now[key]) for key in was)


def test_the_document_names_each_loss_of_trl_and_each_variant_tried_here():
    told = (ROOT / "docs" / "rlhf.md").read_text()
    [field] = [f for f in dataclasses.fields(GRPOConfig) if f.name == "loss_type"]
    named = set(re.findall(r"'(\w+)'", field.metadata["help"])) - {"sequence"}
    assert {"grpo", "dapo", "cispo"} <= named
    assert not [name for name in named if f'`"loss_type": "{name}"`' not in told]
    assert not [
        key for keys in VARIANTS.values() for key in {*keys} - {"epsilon"} if key not in told
    ]


def test_a_variant_that_the_installed_trl_lacks_is_refused():
    with pytest.raises(ConfigError, match="loss_type"):
        load_config({"strategy": "grpo", "model_name": "m", "dataset": "d", "loss_type": "grppo"})
