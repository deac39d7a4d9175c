"""Public layouts that are made into known ones before they are recognised."""

import pytest
from test_data_formats import ASK, DEMO, PAIR, TALK, TELL, assistant, made, system, user

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


def test_a_message_that_names_no_conversation_joins_none():
    rows = [{"conversation_id": "a", "role": m["role"], "content": m["content"]} for m in TALK]
    strays = [{**rows[0], "conversation_id": None}, {**rows[1], "conversation_id": ""}]
    examples, ledger = made([*rows, *strays], "demonstration")
    assert examples == [{"messages": TALK}]
    assert any("; 2 messages are left out: no conversation_id" in note for note in ledger.notes)
    with pytest.raises(DataError, match="column conversation_id; to train on each alone"):
        made([{**row, "conversation_id": None} for row in rows], "demonstration")


def test_single_messages_that_cannot_be_put_together_are_refused():
    rows = [{"role": m["role"], "text": m["content"]} for m in TALK]
    with pytest.raises(DataError, match="column conversation_id; to train on each alone"):
        made(rows, "demonstration")
    strangers = [{"dialogue_id": 1, "speaker": name, "text": "Hi"} for name in ("Ann", "Bob")]
    with pytest.raises(DataError, match="write user, assistant, system or tool into speaker"):
        made(strangers, "demonstration")
    examples, _ = made(rows, "demonstration", columns={"text": "text"})
    assert examples == [{"text": m["content"]} for m in TALK]


TWO = {"response_1": "B", "response_2": "A"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
LISTED = [user("Q\n\nA. x\nB. y")]
NUMBERED = [user("Q\n\n1. x\n2. y")]

# one row, kind, what comes of it
CASES = [
    ({"inputs": "Q", "targets": "A"}, "demonstration", DEMO),
    (
        {"inputs": [1], "inputs_pretokenized": "Q", "targets": [2], "targets_pretokenized": "A"},
        "demonstration",
        DEMO,
    ),
    ({"prompt": "Q", **TWO, "preference_strength": 2}, "preference", PAIR),
    (
        {"context": ASK, "response1": "A", "response2": "B", "overall_preference": -3},
        "preference",
        PAIR,
    ),
    ({"history": "Q", "human_ref_A": "B", "human_ref_B": "A", "labels": 0}, "preference", PAIR),
    ({"history": "Q", "human_ref_A": "A", "human_ref_B": "B", "labels": 1}, "preference", PAIR),
    (
        {
            "question": {"full_text": "Q"},
            "answer_0": "B",
            "score_0": -1.0,
            "answer_1": "A",
            "score_1": 1.0,
        },
        "preference",
        PAIR,
    ),
    (
        {"prompt": "Q", "response_0": "B", "response_1": "A", "better_response_id": 1},
        "preference",
        PAIR,
    ),
    (
        {"info": {"post": "Q"}, "summaries": [{"text": "B"}, {"text": "A"}], "choice": 1},
        "preference",
        PAIR,
    ),
    (
        {"title": "Q", "selftext": "", "answers": {"text": ["B", "A"], "score": [2, 5]}},
        "preference",
        PAIR,
    ),
    ({"question": "Q", "answer": {"value": "A", "aliases": ["A", "a"]}}, "demonstration", DEMO),
    (
        {"question": "Q", "answer": {"value": "A", "aliases": ["A", "a"]}},
        "prompt",
        {"prompt": ASK, "answer": ["A", "a"]},
    ),
    (
        {"question": "Q", "correct_answer": "A", "distractor1": "B", "support": "C"},
        "demonstration",
        {"prompt": [user("C\n\nQ")], "completion": TELL},
    ),
    ({"id": "0", "data": ["1", "2", "3", "4"]}, "demonstration", {"messages": TALK}),
    (
        {
            "chat": "USER: 1\n\n\nASSISTANT: 2 <|endoftext|>\n\n\n"
            "USER: 3\n\n\nASSISTANT: 4 <|endoftext|>"
        },
        "demonstration",
        {"messages": TALK},
    ),
    (
        {"input": "S\n[|Human|] Q\n[|AI|] A\n[|Human|] "},
        "demonstration",
        {"messages": [system("S"), *ASK, *TELL]},
    ),
    (
        {
            "system": "SYSTEM: S",
            "chat": "USER: Q\n\n\nASSISTANT: <functioncall> "
            '{"name": "f", "arguments": \'{"a": 1}\'}'
            " <|endoftext|>\n\n\nFUNCTION RESPONSE: R\n\n\nASSISTANT: A",
        },
        "demonstration",
        {
            "messages": [
                system("S"),
                *ASK,
                {**assistant(""), "tool_calls": [CALL]},
                {"role": "tool", "content": "R"},
                *TELL,
            ]
        },
    ),
    (
        {
            "query": "Q",
            "answers": '[{"name": "f", "arguments": {"a": 1}}]',
            "tools": '[{"name": "f"}]',
        },
        "demonstration",
        {
            "messages": [*ASK, {**assistant(""), "tool_calls": [CALL]}],
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
    ),
    *(
        (row, "demonstration", {"prompt": asked, "completion": [assistant(answer)]})
        for row, asked, answer in (
            ({"ctx": "Q", "endings": ["x", "y"], "label": "1"}, LISTED, "B"),
            ({"goal": "Q", "sol1": "x", "sol2": "y", "label": 1}, LISTED, "B"),
            ({"sentence": "Q", "option1": "x", "option2": "y", "answer": "2"}, NUMBERED, "2"),
            ({"question": "Q", "A": "x", "B": "y", "answer": "B"}, LISTED, "B"),
            ({"context": "", "question": "Q", "answers": ["x", "y"], "label": 1}, LISTED, "B"),
        )
    ),
]


MOSS = {
    f"turn_{n}": {"Human": f"<|Human|>: {2 * n - 1}<eoh>\n", "Inner Thoughts": "None",
                  "MOSS": f"<|MOSS|>: {2 * n}<eom>\n"}
    for n in (2, 1)
}  # fmt: skip
ARENA = {"prompt": '["Q"]', "response_a": '["B"]', "response_b": '["A"]', "winner_model_a": 0,
         "winner_model_b": 1, "winner_tie": 0}  # fmt: skip
PARTS = {"systemInstruction": {"parts": [{"text": "S"}]},
         "contents": [{"role": "user", "parts": [{"text": "Q"}]},
                      {"role": "model", "parts": [{"text": "A"}]}]}  # fmt: skip
WHOLE = {"messages": [system("S"), *ASK, *TELL]}
CASES += [
    ({"meta_instruction": "", "chat": MOSS}, "demonstration", {"messages": TALK}),
    (
        {"story": "C", "questions": ["1", "3"], "answers": {"input_text": ["2", "4"]}},
        "demonstration",
        {"messages": [user("C\n\n1"), *TALK[1:]]},
    ),
    (
        {"context": "", "questions": ["1", "3"], "answers": {"texts": [["2", "x"], ["4"]]}},
        "demonstration",
        {"messages": TALK},
    ),
    (
        {"passage": "C", "question": "Q", "answers_spans": {"spans": ["A", "A"]}},
        "demonstration",
        {"prompt": [user("C\n\nQ")], "completion": TELL},
    ),
    (ARENA, "preference", PAIR),
    (ARENA, "demonstration", DEMO),
    (
        {"question": "Q", "answers": [{"text": "B", "pm_score": 1}, {"text": "A", "pm_score": 5}]},
        "preference",
        PAIR,
    ),
    (
        {"trajectory": [{"from": "user", "value": "Q"}], "chosen": "A", "rejected": "B",
         "parent_id": "7"},
        "preference",
        PAIR,
    ),
    ({"instruction": "Q", "response": "A", "parent_id": "7"}, "demonstration", DEMO),
    ({"sample": "SYSTEM: S\nUSER: Q\nASSISTANT: A"}, "demonstration", WHOLE),
    (PARTS, "demonstration", WHOLE),
    (
        {"system": [{"text": "S"}], "messages": [{"role": "user", "content": [{"text": "Q"}]},
                                                 {"role": "Chatbot", "message": "A"}]},
        "demonstration",
        WHOLE,
    ),
    (
        {"messages": {"role": ["user", "assistant"], "content": ["Q", "A"]}},
        "demonstration",
        {"messages": [*ASK, *TELL]},
    ),
    (
        {"prompt": ASK, "reward_model": {"ground_truth": "A", "style": "rule"}},
        "prompt",
        {"prompt": ASK, "answer": "A"},
    ),
    ({"question": "Q", "reference_answer": "A"}, "prompt", {"prompt": ASK, "answer": "A"}),
    (
        {"system_message": "S", "function_description": '{"name": "f"}', "messages": [*ASK, *TELL]},
        "demonstration",
        {**WHOLE, "tools": [{"type": "function", "function": {"name": "f"}}]},
    ),
    ({"anweisung": "Q", "eingabe": "", "ausgabe": "A"}, "demonstration", DEMO),
    ({"指令": "Q", "输入": "", "输出": "A"}, "demonstration", DEMO),
    (
        {"Question": "Q", "Complex_CoT": "a thought", "Response": "A"},
        "demonstration",
        {"prompt": ASK, "completion": [{**assistant("A"), "reasoning_content": "a thought"}]},
    ),
    ({"question": "Q", "reasoning": "on", "answer": "A"}, "demonstration", DEMO),
]  # fmt: skip


@pytest.mark.parametrize(("row", "kind", "expected"), CASES)
def test_a_public_layout_is_read_whole(row, kind, expected):
    examples, ledger = made([row], kind)
    assert examples == [expected] and not ledger.dropped


def test_numbers_of_choices_are_counted_from_where_the_file_says():
    row = {"question": "Q", "opa": "w", "opb": "x", "opc": "y", "opd": "z"}
    from_zero, _ = made([{**row, "cop": n} for n in (0, 3)], "demonstration")
    from_one, _ = made([{**row, "cop": n} for n in (1, 4)], "demonstration")
    assert [e["completion"][0]["content"] for e in from_zero] == ["A", "D"]
    assert [e["completion"][0]["content"] for e in from_one] == ["1", "4"]
    with pytest.raises(DataError):
        made([{**row, "cop": 2}], "demonstration")


def test_what_a_shape_leaves_is_named():
    row = {"question": {"full_text": "Q", "dataset": "eli5"}, "answer": "A", "tokens": {"a": 1}}
    _, ledger = made([row], "demonstration")
    assert set(ledger.unused) == {"question.dataset", "tokens"}


def test_a_translation_is_read_in_the_languages_that_are_named():
    row = {"id": "0", "translation": {"en": "Q", "de": "A", "id": "x"}}
    columns = {"prompt": "en", "completion": "de"}
    assert made([row], "demonstration", columns=columns)[0] == [DEMO]
    with pytest.raises(DataError, match=r"'en', 'de'.*name the columns by hand"):
        made([row], "demonstration")


@pytest.mark.parametrize(
    ("row", "kind", "reason"),
    [
        ({**ARENA, "winner_model_b": 0, "winner_tie": 1}, "preference", "tie"),
        ({**ARENA, "response_a": "[null]"}, "preference", "turns not understood"),
        (
            {"passage": "C", "question": "Q", "answers_spans": {"spans": ["A", "B"]}},
            "demonstration",
            "not text",
        ),
        (
            {"chat": {"turn_1": {**MOSS["turn_1"], "Commands": "<|Commands|>: Search(1)<eoc>"}}},
            "demonstration",
            "a call that is not understood",
        ),
        ({"text": "words", "parent_id": "7"}, "demonstration", "a meaning of its own: parent_id"),
    ],
)
def test_a_row_of_them_whose_meaning_is_open_is_left_out(row, kind, reason):
    examples, ledger = made([row], kind)
    assert not examples and reason in " ".join(ledger.dropped)


def test_a_second_spelling_of_a_message_key_is_named():
    row = {"messages": [{**user("Q"), "author": "Ann"}, assistant("A")]}
    _, ledger = made([row], "demonstration")
    assert set(ledger.unused) == {"messages[].author"}
