"""Text files in blocks, folders of `datasets`, and exports of annotation tools."""

import json

import pytest
import tiny

from modelforge import load_config
from modelforge.common.sources import Splits
from modelforge.data import load_data
from modelforge.data.exports import plain
from modelforge.data.read import Row
from modelforge.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.talking()


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(dataset, kind="demonstration", **options):
        given = {"max_length": 32, "seed": 0, "eval_split": 0, **options}
        return load_data(
            dataset=dataset, kind=kind, tokenizer=tokenizer, base_dir=tmp_path, **given
        )

    return load


STORY = " ".join(f"word{i}" for i in range(60))


@pytest.mark.parametrize("rule", ["cut", "split"])
def test_a_document_is_cut_into_blocks_without_overlap(load, tmp_path, tokenizer, rule):
    (tmp_path / "story.txt").write_text(STORY)
    whole = load("story.txt", max_length=None).train_tokens[0].ids[0]
    assert whole[-1] == tokenizer.eos_token_id
    data = load("story.txt", long_rows=rule)
    blocks = [row.ids[0] for row in data.train_tokens]
    assert [token for block in blocks for token in block] == list(whole)
    assert not data.ledger.truncated.count
    if rule == "cut":
        assert {len(block) for block in blocks[:-1]} == {32}
        assert any(f"cut into {len(blocks)} blocks" in note for note in data.ledger.notes)
        assert data.train[1]["text"] == tokenizer.decode(blocks[1])
    other = load("story.txt", max_length=64)
    assert len(other.train) < len(blocks) or rule == "split"


def test_a_folder_of_texts_is_a_row_a_file_and_a_readme_is_no_data(load, tmp_path):
    for name in ("b.txt", "a.txt", "test.txt"):
        (tmp_path / "d" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "d" / name).write_text(f"This is {name}.")
    data = load("d", eval_split=None)
    assert data.train["text"][:] == ["This is a.txt.", "This is b.txt."]
    assert data.eval["text"][:] == ["This is test.txt."]
    (tmp_path / "d" / "rows.jsonl").write_text(json.dumps({"prompt": "Q", "completion": "A"}))
    data = load("d")
    assert len(data.train) == 1 and any("a.txt" in note for note in data.ledger.notes)


def test_what_datasets_saves_is_read_with_its_splits(load, tmp_path):
    from datasets import Dataset, DatasetDict

    sets = {
        name: Dataset.from_list(
            [{"prompt": f"{name} {i}", "completion": "A"} for i in range(count)]
        )
        for name, count in (("train", 4), ("test", 2))
    }
    DatasetDict(sets).save_to_disk(tmp_path / "both")
    sets["train"].save_to_disk(tmp_path / "one", num_shards=2)
    data = load("both", eval_split=None)
    assert (len(data.train), len(data.eval)) == (4, 2)
    assert data.eval[0]["prompt"][0]["content"] == "test 0"
    assert len(load("one").train) == 4


ARGILLA = [
    {
        "id": "1",
        "fields": {"prompt": "Q"},
        "suggestions": {"completion": {"value": "B", "agent": "x"}},
        "responses": {"completion": [{"value": "A", "user_id": "u"}]},
        "status": "completed",
    },
    {
        "id": "2",
        "fields": {"prompt": "Q"},
        "suggestions": {"completion": {"value": "A"}},
        "responses": {},
    },
]
ARGILLA_TABLE = [
    {
        "id": "1",
        "prompt": "Q",
        "completion.responses": ["A"],
        "completion.responses.users": ["u"],
        "completion.suggestion": "B",
    },
    {"id": "2", "prompt": "Q", "completion.responses": None, "completion.suggestion": "A"},
]
LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"prompt": "Q"},
        "annotations": [
            {"was_cancelled": True, "result": []},
            {"result": [{"from_name": "response", "value": {"text": ["A"]}, "type": "textarea"}]},
        ],
    }
]


@pytest.mark.parametrize(
    ("rows", "tool"),
    [(ARGILLA, "Argilla"), (ARGILLA_TABLE, "Argilla"), (LABEL_STUDIO, "Label Studio")],
)
def test_an_export_of_a_tool_is_read_as_what_was_said(load, tmp_path, rows, tool):
    (tmp_path / "export.json").write_text(json.dumps(rows))
    data = load("export.json")
    talk = [{"role": "user", "content": "Q"}], [{"role": "assistant", "content": "A"}]
    assert [(row["prompt"], row["completion"]) for row in data.train] == [talk] * len(rows)
    assert any(f"an export of {tool}" in note for note in data.ledger.notes)


def test_pairs_that_were_compared_in_label_studio():
    said = [{"from_name": "preference", "value": {"selected": "right"}, "type": "pairwise"}]
    data = {"prompt": "Q", "answer_a": "B", "answer_b": "A"}
    cells = {"id": 1, "data": data, "annotations": [{"result": said}]}
    (row,), tool = plain([Row(cells, "x", 1)])
    assert tool and row.cells == {"id": 1, **data, "preference": "right"}


def test_rows_in_tokens_are_trained_on_as_they_are(load, tmp_path, tokenizer):
    ids = tokenizer("one two")["input_ids"] + [tokenizer.eos_token_id]
    labels = [-100, *ids[1:]]
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    data = load("t.jsonl")
    assert data.train_tokens[0].labels().tolist() == labels
    pieces = [{"label": False, "text": "one"}, {"label": True, "text": " two<|eos|>"}]
    path.write_text(json.dumps({"segments": pieces}) + "\n")
    (row,) = load("t.jsonl").train_tokens
    trained = [label for label in row.labels() if label != -100]
    assert row.ids[0].tolist() == ids and tokenizer.decode(trained) == " two<|eos|>"
    path.write_text(json.dumps({"input_ids": [1, 10**6], "labels": [1, 10**6]}) + "\n")
    with pytest.raises(DataError, match="a token that the tokenizer does not have"):
        load("t.jsonl")
    path.write_text(json.dumps({"input_ids": [1, 2], "labels": [1]}) + "\n")
    with pytest.raises(DataError, match="tokens not understood: labels"):
        load("t.jsonl")


def test_a_data_set_may_name_what_is_trained_on_and_what_is_held_out(load, tmp_path):
    for name in ("a", "b", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": "Q", "completion": name}))
    held = {"validation": "dev.jsonl", "test": "test.jsonl"}
    splits = Splits.model_validate({"train": ["a.jsonl", "b.jsonl"], **held})
    data = load(splits, eval_split=None)
    assert [row["completion"][0]["content"] for row in data.train] == ["a", "b"]
    assert [row["completion"][0]["content"] for row in data.eval] == ["dev"]
    assert data.ledger.eval_reason == "dataset: validation"
    assert "not read: test of dataset, since validation is there" in data.ledger.notes
    assert load(splits).eval is None  # eval_split: 0
    tested = splits.model_copy(update={"validation": None})
    assert load(tested, eval_split=None).ledger.eval_reason == "dataset: test"
    with pytest.raises(DataError, match="keep one of the two"):
        load(splits, eval_split=None, eval_dataset="dev.jsonl")
    own = Splits.model_validate({"train": [{"path": "a.jsonl", "eval": 1}], **held})
    with pytest.raises(DataError, match=r"eval of a.jsonl: dataset: validation is given too"):
        load(own, eval_split=None)


def test_a_config_may_name_splits(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    values = {"strategy": "sft", "model_name": "m"}
    (tmp_path / "c.json").write_text(json.dumps({**values, "dataset": {"train": "a.jsonl"}}))
    config = load_config(tmp_path / "c.json")
    assert config.portable()["dataset"]["train"] == str(tmp_path / "a.jsonl")
    with pytest.raises(ConfigError, match=r"dataset\.valid.*did you mean 'validation'"):
        load_config({**values, "dataset": {"train": "a.jsonl", "valid": "a.jsonl"}})
