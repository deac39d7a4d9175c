"""What every trainer gets, and the parts of transformers and TRL it leans on."""

import inspect

import pytest
import torch
import trl
from transformers import Trainer

from modelforge import get_strategy, list_strategies
from modelforge.checkpointing.micro_batches import rows_of, split
from modelforge.checkpointing.resumable import HOOKS, Resumable, resumable
from modelforge.ppo.trainer import PPOTrainer


def test_transformers_still_has_the_hooks_that_durability_leans_on():
    for name, parameters in HOOKS.items():
        hook = getattr(Trainer, name, None)
        assert hook is not None, f"transformers' Trainer has no {name} any more"
        known = inspect.signature(hook).parameters
        missing = [p for p in parameters if p not in known]
        assert not missing, f"{name} no longer takes {missing}: {list(known)}"
    source = inspect.getsource(Trainer)
    for name in ("_tr_loss", "_globalstep_last_logged"):
        assert f"self.{name}" in source, f"transformers' Trainer keeps no {name} any more"


@pytest.mark.parametrize(
    ("trainer", "counters"),
    [
        (trl.SFTTrainer, ["_metrics", "_total_train_tokens"]),
        (trl.DPOTrainer, ["_metrics", "_total_train_tokens"]),
        (trl.RewardTrainer, ["_metrics", "_total_train_tokens"]),
        (trl.GRPOTrainer, ["_metrics", "_step", "_buffered_inputs"]),
        (trl.RLOOTrainer, ["_metrics", "_step", "_buffered_inputs"]),
    ],
)
def test_trl_still_counts_where_a_checkpoint_looks(trainer, counters):
    source = inspect.getsource(trainer)
    for name in counters:
        assert f"self.{name} = " in source, f"{trainer.__name__} keeps no {name} any more"


@pytest.mark.parametrize("name", [n for n in list_strategies() if n != "rlhf"])
def test_every_strategy_trains_durably(name):
    trainer = get_strategy(name).trl_trainer_class()
    made = resumable(trainer)
    assert issubclass(made, Resumable) and issubclass(made, trainer)
    assert resumable(made) is made
    assert made.__name__ == trainer.__name__  # TRL and transformers look at it
    assert (made is trainer) == issubclass(trainer, PPOTrainer)


def test_rows_are_named_by_their_text():
    class Words:
        def batch_decode(self, ids, skip_special_tokens):
            return [" ".join(f"w{i}" for i in row if i) for row in ids.tolist()]

    batch = {"input_ids": torch.tensor([[1, 2, 0], [3, 0, 0]])}
    assert rows_of([batch, batch], Words(), most=3) == ["w1 w2", "w3", "w1 w2", "… and 1 more"]
    assert rows_of([[{"prompt": "What\n is it?"}]], Words()) == ["What is it?"]


def test_a_rollout_splits_into_smaller_micro_batches_in_order():
    batch = {
        "completion_ids": torch.arange(8).reshape(4, 2),
        "tokens": torch.tensor(8.0),
        "texts": list("abcd"),
        "pixels": None,
    }
    first, second = split(batch, 2)
    assert first["completion_ids"].tolist() == [[0, 1], [2, 3]] and first["texts"] == ["a", "b"]
    assert second["completion_ids"].tolist() == [[4, 5], [6, 7]] and second["pixels"] is None
    assert first["tokens"] == second["tokens"] == 8.0
