"""Rows are judged as they are rendered and cut: empty answers, pairs that are equal by then."""

import json
from pathlib import Path

import pytest

from modelforge.data import How, load_data, load_tokenizer_template
from modelforge.errors import DataError

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"
# Keeps what follows a thought, and cuts white space around it.
STRIPS = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'].split('</think>')[-1] | trim }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
# Ends a turn with words that are no special token.
WORDY = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + ' That is all.' }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(TINY)


@pytest.fixture
def load(tmp_path, tokenizer):
    def load(rows, kind, *, template="plain", **options):
        if "{" in template:
            (tmp_path / "t.jinja").write_text(template)
            template = "t.jinja"
        load_tokenizer_template(
            tokenizer, chat_template=template, task="text-generation", base_dir=tmp_path
        )
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        given = {"max_length": 200, "seed": 0, "eval_split": 0, "dataset": "rows.jsonl", **options}
        return load_data(kind=kind, tokenizer=tokenizer, base_dir=tmp_path, **given)

    return load


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def dropped(data):
    return {reason: tally.first for reason, tally in data.ledger.dropped.items()}


def trained(data, tokenizer):
    """What each row is trained on, span by span."""
    texts = []
    for row in data.train_tokens:
        borders = iter(row.spans)
        pairs = zip(borders, borders, strict=True)
        texts.append([tokenizer.decode(row.ids[0][begin:end]) for begin, end in pairs])
    return texts


@pytest.mark.parametrize("long_rows", ["cut", "drop"])
def test_pairs_that_are_equal_by_the_cut_are_dropped(load, long_rows):
    long = "word " * 90
    rows = [
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        {"prompt": "Q", "chosen": long + "good", "rejected": long + "bad"},
    ]
    data = load(rows, "preference", max_length=64, long_rows=long_rows)
    reason = "longer than max_seq_length" if long_rows == "drop" else "equal once cut"
    assert dropped(data) == {reason: ["rows.jsonl:2"]}
    assert not load(rows, "preference", max_length=None, long_rows=long_rows).ledger.dropped
    with pytest.raises(DataError, match="0 of 1 rows can be used") as caught:
        load(rows[1:], "preference", max_length=64, long_rows=long_rows)
    assert "raise `max_seq_length`" in str(caught.value)


def test_pairs_are_judged_as_the_template_renders_them(load):
    rows = [
        {"prompt": "Q", "chosen": "<think>one</think>A", "rejected": "<think>two</think>A"},
        {"prompt": "Q", "chosen": "A", "rejected": " A\n"},
        {"prompt": "Q", "chosen": "<think>one</think>", "rejected": "B"},
        {"prompt": "Q", "chosen": "B", "rejected": "<think>one</think> "},
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
    ]
    data = load(rows, "preference", template=STRIPS, how=How(scores=True))
    assert dropped(data) == {
        "equal as rendered": ["rows.jsonl:1", "rows.jsonl:2"],
        "empty as rendered: chosen": ["rows.jsonl:3"],
        "empty as rendered: rejected": ["rows.jsonl:4"],
    }
    assert len(data.train) == 1
    kept = load(rows, "preference")  # this template shows all of it
    assert not kept.ledger.dropped
    assert kept.ledger.blanks_alone.first == ["rows.jsonl:2"]
    assert any("white space alone (rows.jsonl:2)" in line for line in kept.ledger.summary_lines())


@pytest.mark.parametrize("template", [STRIPS, WORDY, "plain", "chatml"])
def test_an_empty_answer_is_masked_and_said(load, tokenizer, template):
    talk = [user("Name a color"), assistant(""), user("Please!"), assistant("Blue.")]
    rows = [{"messages": talk}, {"messages": [*talk, user("And?"), assistant(" \n")]}]
    data = load(rows, "demonstration", template=template)
    found = trained(data, tokenizer)
    assert [len(spans) for spans in found] == [1, 1]
    assert all("Blue." in spans[0] for spans in found)
    assert data.ledger.silent.count == 2
    assert any("empty answer: 2 (rows.jsonl:1" in line for line in data.ledger.fact_lines())


def test_an_answer_that_the_template_empties_is_no_answer(load):
    rows = [
        {"prompt": "Q", "completion": "<think>only a thought</think>"},
        {"prompt": "Q", "completion": "A"},
        {"messages": [user("Q"), assistant("<think>only a thought</think>")]},
    ]
    data = load(rows[:2], "demonstration", template=STRIPS)
    assert dropped(data) == {"template drops text: thought of the assistant": ["rows.jsonl:1"]}
    with pytest.raises(DataError, match="template drops text"):
        load(rows[2:], "demonstration", template=STRIPS)


def test_rows_that_become_equal_are_counted_as_duplicates(load):
    rows = [{"prompt": f"Q{blank}", "answer": "A"} for blank in ("", " ", "\n")]
    assert load(rows, "prompt", template=STRIPS).ledger.duplicates.count == 2
    assert load(rows, "prompt", template="chatml").ledger.duplicates.count == 0
    other = [{"prompt": "Q", "answer": "A"}, {"prompt": "Q", "answer": "B"}]
    assert load(other, "prompt", template=STRIPS).ledger.duplicates.count == 0


def test_a_prompt_may_fill_its_room_to_the_last_token(load):
    rows = [{"prompt": "word " * count} for count in (3, 30)]
    length = len(load(rows[1:], "prompt").train_tokens[0].ids[0])
    assert len(load(rows, "prompt", max_length=length).train) == 2
    cut = load(rows, "prompt", max_length=length - 1)
    assert dropped(cut) == {"prompt is too long": ["rows.jsonl:2"]}


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        (" | trim", "    def f():\n        return 1", True),  # code without its first indentation
        (" | replace('\\n', ' ')", "one\ntwo", True),
        (".split() | join(' ')", "a  table   of  words", True),
        (" | trim", " one\ntwo\n", False),  # white space around an answer says nothing
        (" | tojson", "one\ntwo", False),  # it is written otherwise, and is there
        ("", "    def f():\n        return 1", False),
    ],
)
@pytest.mark.parametrize("kind", ["demonstration", "preference", "prompt"])
def test_white_space_that_the_template_changes_is_said(load, kind, change, words, told):
    template = STRIPS.replace(".split('</think>')[-1] | trim", change)
    row = {"prompt": words if kind == "prompt" else "Q", "completion": words}
    if kind == "preference":
        row = {"prompt": "Q", "chosen": words, "rejected": "no"}
    data = load([row], kind, template=template)
    assert any("white space the chat template changes" in w for w in data.ledger.warnings) == told
