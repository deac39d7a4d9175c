"""A list of data sets, each with its own columns, limit and held-out rows."""

import json
from pathlib import Path

import pytest

import modelforge
from modelforge.common.sources import DatasetSource
from modelforge.data import load_data, load_tokenizer_template
from modelforge.errors import DataError

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def load(tmp_path, tokenizer):
    """Load sets ``a`` (20 rows, usual columns) and ``b`` (10 rows, odd columns)."""
    put(tmp_path / "a.jsonl", [{"prompt": f"a{i}", "completion": "A"} for i in range(20)])
    put(tmp_path / "b.jsonl", [{"said": f"b{i}", "back": "A"} for i in range(10)])
    put(tmp_path / "e.jsonl", [{"said": f"e{i}", "back": "A"} for i in range(3)])

    def load(*dataset, template="plain", **options):
        load_tokenizer_template(
            tokenizer, chat_template=template, task="text-generation", base_dir=tmp_path
        )
        data = load_data(
            dataset=[DatasetSource(**s) if isinstance(s, dict) else s for s in dataset],
            kind="demonstration", tokenizer=tokenizer, max_length=None, seed=1, base_dir=tmp_path,
            **options,
        )  # fmt: skip
        return asked(data.train), asked(data.eval) if data.eval else [], data.ledger

    return load


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(rows):
    return [row[-1]["content"] for row in rows["prompt"]]


B = {"path": "b.jsonl", "columns": {"prompt": "said", "completion": "back"}}


def test_each_set_has_its_own_columns_and_may_be_a_name_alone(load):
    train, held_out, _ = load("a.jsonl", B, eval_split=0)
    assert len(train) == 30 and not held_out
    with pytest.raises(DataError, match="no known format"):
        load("b.jsonl")
    with pytest.raises(DataError, match="no column 'said'"):
        load("a.jsonl", "b.jsonl", columns=B["columns"])


def test_a_limit_draws_rows_by_the_seed_and_says_so(load):
    train, _, ledger = load({"path": "a.jsonl", "max_samples": 5}, B, eval_split=0)
    of_a = [name for name in train if name[0] == "a"]
    assert len(of_a) == 5 and of_a != [f"a{i}" for i in range(5)]
    assert of_a == sorted(of_a, key=lambda name: int(name[1:])) and len(train) == 15
    assert "a.jsonl: 5 of 20 rows, drawn at random (max_samples, seed 1)" in ledger.notes
    again, _, _ = load({"path": "a.jsonl", "max_samples": 5}, B, eval_split=0)
    assert again == train
    both, _, _ = load("a.jsonl", B, eval_split=0, max_samples=4)
    assert len(both) == 8
    few, held_out, _ = load("a.jsonl", max_samples=4, eval_dataset="a.jsonl")
    assert len(few) == len(held_out) == 4


def test_each_set_says_what_of_it_is_held_out(load):
    train, held_out, ledger = load({"path": "a.jsonl", "eval": 5}, B)
    assert len(train) == 25 and len(held_out) == 5 and {name[0] for name in held_out} == {"a"}
    assert ledger.eval_reason == "dataset[0]: eval 5 rows"
    _, held_out, _ = load({"path": "a.jsonl", "eval": 0.1}, {**B, "eval": 2})
    assert sorted({name[0] for name in held_out}) == ["a", "b"] and len(held_out) == 4
    train, held_out, ledger = load("a.jsonl", {**B, "eval": "e.jsonl"})
    assert len(train) == 30 and held_out == ["e0", "e1", "e2"]
    assert ledger.eval_reason == "eval: e.jsonl"
    _, held_out, _ = load({"path": "a.jsonl", "eval": 0}, B, eval_split=3)
    assert len(held_out) == 3 and {name[0] for name in held_out} == {"b"}
    with pytest.raises(DataError, match="eval_dataset is given too"):
        load({"path": "a.jsonl", "eval": 5}, eval_dataset="e.jsonl")


def test_a_system_prompt_begins_the_rows_that_have_none(load, tmp_path):
    rows = [{"prompt": "Q", "completion": "A"}, {"prompt": "Q", "completion": "A", "system": "own"}]
    put(tmp_path / "s.jsonl", rows)
    data = {"eval_split": 0, "system_prompt": "Be brief."}
    train, _, _ = load("s.jsonl", **data)
    assert train == ["Q", "Q"]
    with pytest.raises(DataError, match="system_prompt: has no place in plain text"):
        load("s.jsonl", template="none", **data)


def test_a_placeholder_that_nobody_filled_in_is_warned_of(load, tmp_path):
    rows = [
        {"prompt": f"Hello {name}!", "completion": "A"} for name in ("{{ name }}", "{x}", "Ann")
    ]
    put(tmp_path / "p.jsonl", rows)
    _, _, ledger = load("p.jsonl", eval_split=0)
    assert ledger.placeholders.first == ["p.jsonl:1"]
    assert any("{{name}} (p.jsonl:1)" in warning for warning in ledger.warnings)


@pytest.mark.parametrize("layout", ["alpaca", "vicuna", "zephyr"])
def test_a_prompt_layout_is_a_fixed_template(load, tokenizer, layout):
    _, _, ledger = load("a.jsonl", eval_split=0, template=layout)
    talk = [
        {"role": role, "content": text}
        for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)
    ]
    shown = tokenizer.apply_chat_template(talk, tokenize=False)
    marks = {
        "alpaca": ("Below is an instruction", "### Instruction:\na", "### Response:\nb"),
        "vicuna": ("A chat between", "questions. USER: a ASSISTANT: b", "USER: c ASSISTANT: d"),
        "zephyr": ("<|user|>\na", "<|assistant|>\nb"),
    }
    assert all(mark in shown for mark in marks[layout])
    assert shown.count(tokenizer.eos_token) >= 2 and ledger.eos_supervised_share == 1.0


def test_the_config_takes_names_and_objects_and_one_of_layout_and_template():
    base = {"strategy": "sft", "model_name": "m"}
    mixed = ["a.jsonl", {"path": "b.jsonl", "eval": 0.1, "max_samples": 9, "columns": {"a": "b"}}]
    config = modelforge.load_config({**base, "dataset": mixed, "max_samples": 5})
    assert config.settings.dataset[0] == "a.jsonl" and config.settings.dataset[1].eval == 0.1
    with pytest.raises(modelforge.ConfigError, match="only one of the two"):
        modelforge.load_config(
            {**base, "dataset": "a", "prompt_layout": "alpaca", "chat_template": "chatml"}
        )


@pytest.mark.parametrize("kind", ["prompt", "demonstration"])
def test_a_column_without_a_name_is_nothing_but_unused(tmp_path, tokenizer, kind):
    """As pandas writes its index."""
    (tmp_path / "a.csv").write_text(",prompt,completion\n0,What is 2 plus 2?,4\n1,Say hi.,hi\n")
    data = load_data(
        dataset="a.csv", kind=kind, max_length=None, seed=0, base_dir=tmp_path,
        tokenizer=tokenizer,
    )  # fmt: skip
    assert len(data.train) == 2
    assert not any("reasoning_content" in str(row) for row in data.train)
