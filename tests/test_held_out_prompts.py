"""What a run is measured on, no run that it builds on was trained on: drawn by what rows ask."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny import talking

from modelforge import ConfigError, RLHFTrainer, load_config
from modelforge.configfile.load import load_config as load
from modelforge.data import load_data
from modelforge.data.divide import drawn
from modelforge.data.overlap import prompt_key
from modelforge.runs import files
from modelforge.strategies.ppo import PPO
from modelforge.training.prompts import record, recorded, warn_of_known
from modelforge.training.read import read
from modelforge.training.resolve import resolve

ROOT = Path(__file__).parents[1]


def pair(n, more="", prompt="Say {} twice."):
    ask = [{"role": "user", "content": prompt.format(n)}]
    answers = {
        side: [{"role": "assistant", "content": f"{side} {n}{more}"}]
        for side in ("chosen", "rejected")
    }
    return {"prompt": ask, **answers}


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_that_ask_the_same_stand_on_one_side(tmp_path):
    tokenizer = talking()

    def sides(numbers, answers, kind="demonstration"):
        rows = [{"prompt": f"Say {n}.", "completion": f"{n}{a}"} for n in numbers for a in answers]
        data = load_data(
            dataset=written(tmp_path / "rows.jsonl", rows), kind=kind, tokenizer=tokenizer,
            max_length=200, eval_split=12,
        )  # fmt: skip
        return set(data.train_prompts), set(data.eval_prompts), len(data.eval)

    train, held_out, count = sides(range(40), "abc")
    assert count == 12 and len(held_out) == 4 and not train & held_out
    assert sides(range(40), "a")[2] == 12  # exactly, where no prompt stands twice
    assert sides(range(40), "abc", "prompt")[1] == held_out  # in whatever form they are read
    assert len(sides(range(42), "abc")[1] & held_out) >= 2  # most keep their side
    one = sides([1], [str(n) for n in range(60)])  # of one prompt alone, rows are divided
    assert one[2] == 12 and one[0] == one[1]


def test_a_draw_is_fair_and_goes_by_its_seed():
    rng = np.random.default_rng(0)
    asked, content = rng.integers(0, 2**63, (2, 400)).astype("u8")
    counts = sum(drawn(asked, content, 40, seed).astype(int) for seed in range(200))
    assert counts.sum() == 8000 and counts.min() > 3 and counts.max() < 45
    asked[:200] = asked[0]  # half of the rows ask one thing: they are held out as often
    assert drawn(asked[:0], content[:0], 0, 0).shape == (0,)
    assert drawn(asked[:1].repeat(50), content[:1].repeat(50), 8, 0).sum() == 8
    share = np.mean([drawn(asked, content, 40, seed)[:200].sum() for seed in range(100)])
    assert 16 < share < 24


def test_a_question_is_the_same_in_every_form():
    asked = [{"role": "user", "content": "Why?"}]
    said = {"role": "assistant", "content": "So."}
    same = [{"prompt": asked, "completion": [said]}, {"messages": [*asked, said]}, pair("", "")]
    same[2]["prompt"] = asked
    assert len({prompt_key(row) for row in same}) == 1
    assert prompt_key({"text": "a"}) != prompt_key({"text": "b"})


def test_what_a_policy_is_measured_on_no_stage_was_trained_on(tmp_path):
    # Two pairs a prompt, and pairs that only some of the stages can use.
    rows = [pair(n, more) for n in range(30) for more in ("", "!")]
    rows += [pair(n, " long" * 60, "Spell {}.") for n in range(9)]
    rows += [pair(n, "", "Repeat {}" + " and again" * 40) for n in range(9)]
    whole = RLHFTrainer(
        {"strategy": "rlhf", "model_name": str(ROOT / "examples/tiny/model"), "eval_split": 10,
         "dataset": str(written(tmp_path / "pairs.jsonl", rows)), "max_seq_length": 64,
         "output_dir": str(tmp_path / "runs"),
         "rewards": [{"name": "length", "arguments": {"target": 3}}]}
    )  # fmt: skip
    trained, measured = set(), set()
    names = []
    for stage in ("sft", "reward", "ppo"):
        config, strategy = whole._ready(stage)
        data = read(resolve(config, strategy)).data
        assert data.eval is not None and len(data.train) > 20
        trained |= set(data.train_prompts)
        measured |= set(data.eval_prompts)
        names.append(config.settings.run_name)
    assert measured and not measured & trained
    assert [whole._ready(stage)[0].settings.run_name for stage in ("sft", "reward", "ppo")] == names
    other = whole.config.request() | {"reward_stage": {"eval_split": 4}}
    config, _ = RLHFTrainer(other)._ready("reward")  # a stage's own split stays its own
    assert config.settings.held_out_as is None and config.settings.eval_split == 4


def test_a_reward_model_that_knows_the_held_out_prompts_is_named(tmp_path, capsys):
    run = tmp_path / "reward"
    run.mkdir()
    shape = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    (run / "model").mkdir()
    (run / "model" / "config.json").write_text(json.dumps(shape))
    (run / files.PROMPTS).write_text(json.dumps(record([1, 2, 3, 3], [4])))
    assert recorded(run, "trained") == {1, 2, 3} and recorded(run, "held_out") == {4}
    assert recorded(tmp_path, "trained") is None
    values = {"strategy": "ppo", "model_name": "m", "dataset": "d.jsonl", "reward_model": str(run)}
    inner, known = values | {"reward_model": str(run / "model")}, "trained on 2 of the 4 held-out"
    many = (2, 3, 4, 5)
    for keys, held_out, said in ((values, many, known), (values, (4,), ""), (inner, many, known)):
        warn_of_known(load(keys), PPO(), SimpleNamespace(eval_prompts=held_out))
        told = " ".join(capsys.readouterr().err.split())
        assert said in told and ("held_out_as" in told) == bool(said)


def test_what_cannot_be_held_out_as_another_run_is_refused(tmp_path):
    values = {"strategy": "sft", "model_name": str(ROOT / "examples/tiny/model"),
              "dataset": str(ROOT / "examples/tiny/data/sft_eval.jsonl"),
              "output_dir": str(tmp_path), "held_out_as": str(tmp_path)}  # fmt: skip
    with pytest.raises(ConfigError, match="is no run of ours"):
        read(resolve(load_config(values)))
    with pytest.raises(ConfigError, match="only one of the two can count"):
        load_config(values | {"eval_split": 4})
    (tmp_path / files.PROMPTS).write_text(json.dumps(record([1], [])))
    with pytest.raises(ConfigError, match="held out nothing"):
        read(resolve(load_config(values)))
