"""Rows that are read and encoded once, and held against one length after another."""

import json
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge.common.sources import DatasetSource
from modelforge.data import load_data, load_tokenizer_template, read_rows
from modelforge.errors import DataError

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


def choose(tokenizer, template):
    tokenizer.chat_template = None
    return load_tokenizer_template(
        tokenizer, chat_template=template, task="text-generation", base_dir=Path()
    )


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def outcome(act):
    """All that a load comes to: rows, tokens and ledger, or its problems."""
    try:
        data = act()
    except DataError as error:
        return [str(problem) for problem in error.problems]
    evaluation = data.eval and data.eval.to_list()
    return (
        *(data.train.to_list(), evaluation, data.ledger.to_dict()),
        *(data.train_tokens, data.eval_tokens),
    )


sizes = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=12)
lengths = st.one_of(st.none(), st.integers(8, 120))
rules = st.sampled_from(["cut", "drop", "split"])


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(sizes, min_size=1, max_size=2),
    kind=st.sampled_from(["demonstration", "preference", "prompt"]),
    template=st.sampled_from(["plain", "none", "chatml"]),
    asked=st.lists(
        st.tuples(lengths, st.sampled_from(["cut", "drop", "split"])), min_size=1, max_size=3
    ),
    weight=st.sampled_from([None, 2.0]),
    eval_split=st.sampled_from([0, 2, 0.3]),
)
def test_rows_held_against_a_length_are_those_loaded_at_that_length(
    tmp_path_factory, tokenizer, parts, kind, template, asked, weight, eval_split
):
    folder = tmp_path_factory.mktemp("rows")
    for number, rows in enumerate(parts):
        pairs = [{"prompt": "q" * p, "chosen": "c" * c, "rejected": "r" + "c" * p} for p, c in rows]
        put(folder / f"{number}.jsonl", pairs)
    choice = choose(tokenizer, template)
    ask = {
        "dataset": [DatasetSource(path=f"{i}.jsonl", weight=weight) for i in range(len(parts))],
        "eval_split": eval_split,
        "kind": kind,
        "tokenizer": tokenizer,
        "seed": 3,
        "base_dir": folder,
        "chat_template": choice,
    }
    rows = read_rows(**ask)
    for path in folder.glob("*.jsonl"):
        path.rename(path.with_suffix(".kept"))  # no file is read again
    held = [outcome(partial(rows.within, length, long_rows=rule)) for length, rule in asked]
    for path in folder.glob("*.kept"):
        path.rename(path.with_suffix(".jsonl"))
    fresh = [
        outcome(partial(load_data, max_length=length, long_rows=rule, **ask))
        for length, rule in asked
    ]
    assert held == fresh


@pytest.mark.parametrize("kind", ["demonstration", "preference"])
def test_the_columns_of_a_trainer_are_cut_from_the_tokens_that_were_checked(
    tmp_path, tokenizer, kind
):
    rows = [
        {"prompt": "q" * 20 * i, "chosen": "yes" * i, "rejected": "no" * 9, "margin": i}
        for i in range(1, 9)
    ]
    put(tmp_path / "rows.jsonl", rows)
    choose(tokenizer, "plain")
    data = load_data(
        dataset=tmp_path / "rows.jsonl", kind=kind, tokenizer=tokenizer, max_length=None, seed=0,
        eval_split=4,
    )  # fmt: skip
    train, evaluation = data.tokenised(train_length=None, eval_length=100)
    assert train.num_rows == 4 and 0 < evaluation.num_rows < 4
    if kind == "demonstration":
        assert train["input_ids"][:] == [row.ids[0].tolist() for row in data.train_tokens]
        assert train["labels"][:] == [row.labels().tolist() for row in data.train_tokens]
        kept = [row for row in data.eval_tokens if row.supervised(100)]
        assert evaluation["labels"][:] == [row.labels(100).tolist() for row in kept]
    else:
        assert train["margin"][:] == data.train["margin"][:]
        for i, side in enumerate(("chosen", "rejected")):
            assert train[f"{side}_ids"][:] == [row.ids[i].tolist() for row in data.train_tokens]
        short = [i for i, row in enumerate(data.eval_tokens) if max(map(len, row.ids)) <= 100]
        assert evaluation["margin"][:] == [data.eval["margin"][i] for i in short]
