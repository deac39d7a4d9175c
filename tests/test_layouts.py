"""Layouts that trainers document: all of a row is read, or the row is refused, or it is named."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_formats import DEMO, PAIR, assistant, made, system, user

from modelforge.data.formats import NAMES
from modelforge.errors import DataError

TOLD = [user("Hi"), assistant("Hello")]
TALK = [*TOLD, user("Q"), assistant("A")]

# one row, kind, what comes of it
CASES = [
    ({"context": "Q", "response": "A"}, "demonstration", DEMO),
    ({"problem": "Q", "generated_solution": "A"}, "demonstration", DEMO),
    (
        {"prompt": "Q", "chosen_messages": [assistant("A")], "rejected_messages": [assistant("B")]},
        "preference",
        PAIR,
    ),
    ({"completion": [user("Q"), assistant("A")], "label": True}, "demonstration", DEMO),
    ({"page": "words"}, "demonstration", {"text": "words"}),
    (
        {"instruction": "Q", "input": "", "output": "A", "history": [["Hi", "Hello"]]},
        "demonstration",
        {"messages": TALK},
    ),
    (
        {"query": "Q", "response": "A", "history": TOLD, "system": "S"},
        "demonstration",
        {"messages": [system("S"), *TALK]},
    ),
    ({"query": "Q", "response": "A", "history": []}, "demonstration", DEMO),
    (
        {"query": "Q", "response": "A", "history": '[["Hi", "Hello"]]'},
        "prompt",
        {"prompt": TALK[:3], "answer": "A"},
    ),
    (
        {
            "prompt": "Q",
            "chosen": "A",
            "rejected": "B",
            "history": [{"user": "Hi", "assistant": "Hello"}],
        },
        "preference",
        {**PAIR, "prompt": TALK[:3]},
    ),
    (
        {
            "conversation": [
                {"human": "Hi", "assistant": "Hello"},
                {"human": "Q", "assistant": "A"},
            ],
            "system": "S",
        },
        "demonstration",
        {"messages": [system("S"), *TALK]},
    ),
    ({"conversations": [["Hi", "Hello"], ["Q", "A"]]}, "demonstration", {"messages": TALK}),
    (
        {"question": "Q", "choices": ["x", "y"], "solution": "A"},
        "demonstration",
        {**DEMO, "prompt": [user("Q\n\nA. x\nB. y")]},
    ),
    (
        {"question": "Q", "choices": ["x", "y"], "answer": 1},
        "demonstration",
        {"prompt": [user("Q\n\nA. x\nB. y")], "completion": [assistant("B")]},
    ),
    (
        {"question": "Q", "choices": ["0", "1"], "answer": 1},
        "demonstration",
        {"prompt": [user("Q\n\nA. 0\nB. 1")], "completion": [assistant("1")]},
    ),
    (
        {"question": "Q", "choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"},
        "prompt",
        {"prompt": [user("Q\n\n1. x\n2. y")], "answer": "2"},
    ),
    (
        {"article": "C", "question": "Q", "answer": "A"},
        "demonstration",
        {**DEMO, "prompt": [user("C\n\nQ")]},
    ),
    (
        {"instruction": "Q", "text": "words", "output": "A"},
        "demonstration",
        {**DEMO, "prompt": [user("Q\n\nwords")]},
    ),
    ({"instruction": "Q", "output": "A", "text": "Below is Q. A"}, "demonstration", DEMO),
    ({"message_1": "Q", "message_2": "A"}, "demonstration", DEMO),
    ({"instruction": "Q", "revision": "A"}, "demonstration", DEMO),
    ({"prompt": "Q", "generation": "A"}, "demonstration", DEMO),
    ({"question": "Q", "answer_key": "A"}, "demonstration", DEMO),
    ({"instruction": "Q", "content": "A"}, "demonstration", DEMO),
    ({"user": "Q", "assistant": "A"}, "demonstration", DEMO),
    ({"response": "words"}, "demonstration", {"text": "words"}),
    (
        {"prompt": "Q", "answers": [{"answer": "B", "rank": 2}, {"answer": "A", "rank": 1}]},
        "preference",
        PAIR,
    ),
    (
        {"prompt": "Q", "answers": [{"answer": "B", "rank": 2}, {"answer": "A", "rank": 1}]},
        "demonstration",
        DEMO,
    ),
    ({"prompt": "Q", "responses": ["B", "A"], "ranks": [2, 1]}, "preference", PAIR),
    (
        {"messages": TALK, "rejected_response": "B"},
        "preference",
        {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": [assistant("B")]},
    ),
    ({"messages": TALK, "rejected_response": "B"}, "demonstration", {"messages": TALK}),
    (
        {"messages": TALK, "rejected_messages": [*TALK[:3], assistant("B")]},
        "preference",
        {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": [assistant("B")]},
    ),
    ({"query": "Q", "response": "A", "rejected_response": "B"}, "preference", PAIR),
    ({"question": "Q", "response_j": "A", "response_k": "B"}, "preference", PAIR),
    (
        {"chosen_conversations": TALK, "rejected_conversations": [*TALK[:3], assistant("B")]},
        "preference",
        {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": [assistant("B")]},
    ),
    (
        {
            "input": {"messages": [user("Q")]},
            "preferred_output": [assistant("A")],
            "non_preferred_output": [assistant("B")],
        },
        "preference",
        PAIR,
    ),
    (
        {
            "conversation_a": [user("Q"), assistant("B")],
            "conversation_b": [user("Q"), assistant("A")],
            "winner": "model_b",
        },
        "preference",
        PAIR,
    ),
    ({"context_messages": TALK[:3]}, "prompt", {"prompt": TALK[:3], "answer": None}),
    (
        {"paragraphs": [{"context": "C", "qas": [{"question": "Q", "answers": [{"text": "A"}]}]}]},
        "demonstration",
        {**DEMO, "prompt": [user("C\n\nQ")]},
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "value": "Q"}]},
                assistant("A"),
            ]
        },
        "demonstration",
        {"messages": [user("Q"), assistant("A")]},
    ),
    (
        {"input_ids": [1, 5, 6, 0], "labels": [-100, 5, 6, -100], "attention_mask": [1, 1, 1, 0]},
        "demonstration",
        {"input_ids": [1, 5, 6], "labels": [-100, 5, 6]},
    ),
]


@pytest.mark.parametrize(("row", "kind", "expected"), CASES)
def test_a_layout_is_read_whole(row, kind, expected):
    examples, ledger = made([row], kind)
    assert examples == [expected]
    assert not ledger.unused


def test_a_mark_of_good_and_bad_is_read_under_its_other_name():
    rated = (("A", True), ("B", False))
    said = [[{"from": "human", "value": "Q"}, {"from": "gpt", "value": word}] for word, _ in rated]
    layouts = [
        [
            {"conversations": talk, "kto_tag": good}
            for talk, (_, good) in zip(said, rated, strict=True)
        ],
        [
            {"instruction": "Q", "input": "", "output": word, "kto_tag": good}
            for word, good in rated
        ],
    ]
    for rows in layouts:
        assert made(rows, "preference")[0] == [PAIR]
        examples, ledger = made(rows, "demonstration")
        assert examples == [DEMO] and not ledger.unused
    asked = [{**row, "input": "x"} for row in layouts[1]]
    assert made(asked, "preference")[0] == [{**PAIR, "prompt": [user("Q\n\nx")]}]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"images": ["x.png"]}, "holds what is no text: images"),
        ({"Video": "x.mp4"}, "holds what is no text: Video"),
        ({"audios": [{"bytes": "00"}]}, "holds what is no text: audios"),
        ({"history": "what was said before"}, "turns not understood: history"),
        ({"choices": 7}, "choices not understood: choices"),
        ({"critiques": ["bad"]}, "column with a meaning of its own: critiques"),
        ({"train": False}, "marked not to be trained on: train"),
        ({"weight": 0}, "marked not to be trained on: weight"),
    ],
)
def test_what_changes_a_row_is_not_passed_over(extra, reason):
    row = {"prompt": "Q", "completion": "A"}
    examples, ledger = made([row, {**row, **extra}], "demonstration")
    assert examples == [DEMO] and list(ledger.dropped) == [reason]
    empty = {name: [] for name in extra}
    assert made([{**row, **empty}], "demonstration")[0] == [DEMO]


def test_text_beside_messages_and_a_second_system_message_cost_the_row():
    row = {"prompt": [user("Q")], "completion": "A"}
    _, ledger = made([row, {**row, "input": "x"}], "demonstration")
    assert list(ledger.dropped) == ["beside messages: input"]
    talk = {"messages": [system("S"), user("Q"), assistant("A")]}
    examples, ledger = made([{**talk, "system": s} for s in ("S", "T", "")], "demonstration")
    assert len(examples) == 2 and list(ledger.dropped) == ["two system messages"]
    _, ledger = made([{"text": "words", "instruction": "Sum up"}], "demonstration")
    assert list(ledger.dropped) == ["column with a meaning of its own: instruction"]


def test_every_column_and_message_key_that_is_not_used_is_named_with_its_rows():
    told = {
        "role": "assistant",
        "content": [{"type": "text", "text": "A", "cached": 1}],
        "mood": "x",
    }
    rows = [
        {"messages": [user("Q"), told], "source": "s", "n": 0},
        {"messages": [user("Q"), assistant("A")], "source": None, "n": 2},
    ]
    _, ledger = made(rows, "demonstration")
    counted = {name: (tally.count, tally.first) for name, tally in ledger.unused.items()}
    assert counted == {
        "messages[].mood": (1, ["rows.jsonl:1"]),
        "messages[].content[].cached": (1, ["rows.jsonl:1"]),
        "source": (1, ["rows.jsonl:1"]),
        "n": (2, ["rows.jsonl:1", "rows.jsonl:2"]),
    }
    (line,) = [line for line in ledger.fact_lines() if line.startswith("not used: ")]
    assert "source (1 row)" in line and "n (2 rows)" in line
    _, prompts = made([{"prompt": "Q", "level": 3}], "prompt")
    assert list(prompts.passed_on) == ["level"] and not prompts.unused
    by_hand = [{"q": "Q", "completion": "A", "prompt": "other"}]
    _, ledger = made(by_hand, "demonstration", columns={"prompt": "q"})
    assert list(ledger.unused) == ["prompt (of the file)"]


names = st.sampled_from(
    sorted({name for group in NAMES.values() for name in group} | {"odd", "id"})
)


@settings(max_examples=60, deadline=None)
@given(
    row=st.dictionaries(
        names, st.sampled_from(["word", 3, True, "two words"]), min_size=1, max_size=6
    ),
    kind=st.sampled_from(["demonstration", "preference", "prompt"]),
)
def test_no_column_vanishes(row, kind):
    try:
        _, ledger = made([row], kind)
    except DataError:
        return
    read = set(ledger.sources[0]["columns"].values())
    assert ledger.dropped or set(row) <= read | {*ledger.unused, *ledger.passed_on}


def test_a_file_of_which_next_to_nothing_can_be_used_is_refused():
    from modelforge.data.ledger import Ledger

    ledger = Ledger("preference")
    for number in range(299):
        ledger.drop("no partner", f"rows.jsonl:{number}")
    with pytest.raises(DataError, match="1 of 300 rows can be used, at least 15 needed"):
        ledger.refuse_if_too_few("rows.jsonl", 1, 1)
    by_length = Ledger("preference")
    for number in range(299):
        by_length.drop("longer than max_seq_length", f"rows.jsonl:{number}")
    by_length.refuse_if_too_few("rows.jsonl", 1, 1)
