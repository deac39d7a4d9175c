"""Recognising formats without being told, and what comes of their rows."""

import datetime
import decimal
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge.data.advice import ADVICE
from modelforge.data.convert import Mode
from modelforge.data.converted import convert
from modelforge.data.formats import TABLE
from modelforge.data.ledger import Ledger
from modelforge.data.read import Row, Table
from modelforge.errors import DataError


def made(rows, kind, *, columns=None, template=True):
    """The examples and the ledger of rows as a file would give them."""
    table = Table("rows.jsonl", [Row(row, "rows.jsonl", i) for i, row in enumerate(rows, 1)], "")
    ledger = Ledger(kind)
    mode = Mode(kind, conversational=template)
    examples = [e for _, e in convert(table, mode, columns or {}, ledger, "train")]
    return examples, ledger


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


ASK, TELL, BAD = [user("Q")], [assistant("A")], [assistant("B")]
PAIR = {"prompt": ASK, "chosen": TELL, "rejected": BAD}
DEMO = {"prompt": ASK, "completion": TELL}
TALK = [user("1"), assistant("2"), user("3"), assistant("4")]
HH = "\n\nHuman: Q\n\nAssistant: "

# format, one row, kind, what comes of it
CASES = [
    ("messages", {"messages": TALK}, "demonstration", {"messages": TALK}),
    ("messages", {"messages": TALK}, "prompt", {"prompt": TALK[:-1], "answer": "4"}),
    (
        "messages",
        {
            "system": "S",
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
        },
        "demonstration",
        {"messages": [system("S"), *ASK, *TELL]},
    ),
    (
        "messages",
        {"messages": json.dumps(TALK)},
        "demonstration",
        {"messages": TALK},
    ),
    (
        "messages",
        {"messages": [{"role": "human", "content": [{"type": "text", "text": "Q"}]}, *TELL]},
        "demonstration",
        {"messages": [*ASK, *TELL]},
    ),
    ("prompt/completion", {"prompt": "Q", "completion": "A"}, "demonstration", DEMO),
    ("prompt/completion", {"prompt": ASK, "completion": TELL}, "demonstration", DEMO),
    ("prompt/completion", {"Prompt": "Q", "RESPONSE": "A"}, "demonstration", DEMO),
    (
        "prompt/completion",
        {"prompt": "\n\nHuman: 1\n\nAssistant: 2\n\nHuman: 3\n\nAssistant:", "completion": "4"},
        "demonstration",
        {"prompt": TALK[:3], "completion": TALK[3:]},
    ),
    ("instruction/output", {"instruction": "Q", "output": "A"}, "demonstration", DEMO),
    (
        "instruction/input/output",
        {"instruction": "Q", "input": "x", "response": "A"},
        "demonstration",
        {"prompt": [user("Q\n\nx")], "completion": TELL},
    ),
    (
        "instruction/input/output",
        {"instruction": "Q", "input": "", "output": "A", "system": "S"},
        "demonstration",
        {"prompt": [system("S"), user("Q")], "completion": TELL},
    ),
    (
        "question/answer",
        {"question": "Q", "answer": 10.0},
        "prompt",
        {"prompt": ASK, "answer": "10"},
    ),
    ("question/answer", {"problem": "Q", "solution": "A", "answer": "3"}, "demonstration", DEMO),
    ("document/summary", {"document": "Q", "summary": "A"}, "demonstration", DEMO),
    ("document/summary", {"document": "Q", "target": "A"}, "demonstration", DEMO),
    ("document/summary", {"text": "Q", "summary": "A"}, "demonstration", DEMO),
    ("document/summary", {"article": "Q", "highlights": "A", "id": 1}, "demonstration", DEMO),
    ("input/output", {"input": "Q", "output": "A"}, "demonstration", DEMO),
    ("goal/target", {"goal": "Q", "target": "A"}, "demonstration", DEMO),
    (
        "context/question/answer",
        {"context": "C", "question": "Q", "answers": {"text": ["A", "a"], "answer_start": [0, 1]}},
        "demonstration",
        {"prompt": [user("C\n\nQ")], "completion": TELL},
    ),
    (
        "body/question/answer",
        {"Body": "C.", "Question": "Q", "Answer": 2.5},
        "demonstration",
        {"prompt": [user("C. Q")], "completion": [assistant("2.5")]},
    ),
    (
        "instruction with instances",
        {"instruction": "Q", "instances": [{"input": "x", "output": "A"}]},
        "demonstration",
        {"prompt": [user("Q\n\nx")], "completion": TELL},
    ),
    (
        "turns of the user",
        {"turns": ["Q", "more"], "reference": ["A", "B"]},
        "prompt",
        {"prompt": ASK, "answer": "A"},
    ),
    ("plain text", {"text": "words"}, "demonstration", {"text": "words"}),
    ("prompt", {"prompt": "Q", "label": "safe"}, "prompt", {"prompt": ASK, "answer": None}),
    (
        "prompt, chosen/rejected",
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        "preference",
        PAIR,
    ),
    (
        "prompt, chosen/rejected",
        {"question": "Q", "chosen": "A", "rejected": ""},
        "demonstration",
        DEMO,
    ),
    (
        "prompt, chosen/rejected",
        {
            "prompt": "Q",
            "chosen": ASK + TELL,
            "rejected": ASK + BAD,
            "score_chosen": 4,
            "score_rejected": 1,
        },
        "preference",
        PAIR,
    ),
    (
        "instruction/input, chosen/rejected",
        {"instruction": "Q", "input": "x", "chosen": "A", "rejected": "B"},
        "preference",
        {**PAIR, "prompt": [user("Q\n\nx")]},
    ),
    (
        "conversation, chosen/rejected",
        {
            "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        "preference",
        {**PAIR, "prompt": [system("S"), *ASK]},
    ),
    (
        "chosen/rejected, prompt implicit",
        {"chosen": HH + "A", "rejected": HH + "B"},
        "preference",
        PAIR,
    ),
    (
        "chosen/rejected, prompt implicit",
        {"chosen": HH + "A", "rejected": HH + "B"},
        "demonstration",
        DEMO,
    ),
    (
        "chosen/rejected, prompt implicit",
        {"chosen": TALK, "rejected": [*TALK[:3], assistant("5")], "margin": "2"},
        "preference",
        {"prompt": TALK[:3], "chosen": TALK[3:], "rejected": [assistant("5")], "margin": 2.0},
    ),
    (
        "chosen/rejected, prompt implicit",
        {
            "chosen": [assistant("Hi"), *ASK, assistant("A")],
            "rejected": [assistant("Hi"), *ASK, assistant("B")],
        },
        "preference",
        {**PAIR, "prompt": [assistant("Hi"), *ASK]},
    ),
    (
        "chosen/rejected, prompt implicit",
        {"chosen": "What? Yes indeed", "rejected": "What? Yes, no"},
        "preference",
        {
            "prompt": [user("What?")],
            "chosen": [assistant("Yes indeed")],
            "rejected": [assistant("Yes, no")],
        },
    ),
    (
        "question, matching/not matching answer",
        {"question": "Q", "answer_matching_behavior": "A", "answer_not_matching_behavior": "B"},
        "preference",
        PAIR,
    ),
    (
        "question, best/incorrect answers",
        {"Question": "Q", "Best Answer": "A", "Incorrect Answers": "B; C"},
        "preference",
        PAIR,
    ),
    (
        "several answers with scores",
        {
            "instruction": "Q",
            "completions": [
                {"response": "B", "overall_score": 2},
                {"response": "M", "overall_score": 3},
                {"response": "A", "overall_score": 4.5},
            ],
        },
        "preference",
        PAIR,
    ),
    (
        "lists of answers and of scores",
        {"prompt": "Q", "responses": ["B", "A"], "scores": [1, 2]},
        "preference",
        PAIR,
    ),
]


@pytest.mark.parametrize(("name", "row", "kind", "expected"), CASES)
def test_a_format_is_recognised_and_converted(name, row, kind, expected):
    examples, ledger = made([row], kind)
    assert ledger.sources[0]["format"] == name
    assert examples == [expected]


def test_the_table_has_no_two_formats_of_one_name():
    names = [form.name for form in TABLE]
    assert len(set(names)) == len(names)


def test_hh_dialogues_with_odd_turns():
    chosen = HH + "Wait.\n\nAssistant: A"
    examples, _ = made([{"chosen": chosen, "rejected": HH + "B"}], "preference")
    assert examples == [{**PAIR, "chosen": [assistant("Wait.\n\nA")]}]
    rows = [
        {"chosen": HH + "A", "rejected": HH + "A"},
        {"chosen": HH, "rejected": HH + "B"},
        {"chosen": HH + "A", "rejected": "\n\nHuman: other\n\nAssistant: B"},
        {"chosen": HH + "A\n\nHuman: thanks", "rejected": HH + "B"},
    ]
    examples, ledger = made(rows, "preference")
    assert examples == []
    assert {r: t.count for r, t in ledger.dropped.items()} == {
        "chosen equals rejected": 1,
        "no common prompt": 2,
        "no assistant reply": 1,
    }


def test_without_a_template_text_stays_raw_and_messages_wait_for_one():
    row = {"prompt": "Q ", "completion": "A"}
    assert made([row], "demonstration", template=False)[0] == [row]
    raw, _ = made([{"chosen": HH + "A", "rejected": HH + "B"}], "preference", template=False)
    assert raw == [{"prompt": HH.rstrip(), "chosen": " A", "rejected": " B"}]
    for rows in ([{"messages": TALK}], [{"prompt": ASK, "completion": TELL}]):
        examples, ledger = made(rows, "demonstration", template=False)
        assert examples == [] and ledger.dropped["needs a chat template"].count == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "", "completion": "A"}, "empty cell: prompt"),
        ({"prompt": "Q", "completion": "  \n"}, "empty cell: completion"),
        ({"prompt": "Q", "completion": None}, "empty cell: completion"),
        ({"prompt": "Q"}, "empty cell: completion"),
        ({"prompt": "Q", "completion": {"a": 1}}, "not text: completion"),
        ({"prompt": "Q", "completion": float("nan")}, "empty cell: completion"),
        ({"prompt": {"a": 1}, "completion": "A"}, "not text: prompt"),
        (
            {"prompt": "Q", "completion": [{"role": "wizard", "content": "A"}]},
            "broken messages: unknown role 'wizard'",
        ),
        ({"prompt": "Q", "completion": [user("A")]}, "no assistant reply"),
    ],
)
def test_bad_rows_are_dropped_with_reason_and_line(row, reason):
    good = {"prompt": "Q", "completion": "A"}
    examples, ledger = made([good, row, good], "demonstration")
    assert examples == [DEMO, DEMO]
    assert {r: t.first for r, t in ledger.dropped.items()} == {reason: ["rows.jsonl:2"]}
    assert reason.split(":")[0] in ADVICE


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "7"),
        (7.0, "7"),
        (-0.5, "-0.5"),
        (True, "true"),
        (0, "0"),
        (datetime.date(2024, 5, 1), "2024-05-01"),
        (datetime.datetime(2024, 5, 1, 9, 30), "2024-05-01T09:30:00"),
        (decimal.Decimal("1.10"), "1.10"),
        ([3, 5.5, {"when": datetime.date(2024, 5, 1)}], '[3, 5.5, {"when": "2024-05-01"}]'),
        ({"é": [1, None]}, '{"é": [1, null]}'),
    ],
)
def test_a_cell_that_is_no_text_stands_written_out_in_the_prompt(value, words):
    row = {"instruction": "Q", "input": value, "output": "A", "system": value}
    asked = [system(words), user(f"Q\n\n{words}")]
    assert made([row], "demonstration")[0] == [{"prompt": asked, "completion": TELL}]
    pair = {"instruction": "Q", "input": value, "chosen": "A", "rejected": "B"}
    assert made([pair], "preference")[0] == [{**PAIR, "prompt": asked[1:][:1]}]
    context = {"context": value, "question": "Q", "answer": "A"}
    assert made([context], "prompt")[0] == [{"prompt": [user(f"{words}\n\nQ")], "answer": "A"}]
    if not isinstance(value, list | dict):
        talk = [{"role": "user", "content": value}, {"role": "assistant", "content": [value]}]
        read = [user(words), assistant(words)]
        assert made([{"messages": talk}], "demonstration")[0] == [{"messages": read}]
        plain = {"prompt": value, "completion": value}
        assert made([plain], "demonstration")[0] == [{"prompt": read[:1], "completion": read[1:]}]
        rated = {"prompt": "Q", "responses": ["no", value], "scores": [1, 2]}
        assert made([rated], "demonstration")[0] == [{"prompt": ASK, "completion": read[1:]}]


def test_a_cell_without_any_text_costs_its_row_and_says_so():
    row = {"instruction": "Q", "input": b"\x00\x01", "output": "A"}
    examples, ledger = made([row], "demonstration")
    assert examples == [] and list(ledger.dropped) == ["not text: input"]


def test_columns_named_by_hand():
    rows = [{"Query": "Q", "Reply": "A", "prompt": "not this", "messages": TALK}]
    examples, _ = made(rows, "demonstration", columns={"prompt": "Query", "completion": "Reply"})
    assert examples == [DEMO]
    with pytest.raises(DataError) as caught:
        made(rows, "demonstration", columns={"prompt": "Qery", "complet": "Reply"})
    assert "did you mean 'query'?" in str(caught.value)
    assert "did you mean 'completion'?" in str(caught.value)


def test_an_unknown_format_tells_its_columns_and_a_known_one_what_it_serves():
    with pytest.raises(DataError, match="has the columns 'foo', 'bar'"):
        made([{"foo": 1, "bar": 2}], "demonstration")
    with pytest.raises(
        DataError, match="read as question/answer, it holds demonstration or prompt"
    ):
        made([{"question": "Q", "answer": "A"}], "preference")


words = st.text(min_size=1, max_size=30).filter(
    lambda t: (
        t.strip() == t and "Human:" not in t and "Assistant:" not in t and not t.startswith("[{")
    )
)


@given(talk=st.lists(words, min_size=2, max_size=8).filter(lambda t: len(t) % 2 == 0))
def test_dialogues_survive_every_spelling(talk):
    messages = [(user, assistant)[i % 2](text) for i, text in enumerate(talk)]
    sharegpt = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(talk)]
    for row in ({"messages": messages}, {"conversations": sharegpt}):
        assert made([row], "demonstration")[0] == [{"messages": messages}]
    marked = "".join(f"\n\n{('Human', 'Assistant')[i % 2]}: {text}" for i, text in enumerate(talk))
    pair = {"chosen": marked, "rejected": marked + "!"}
    expected = {
        "prompt": messages[:-1],
        "chosen": messages[-1:],
        "rejected": [assistant(talk[-1] + "!")],
    }
    assert made([pair], "preference")[0] == [expected]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.sampled_from(sorted({n for f in TABLE for g in f.columns.values() for n in g}))


@given(
    rows=st.lists(st.dictionaries(names, json_values, max_size=5), min_size=1, max_size=4),
    kind=st.sampled_from(["demonstration", "preference", "prompt"]),
    template=st.booleans(),
)
def test_any_rows_are_converted_dropped_or_refused(rows, kind, template):
    try:
        examples, ledger = made(rows, kind, template=template)
    except DataError:
        return
    for example in examples:
        for name in set(example) - {"margin", "answer"}:
            value = example[name]
            if isinstance(value, list):
                assert all(set(m) == {"role", "content"} for m in value) and value
            else:
                assert isinstance(value, str) and value.strip()
    assert all(tally.count >= len(tally.first) > 0 for tally in ledger.dropped.values())
