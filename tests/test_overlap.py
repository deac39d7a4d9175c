"""What rows two sets share, and held-out rows that are also trained on."""

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from modelforge.data import load_data
from modelforge.data.ledger import Ledger
from modelforge.data.overlap import NEARLY, PROMPT, RUN, SAME, likeness, shared

TINY = Path(__file__).parents[1] / "examples" / "tiny"
WORDS = ["river", "stone", "paper", "winter", "music", "silver", "garden", "engine", "bridge"]


def long_text(number, words=60):
    random = Random(number)
    return " ".join(random.choice(WORDS) + str(random.randint(0, 99)) for _ in range(words))


def demo(asked, answer="ok"):
    return {"prompt": asked, "completion": answer}


def found(rows, others, **options):
    numbered = [[(f"{n}:{i}", row) for i, row in enumerate(rs, 1)]
                for n, rs in (("a", rows), ("b", others))]  # fmt: skip
    return shared(*numbered, **options)


def test_each_row_is_told_once_as_what_it_shares_most():
    texts = [long_text(i) for i in range(5)]
    trained = [demo(text, "yes") for text in texts]
    held_out = [
        demo(f" {texts[0].upper()}\n", "Yes"),  # case and white space aside
        demo(texts[1], "no"),
        demo(texts[2].replace(WORDS[0], "creek", 1) + ".", "yes"),
        demo(long_text(99), "yes"),
    ]
    assert found(held_out, trained) == {
        SAME: [("a:1", "b:1")],
        PROMPT: [("a:2", "b:2")],
        NEARLY: [("a:3", "b:3")],
    }
    assert found(trained, []) == {} and found([], trained) == {}
    assert found([demo("a")] * 2, [demo("a")] * 9) == {SAME: [("a:1", "b:1"), ("a:2", "b:1")]}


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_a_run_of_words_is_found_and_a_templates_is_not(seed):
    random = Random(seed)
    rows, trained = ([demo(long_text(seed + n)) for n in r] for r in (range(8), range(50, 90)))
    part = rows[3]["prompt"].split()[random.randrange(50) :]
    trained[7] = demo(f"{long_text(seed + 99, 9)}, {'; '.join(part[:8]).upper()}!")
    assert found(rows, trained) == {RUN: [("a:4", "b:8")]}
    trained[7] = demo(f"{long_text(seed + 99, 9)} {' '.join(part[:7])}")
    assert found(rows, trained) == {}
    said = "Please answer the question that stands below in one short word:"
    for texts in (rows, trained):
        texts[:] = [demo(f"{said} {text['prompt']}") for text in texts]
    assert found(rows, trained) == {}


def test_characters_are_words_where_no_blanks_part_them():
    text = "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少"
    assert found([demo(f"甲{text[:9]}乙")], [demo(f"丙丁{text[:8]}戊己{text[:2]}")]) == {
        RUN: [("a:1", "b:1")]
    }


def test_signs_and_numbers_make_another_row():
    assert found([demo("What is 3-5?", "8")], [demo("What is 3+5?", "8")] * 2) == {}


def test_what_every_row_begins_with_makes_none_alike():
    system = {"role": "system", "content": long_text(1, 200)}
    rule = long_text(2, 200)

    def talk(text):
        asked = {"role": "user", "content": f"{rule} {text}"}
        return {"messages": [system, asked, {"role": "assistant", "content": text}]}

    assert found([talk("one thing")], [talk(long_text(i, 12)) for i in range(9)]) == {}
    assert found([talk("one thing")], [talk("one thing")])[SAME] == [("a:1", "b:1")]
    asked = {"prompt": [system, *talk("x")["messages"][1:2]], "completion": [{
        "role": "assistant", "content": "x"}]}  # fmt: skip
    assert SAME in found([asked], [talk("x")])  # in whatever form the row is


def test_other_functions_or_another_system_message_are_another_prompt():
    ask = [{"role": "user", "content": "What is the weather like?"}]
    plain = {"prompt": ask, "completion": [{"role": "assistant", "content": "Fine."}]}
    tools = plain | {"tools": [{"type": "function", "function": {"name": "weather"}}]}
    pirate = plain | {"prompt": [{"role": "system", "content": "A pirate."}, *ask]}
    for other in (tools, pirate):
        assert not {SAME, PROMPT} & set(found([plain], [other]))
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "a"}}]}
    assert PROMPT in found([plain], [plain | {"completion": [call]}])


def test_tokens_pairs_and_prompts_are_compared_too():
    tokens = {"input_ids": list(range(80)), "labels": list(range(80))}
    more = {"input_ids": [*range(80), 7], "labels": list(range(81))}
    assert list(found([tokens], [tokens])) == [SAME] and list(found([tokens], [more])) == [NEARLY]
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    swapped = {"prompt": "q", "chosen": "b", "rejected": "a"}
    assert list(found([pair], [swapped])) == [PROMPT]
    asked = {"prompt": "q", "answer": ["a", "c"]}
    assert list(found([asked], [asked])) == [SAME]
    assert list(found([{"prompt": "q", "answer": None}], [asked])) == [PROMPT]


@given(st.integers(0, 10_000), st.integers(1, 400), st.integers(0, 12))
def test_near_is_what_counting_all_pieces_says(seed, words, changes):
    random = Random(seed)
    text = long_text(seed, words)
    other = text.split()
    for _ in range(changes):
        other[random.randrange(len(other))] = "changed"
    other = " ".join(other)
    noise = [demo(long_text(i)) for i in (10_001, 10_002, 10_003)]  # other texts
    kinds = found([demo(text), *noise[:1]], [demo(other), *noise[1:]])
    share = likeness(f"{text} ok", f"{other} ok")
    near = any(("a:1", "b:1") in pairs for kind, pairs in kinds.items() if kind != RUN)
    assert near if share > 0.85 else not near or share >= 0.8


# --- in every run ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY / "model")


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("demonstration", demo("Where is it?", "Here."), demo("Where is it?", "There.")),
        ("preference", {"prompt": "Where?", "chosen": "Here.", "rejected": "No."},
         {"prompt": "Where?", "chosen": "There.", "rejected": "No."}),
        ("prompt", {"prompt": "Where?", "answer": "Here."},
         {"prompt": "Where?", "answer": "There."}),
    ],
)  # fmt: skip
def test_a_run_says_which_held_out_rows_are_trained_on(tokenizer, tmp_path, kind, one, other):
    different = {key: f"{value} {long_text(5, 8)}" for key, value in one.items()}
    for name, rows in (("train", [one, different]), ("eval", [one, other])):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    ledger = load_data(
        dataset="train.jsonl", eval_dataset="eval.jsonl", base_dir=tmp_path, kind=kind,
        tokenizer=tokenizer, max_length=512,
    ).ledger  # fmt: skip
    assert ledger.shared_with_training[SAME].first == ["eval.jsonl:1 = train.jsonl:1"]
    assert ledger.shared_with_training[PROMPT].first == ["eval.jsonl:2 = train.jsonl:1"]
    (told,) = [warning for warning in ledger.warnings if "flatter" in warning]
    assert "2 of 2 held-out rows" in told and "eval.jsonl:2 = train.jsonl:1" in told
    assert Ledger.from_dict(ledger.to_dict()) == ledger
