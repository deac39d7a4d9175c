"""Layouts that trainers document: all of a row is read, or the row is refused, or it is named."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_formats import DEMO, PAIR, assistant, made, system, user

from modelforge.data.formats import NAMES
from modelforge.data.message import CALL_KEYS, READ_KEYS, WEIGHT_KEYS
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
    ({"prompt": "Q", "canonical_solution": "A"}, "demonstration", DEMO),
    ({"input": "Q", "generations": ["A", "B"], "rating": [9.0, 5.0]}, "preference", PAIR),
    (
        {"context": [user("Q")], "original_response": "B", "edited_response": "A"},
        "preference",
        PAIR,
    ),
    (
        {"problem": "Q", "deepseek_reasoning": "It is so", "deepseek_solution": "A"},
        "demonstration",
        {**DEMO, "completion": [{**assistant("A"), "reasoning_content": "It is so"}]},
    ),
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


def tree(*, rank=None, name="a", role="assistant", text="A", replies=()):
    return {"message_id": name, "role": role, "text": text, "rank": rank, "replies": [*replies]}


def test_a_tree_of_messages_gives_its_best_answers_or_pairs():
    answers = [tree(name="b", rank=1, text="B"), tree(name="c", rank=0)]
    row = {"prompt": tree(role="prompter", text="Q", replies=answers)}
    assert made([row], "demonstration")[0] == [{"messages": [user("Q"), assistant("A")]}]
    examples, ledger = made([row], "preference")
    assert examples == [PAIR]
    assert "1 pairs of ranked answers" in ledger.notes[0]
    flat = [
        {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Q", "rank": None},
        *({"message_id": n, "parent_id": "a", "role": "assistant", "text": t, "rank": r}
          for n, t, r in (("b", "B", 1.0), ("c", "A", 0.0), ("d", "C", None))),
    ]  # fmt: skip
    assert made(flat, "preference")[0] == [PAIR]


def test_a_thought_is_read_from_the_column_that_is_named_and_a_part_of_an_object_can_be():
    thought = [{**assistant("A"), "reasoning_content": "So"}]
    for name in ("thought", "reasoning_content", "thinking"):
        named = {"prompt": "p", "completion": "s.t", name: "r"}
        examples, ledger = made(
            [{"p": "Q", "r": "So", "s": {"t": "A", "u": u}} for u in (None, 1)],
            "demonstration",
            columns=named,
        )
        assert examples == [{**DEMO, "completion": thought}] * 2
        assert ledger.unused["s"].first == ["rows.jsonl:2"]
    with pytest.raises(DataError, match=r"no column 's\.v'"):
        made([{"s": {"t": "A"}}], "demonstration", columns={"completion": "s.v"})


def test_keys_of_answers_that_are_not_read_are_named():
    answers = [{"response": word, "score": n, "system": "S"} for n, word in enumerate("BA")]
    examples, ledger = made([{"prompt": "Q", "completions": answers}], "preference")
    assert examples == [PAIR] and list(ledger.unused) == ["completions[].system"]


def test_exports_of_annotation_tools_leave_out_what_was_not_handed_in():
    said = [{"value": "B", "status": "discarded"}, {"value": "A", "status": "submitted"}]
    values = [{"values": {"response": one}, "status": one["status"]} for one in said]
    rows = [
        {"prompt": "Q", "response": said, "response-suggestion": "C"},
        {"prompt": "Q", "response": said[:1], "response-suggestion": "A"},
        {"fields": {"prompt": "Q"}, "responses": values},
        {"fields": {"prompt": "Q"}, "responses": {"response": said}},
        {"fields": {"prompt": "Q"}, "responses": [],
         "suggestions": [{"question_name": "response", "value": "A"}]},
    ]  # fmt: skip
    assert [made([row], "demonstration")[0] for row in rows] == [[DEMO]] * 5
    chosen = {"type": "pairwise", "to_name": "x,y", "value": {"selected": "right"}}
    task = {"data": {"prompt": "Q", "x": "B", "y": "A"}, "annotations": [{"result": [chosen]}]}
    assert made([task], "preference")[0] == [PAIR]


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


KNOWN = sorted({*READ_KEYS, "mood", "prefix"} - {*WEIGHT_KEYS, "train_detail"})


def filled(key, mark):
    """A value of a message's key that holds a mark of its own, in one of the forms it may have."""
    if key in CALL_KEYS:
        return {"name": mark, "arguments": {}}
    return 7 if mark.startswith("n") and key in ("name", "tool_call_id") else mark


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from(KNOWN), unique=True, max_size=5),
    turn=st.integers(0, 1),
    odd=st.booleans(),
    layout=st.sampled_from(["messages", "prompt", "pair", "history"]),
)
def test_no_key_of_a_message_vanishes(keys, turn, odd, layout):
    talk = [user("a q"), assistant("an a")]
    marks = {key: f"{'n' if odd else 'm'}{i}mark" for i, key in enumerate(keys)}
    talk[turn] |= {k: filled(k, mark) for k, mark in marks.items() if k not in ("role", "content")}
    row, kind = {"messages": talk}, "demonstration"
    if layout == "prompt":
        row = {"prompt": talk[:1], "completion": talk[1:]}
    elif layout == "pair":
        row, kind = {"prompt": talk[:1], "chosen": talk[1:], "rejected": "B"}, "preference"
    elif layout == "history":
        row = {"prompt": "Q", "completion": "A", "history": talk}
    try:
        examples, ledger = made([row], kind)
    except DataError as error:
        assert any(key in str(error) for key in marks), error
        return
    told = json.dumps(examples)
    named = {name.rpartition(".")[2] for name in ledger.unused}
    for key in marks.keys() - {"role", "content"}:
        assert ledger.dropped or key in named or marks[key] in told, (key, named)
