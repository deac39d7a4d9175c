"""A folder's files: what is trained on, what is held out, and what is said about it."""

import json
from pathlib import Path

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge.common.sources import DatasetSource
from modelforge.data import load_data
from modelforge.data.folder import label, split_of
from modelforge.errors import DataError


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.talking()


@pytest.fixture
def load(tmp_path, tokenizer):
    """Load a folder ``d`` of the named files, three rows each that tell their file."""

    def load(*names, dataset="d", **options):
        for name in names:
            path = tmp_path / "d" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"prompt": f"{name} {i}", "completion": "A"} for i in range(3)]
            if path.suffix == ".parquet":
                import pyarrow
                import pyarrow.parquet

                pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = load_data(
            dataset=dataset, kind="demonstration", tokenizer=tokenizer, max_length=None, seed=0,
            base_dir=tmp_path, **options,
        )  # fmt: skip
        return files_of(data.train), files_of(data.eval) if data.eval else [], data.ledger

    return load


def files_of(rows):
    return sorted({row[0]["content"].split()[0] for row in rows["prompt"]})


SHARD = "data/{}-00000-of-00001.parquet"


OF_TWO = ["train/1.jsonl", "train/2.jsonl"]
WORDS = ["a.jsonl", "contest.jsonl", "latest.jsonl"]
TRAIN, VALID = (SHARD.format(name) for name in ("train", "valid"))


@pytest.mark.parametrize(
    ("names", "trained", "held_out"),
    [
        (["train.jsonl", "test.jsonl", "validation.jsonl"], ["train.jsonl"], ["validation.jsonl"]),
        (["train.jsonl", "test.jsonl"], ["train.jsonl"], ["test.jsonl"]),
        (["sums_train.jsonl", "sums-dev.jsonl"], ["sums_train.jsonl"], ["sums-dev.jsonl"]),
        (["training.jsonl", "val.jsonl"], ["training.jsonl"], ["val.jsonl"]),
        (["a.jsonl", "b.jsonl", "eval.jsonl"], ["a.jsonl", "b.jsonl"], ["eval.jsonl"]),
        (WORDS, WORDS, []),
        ([*OF_TWO, "test/1.jsonl"], OF_TWO, ["test/1.jsonl"]),
        (["data/train.jsonl", "data/test.jsonl"], ["data/train.jsonl"], ["data/test.jsonl"]),
        ([TRAIN, VALID], [TRAIN], [VALID]),
        (
            [SHARD.format(name) for name in ("train_sft", "test_sft", "test_gen")],
            [SHARD.format("train_sft")],
            [SHARD.format("test_sft")],
        ),
        (["test.jsonl"], ["test.jsonl"], []),
    ],
)  # fmt: skip
def test_files_are_trained_on_or_held_out_by_their_names(load, names, trained, held_out):
    found, evaluated, ledger = load(*names)
    assert (found, evaluated) == (trained, held_out)
    if held_out:
        assert ledger.eval_reason == "named so: d/" + ", ".join(held_out)
    unread = set(names) - {*trained, *held_out}
    assert all(any(name in note for note in ledger.notes) for name in unread)


def test_what_the_user_says_of_held_out_rows_wins(load, tmp_path):
    names = ["train.jsonl", "test.jsonl"]
    _, evaluated, ledger = load(*names, eval_split=1)
    assert evaluated == ["train.jsonl"] and ledger.eval_reason == "eval_split 1 rows"
    assert any("test.jsonl" in note and "eval_split" in note for note in ledger.notes)
    assert load(eval_split=0)[1] == []
    (tmp_path / "e.jsonl").write_text(json.dumps({"prompt": "e.jsonl 0", "completion": "A"}))
    assert load(eval_dataset="e.jsonl")[:2] == (["train.jsonl"], ["e.jsonl"])
    assert load(eval_dataset="d")[:2] == (["train.jsonl"], ["test.jsonl"])
    assert load(dataset_split="test")[:2] == (["test.jsonl"], [])
    assert load(dataset_split="train")[:2] == (["train.jsonl"], ["test.jsonl"])
    with pytest.raises(DataError, match=r"no file for the split 'tset'.*did you mean 'test'"):
        load(dataset_split="tset")
    with pytest.raises(DataError, match="split also within a folder"):
        load(dataset="d/train.jsonl", dataset_split="test")
    mixed = [DatasetSource(path="d"), DatasetSource(path="e.jsonl")]
    assert load(dataset=mixed)[:2] == (["e.jsonl", "train.jsonl"], ["test.jsonl"])


def test_a_folder_that_could_mean_several_things_is_refused(load):
    with pytest.raises(DataError, match=r"(test, validation|validation, test).*dataset_split"):
        load("test.jsonl", "dev.jsonl")
    with pytest.raises(DataError, match=r"train_gen, train_sft.*dataset_split"):
        load(SHARD.format("train_sft"), SHARD.format("train_gen"))
    names = [SHARD.format("train_gen")], [SHARD.format("train_sft")]
    assert load(dataset_split="train_gen")[0] == names[0]


def test_folders_that_are_not_read_are_named(load):
    found, _, ledger = load("a.jsonl", "raw/b.jsonl", ".cache/c.jsonl")
    assert found == ["a.jsonl"]
    assert any("raw/" in note and ".cache" not in note for note in ledger.notes)
    with pytest.raises(DataError, match="name one of its folders: raw"):
        load("d/raw/b.jsonl", dataset="d/d")


@settings(max_examples=60, deadline=None)
@given(
    word=st.sampled_from(["train", "dev", "test"]), rest=st.text("abcxyz", min_size=1, max_size=8)
)
def test_a_split_is_a_word_of_its_own(word, rest):
    expected = {"train": "train", "dev": "validation", "test": "test"}[word]
    for name in (f"{rest}_{word}", f"{word}-{rest}", f"{rest}.{word.upper()}.2", f"{word}1"):
        assert split_of(name) == expected
    assert split_of(rest) is None and split_of(f"{rest}{word}") is None
    assert label(Path(f"{word}-00000-of-00002.parquet"), f"{word}-00000-of-00002") == expected
    assert label(Path(f"{word}/x.jsonl"), "x") == expected
