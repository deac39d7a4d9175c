"""Dynamic sampling: groups whose answers all score alike are drawn anew from other prompts."""

import json
from pathlib import Path

import pytest
import torch
from tiny import resumed_bitwise
from trl import GRPOTrainer

from modelforge import ConfigError, load_config
from modelforge.rewards.refill import HOOKS, METRIC
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

ROOT = Path(__file__).parents[1]
# The answers to a prompt with an odd number differ in their reward, and those to the others do not.
REWARD = """
def odd(prompts, completions, number, **columns):
    return [float(n % 2 and i % 2) for i, n in enumerate(number)]
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "odd.py").write_text(REWARD)
    rows = [{"prompt": f"Say {n}.", "number": n} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def values(place, **keys):
    return {
        "strategy": "grpo", "model_name": str(ROOT / "examples/tiny/model"), "report_to": "none",
        "dataset": str(place / "rows.jsonl"), "output_dir": str(place / "runs"), "eval_split": 0,
        "rewards": [f"{place / 'odd.py'}:odd"], "max_seq_length": 64, "num_generations": 2,
        "generation": {"max_new_tokens": 8}, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 1, "dynamic_sampling": 8, **keys,
    }  # fmt: skip


def test_trl_still_has_what_dynamic_sampling_leans_on():
    import inspect

    for name, parameters in HOOKS.items():
        known = inspect.signature(getattr(GRPOTrainer, name)).parameters
        assert [*known] == ["self", *parameters], name


def test_silent_groups_are_drawn_anew_with_answers_of_their_own(place):
    prepared = prepare(load_config(values(place)))
    trainer = build_trainer(prepared, load(prepared))
    asked, tokenizer = [], trainer.processing_class

    def scripted(prompt_ids, *more, **other):  # each answer repeats its prompt, and says where
        asked.append(len(prompt_ids))
        return [[*ids, 5 + i % 2] for i, ids in enumerate(prompt_ids)], None

    trainer._generate_single_turn = scripted
    trainer.model.train()
    by_number = {row["number"]: row for row in trainer.train_dataset}
    rows = [by_number[n] for n in (0, 1, 2, 3) for _ in range(2)]

    def rollout():
        asked.clear()
        batch = trainer._generate_and_score_completions(list(rows))
        prompts = [
            [int(i) for i, m in zip(ids, mask, strict=True) if m]
            for ids, mask in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
        ]
        said = [
            [int(i) for i, m in zip(ids, mask, strict=True) if m]
            for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        assert said == [[*ids, 5 + i % 2] for i, ids in enumerate(prompts)]
        return [tokenizer.decode(ids) for ids in prompts], batch

    texts, batch = rollout()
    numbers = [next(n for n in by_number if f"Say {n}." in text) for text in texts]
    assert all(n % 2 for n in numbers) and numbers[::2] == numbers[1::2]
    assert [numbers[2], numbers[6]] == [1, 3]  # what had a signal stays where it was
    assert torch.allclose(batch["advantages"].abs(), torch.tensor(0.7070), atol=1e-3)
    assert asked[0] == 8 and asked[1] == 4 and sum(asked[1:]) < 20  # of two groups, then of fewer
    log = trainer._metrics["train"]
    assert log[METRIC] == [0.5] and log["frac_reward_zero_std"] == [0.0]
    assert len(log["completions/mean_length"]) == len(log["rewards/odd/mean"]) == 1
    again, _ = rollout()
    assert again == texts  # by seed and step alone
    trainer._step += 1
    assert rollout()[0] != texts
    trainer.rounds = 0
    assert [f"Say {n}." in t for n, t in zip((0, 0, 1, 1), rollout()[0], strict=False)] == [
        True
    ] * 4


def test_a_resumed_run_draws_the_same_groups(place, monkeypatch):
    options = (
        "dynamic_sampling=2", "max_steps=4", "save_steps=1", "logging_steps=1", "eval_prompts=4",
        "generation.max_new_tokens=6", "per_device_train_batch_size=16", "num_generations=4",
    )  # fmt: skip
    run = resumed_bitwise("grpo", place, monkeypatch, *options, stop=2)
    rows = [json.loads(line) for line in (run.run_dir / "metrics.jsonl").open()]
    shares = [row[METRIC] for row in rows if METRIC in row]
    assert len(shares) == 4 and any(shares)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tools": "odd.py"}, "cannot be undone"),
        ({"dynamic_sampling": -1}, "dynamic_sampling"),
        ({"strategy": "rloo"}, "dynamic_sampling"),
    ],
)
def test_where_groups_cannot_be_drawn_anew_it_is_refused(place, keys, said):
    path = place / "config.json"
    path.write_text(json.dumps(values(place) | keys))
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_a_part_of_a_group_in_a_process_is_refused_before_a_model_is_loaded(place):
    said = values(place, per_device_train_batch_size=3, num_generations=6)
    said["distributed"] = {"num_processes": 2}
    with pytest.raises(ConfigError, match=r"dynamic_sampling: draws whole groups anew.* has 3 "):
        prepare(load_config(said))
    prepare(load_config(said | {"dynamic_sampling": 0}))
