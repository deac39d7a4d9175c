"""Answers that were compared, labelled or rated."""

import pytest

from modelforge.data.convert import Mode
from modelforge.data.converted import convert
from modelforge.data.ledger import Ledger
from modelforge.data.read import Row, Table


def made(rows, kind):
    """The examples and the ledger of rows as a file would give them."""
    table = Table("rows.jsonl", [Row(row, "rows.jsonl", i) for i, row in enumerate(rows, 1)], "")
    ledger = Ledger(kind)
    mode = Mode(kind, conversational=True)
    examples = [e for _, e in convert(table, mode, {}, ledger, "train")]
    return examples, ledger


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ASK, TELL, BAD = [user("Q")], [assistant("A")], [assistant("B")]
PAIR = {"prompt": ASK, "chosen": TELL, "rejected": BAD}
DEMO = {"prompt": ASK, "completion": TELL}
COMPARED = {"prompt": "Q", "response_a": "A", "response_b": "B"}


@pytest.mark.parametrize(
    ("said", "first_wins"),
    [
        (["a", "B", "A"], [True, False, True]),
        (["response_b"], [False]),
        ([1, 2], [True, False]),
        (["1", "2"], [True, False]),
        ([1, -1], [True, False]),
        ([0, 1], [True, False]),
        ([1.0, 2.0], [True, False]),
    ],
)
def test_two_responses_and_a_preference(said, first_wins):
    examples, _ = made([{**COMPARED, "preference": s} for s in said], "preference")
    assert [e["chosen"] == TELL for e in examples] == first_wins


def test_ties_and_unknown_preferences_are_dropped():
    rows = [{**COMPARED, "preference": p, "margin": 1} for p in ("a", "tie", "left of it", None)]
    examples, ledger = made(rows, "preference")
    assert examples == [{**PAIR, "margin": 1.0}]
    assert ledger.dropped["tie"].first == ["rows.jsonl:2"]
    assert ledger.dropped["preference not understood"].count == 2
    assert len(made(rows, "prompt")[0]) == 4


def test_zero_is_a_tie_where_minus_one_occurs():
    _, ledger = made([{**COMPARED, "preference": p} for p in (1, 0, -1)], "preference")
    assert ledger.dropped["tie"].count == 1


LABELLED = [
    {"prompt": "Q", "completion": "A", "label": True},
    {"prompt": "Q", "completion": "B", "label": False},
    {"prompt": "other", "completion": "C", "label": False},
]


def test_labels_give_good_demonstrations_and_pairs_of_one_prompt():
    for rows in (
        LABELLED,
        [
            {"messages": [user(r["prompt"]), assistant(r["completion"])], "label": int(r["label"])}
            for r in LABELLED
        ],
    ):
        examples, ledger = made(rows, "demonstration")
        assert examples == [DEMO]
        assert ledger.dropped["labelled bad"].count == 2
        examples, ledger = made(rows, "preference")
        assert examples == [PAIR]
        assert ledger.dropped["no partner"].first == ["rows.jsonl:3"]
        assert len(made(rows, "prompt")[0]) == 3


def test_scores_give_the_best_and_pair_best_with_worst():
    rows = [{"prompt": "Q", "response": r, "score": s} for r, s in (("B", 1), ("M", "2"), ("A", 5))]
    assert made(rows, "demonstration")[0] == [DEMO]
    examples, ledger = made([*rows, {"prompt": "alone", "response": "x", "score": 1}], "preference")
    assert examples == [PAIR]
    assert {r: t.count for r, t in ledger.dropped.items()} == {
        "neither best nor worst": 1,
        "no partner": 1,
    }
