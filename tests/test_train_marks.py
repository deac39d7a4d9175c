"""Rows some of whose messages are left out whole and some in part."""

import json

import pytest

from modelforge.data import load_data
from tests.tiny import talking


@pytest.mark.parametrize("kind", ["demonstration", "preference"])
def test_messages_left_out_whole_and_in_part_stand_in_one_data_set(kind, tmp_path):
    part = [{"type": "text", "text": "Well. "}, {"type": "text", "text": "No.", "train": False}]
    asked = {"role": "user", "content": "?"}
    first = [asked, {"role": "assistant", "content": "a", "train": False}, asked]
    second = [asked, {"role": "assistant", "content": part}, asked]
    said = {"role": "assistant", "content": "Yes."}
    rows = [
        {"messages": [*talk, said]}
        if kind == "demonstration"
        else {"prompt": talk, "chosen": [said], "rejected": [{**said, "content": "Maybe."}]}
        for talk in (first, second)
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    data = load_data(
        dataset=path, kind=kind, tokenizer=talking(), max_length=200, eval_split=0, min_rows=1
    )
    assert len(data.train) == 2
