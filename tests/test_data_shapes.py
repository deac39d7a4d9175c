"""Public layouts that are made into known ones before they are recognised."""

import pytest
from test_data_formats import TALK, assistant, made, user

from modelforge.errors import DataError

TREE = [
    {"message_id": "1", "parent_id": None, "role": "prompter", "text": "1", "rank": None},
    {"message_id": "2", "parent_id": "1", "role": "assistant", "text": "2", "rank": 0},
    {"message_id": "x", "parent_id": "1", "role": "assistant", "text": "bad", "rank": 1},
    {"message_id": "3", "parent_id": "2", "role": "prompter", "text": "3", "rank": None},
    {"message_id": "4", "parent_id": "3", "role": "assistant", "text": "4", "rank": None},
    {"message_id": "5", "parent_id": "3", "role": "assistant", "text": "5", "rank": None},
    {"message_id": "y", "parent_id": "gone", "role": "assistant", "text": "lost", "rank": None},
]


def test_a_tree_of_messages_is_read_way_by_way_and_its_worse_answers_are_left_out():
    examples, ledger = made(TREE, "demonstration")
    first, second = ({**m, "train": False} for m in TALK[:2])
    assert examples == [
        {"messages": TALK},
        {"messages": [first, second, {**user("3"), "train": False}, assistant("5")]},
    ]
    told = "make 2 conversations by parent_id; 2 messages are left out"
    assert any(told in note for note in ledger.notes)


@pytest.mark.parametrize(
    ("belongs", "speaker", "said", "order"),
    [
        ("conversation_id", "role", "content", "turn"),
        ("session_id", "from", "message", "timestamp"),
        ("dialogue_id", "speaker", "utterance", "turn_index"),
    ],
)
def test_rows_of_one_message_are_put_together_by_their_conversation(belongs, speaker, said, order):
    rows = [
        {belongs: c, speaker: m["role"], said: m["content"], order: n}
        for n, m in enumerate(TALK, 1)
        for c in ("a", "b")
    ]
    examples, ledger = made([rows[2], *rows[:2], *rows[3:]], "demonstration")
    assert examples == [{"messages": TALK}] * 2
    assert not ledger.unused


def test_single_messages_that_cannot_be_put_together_are_refused():
    rows = [{"role": m["role"], "text": m["content"]} for m in TALK]
    with pytest.raises(DataError, match="column conversation_id; to train on each alone"):
        made(rows, "demonstration")
    strangers = [{"dialogue_id": 1, "speaker": name, "text": "Hi"} for name in ("Ann", "Bob")]
    with pytest.raises(DataError, match="write user, assistant, system or tool into speaker"):
        made(strangers, "demonstration")
    examples, _ = made(rows, "demonstration", columns={"text": "text"})
    assert examples == [{"text": m["content"]} for m in TALK]
