"""`streaming`: no more rows are read than the steps of a run train on, the same ones each time."""

import json
from pathlib import Path

import pytest
from datasets import load_dataset
from tiny import resumed_bitwise

from modelforge import ConfigError, load_config
from modelforge.data import stream
from modelforge.data.stream import rows_of_steps, streamed
from modelforge.training.read import read, row_limit
from modelforge.training.resolve import resolve

TINY = Path(__file__).parents[1] / "examples" / "tiny"
BASE = {"strategy": "sft", "model_name": str(TINY / "model"), "report_to": "none",
        "max_seq_length": 64, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    rows = (TINY / "data" / "sft_train.jsonl").read_text().splitlines()[:200]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    return tmp_path / "rows.jsonl"


def test_a_stream_gives_the_first_rows_of_one_order_and_is_read_no_further(file, monkeypatch):
    read_on = []

    def rows():
        found = load_dataset("json", data_files=str(file), split="train", streaming=True)
        return found.map(lambda row: read_on.append(1) or row)

    first, again, other = (streamed(rows(), "s", most=5, seed=seed) for seed in (1, 1, 2))
    assert first == again and first != other
    assert [row.where for row in first[0]] == [f"s:{n}" for n in range(1, 6)]
    assert len(read_on) <= 3 * 60  # five rows, and those among which they are drawn
    monkeypatch.setattr(stream, "HELD", 4)
    spooled, digest = streamed(rows(), "s", most=5, seed=1)
    assert (list(spooled), digest) == first and len(spooled) == 5
    assert len(streamed(rows(), "s", most=500, seed=1)[0]) == 200


def test_the_rows_are_those_of_all_steps_and_what_is_held_out(file, tmp_path):
    assert rows_of_steps(10, 4, 0) == 44
    assert rows_of_steps(10, 4, 10) == 55
    assert rows_of_steps(9, 4, 0.1) == 44
    values = BASE | {"dataset": str(file), "streaming": True, "max_steps": 6, "eval_split": 6,
                     "output_dir": str(tmp_path / "runs")}  # fmt: skip
    one, two = (read(resolve(load_config(values))).data for _ in range(2))
    assert one.ledger.train_rows + one.ledger.eval_rows == 33
    assert any("6 steps of 4, 6 to hold out" in note for note in one.ledger.notes)
    assert one.train.to_list() == two.train.to_list()
    beside = load_config({**values, "eval_split": None, "eval_dataset": str(file)})
    assert row_limit(beside)["max_samples"] == 27
    assert row_limit(load_config({**values, "max_samples": 9}))["max_samples"] == 9


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({}, "nothing says how many these are.*set max_steps, or max_samples"),
        ({"max_steps": -1}, "set max_steps, or max_samples"),
        ({"max_steps": 5, "packing": True}, "packing says only as it goes.*set max_samples"),
        ({"streaming": "maybe"}, "streaming"),
    ],
)
def test_a_stream_without_an_end_is_refused(values, what):
    with pytest.raises(ConfigError, match=what):
        load_config({**BASE, "dataset": "org/rows", "streaming": True} | values)


@pytest.mark.slow
def test_a_stopped_run_on_a_stream_goes_on_with_the_same_rows(tmp_path, monkeypatch):
    said = ("streaming=true", "max_steps=5", "save_steps=2", "logging_steps=1",
            "per_device_train_batch_size=4", "eval_dataset=null", "eval_split=4")  # fmt: skip
    whole = resumed_bitwise("sft", tmp_path, monkeypatch, *said, stop=3)
    told = json.loads((whole.run_dir / "data.json").read_text())
    assert told["sources"][0]["rows"] < 200  # of the file, no more than the steps take
