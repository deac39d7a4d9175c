"""The tiny model and its data: made by the scripts beside them, and as good as they say."""

from __future__ import annotations

import itertools
import json
import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge.tiny import make_data

FILES = make_data.make_files()


@cache
def loaded():
    from modelforge.tiny import evaluate

    return evaluate.load()


def figures() -> dict:
    from modelforge.tiny.evaluate import MODEL

    return json.loads((MODEL / "figures.json").read_text())


def question(row: dict) -> str:
    return (row.get("prompt") or row["messages"])[0]["content"]


WRITTEN = FILES | make_data.labelled_files(FILES)


@pytest.mark.parametrize("name", WRITTEN)
def test_data_file_is_made_again_to_the_byte(name):
    assert make_data.to_jsonl(WRITTEN[name]) == (make_data.DATA / f"{name}.jsonl").read_bytes()


def test_no_question_stands_in_two_rows():
    questions = [question(row) for rows in FILES.values() for row in rows]
    assert len(questions) == len(set(questions))


def test_base_text_holds_nothing_held_out():
    held_out = make_data.held_out_texts(FILES)
    sizes = [held for _, held in make_data.SIZES.values()]
    assert len(held_out) == sum(sizes) + make_data.SIZES["sft"][1]  # the stories without question
    for document in make_data.base_documents(2000, held_out=held_out):
        texts = [document] if isinstance(document, str) else [m["content"] for m in document]
        assert not held_out & set(texts)
        assert not [h for h in held_out for t in texts if h.endswith(".") and h in t]


def test_every_answer_is_true():
    for row in FILES["prompts_train"] + FILES["prompts_eval"]:
        a, b = (int(n) for n in re.findall(r"\d+", question(row)))
        assert row["answer"] == str(a - b)
    for row in FILES["sft_eval"]:
        a, b = (int(n) for n in re.findall(r"\d+", question(row)))
        total = a + b if "gets" in question(row) else a - b
        assert row["messages"][1]["content"] == f"The answer is {total}."


def test_data_stay_small():
    assert sum(p.stat().st_size for p in make_data.DATA.iterdir()) < 1_000_000


def test_tokenizer_renders_the_data_and_reads_it_back():
    _, tokenizer = loaded()
    for rows in FILES.values():
        for row in itertools.islice(rows, 100):
            for m in itertools.chain(*(v for v in row.values() if isinstance(v, list))):
                ids = tokenizer(m["content"])["input_ids"]
                assert ids[0] == tokenizer.bos_token_id
                assert tokenizer.unk_token_id not in ids
                assert tokenizer.decode(ids[1:]) == m["content"]


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_tokenizer_reads_back_any_text(text):
    _, tokenizer = loaded()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_chat_template_marks_what_the_assistant_says():
    _, tokenizer = loaded()
    chat = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "2 plus 2?"},
        {"role": "assistant", "content": "4."},
    ]
    out = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    marked = [i for i, m in zip(out["input_ids"], out["assistant_masks"], strict=True) if m]
    assert tokenizer.decode(marked) == "4.<|eos|>"
    assert out["input_ids"].count(tokenizer.bos_token_id) == 1
    prompt = tokenizer.apply_chat_template(chat[:2], add_generation_prompt=True, tokenize=False)
    assert tokenizer.apply_chat_template(chat, tokenize=False).startswith(prompt)
    assert prompt == "<|bos|><|system|>Be kind.<|user|>2 plus 2?<|assistant|>"


def test_model_answers_in_the_chat_format_and_ends():
    from modelforge.tiny import evaluate

    model, tokenizer = loaded()
    assert model.config.vocab_size == len(tokenizer)
    asked = ["What is 3 plus 4?", "What is the opposite of hot?", "What colour is snow?"]
    answers = evaluate.answer(model, tokenizer, [[make_data.message("user", q)] for q in asked])
    for (text, ended), word in zip(answers, ["7", "cold", "white"], strict=True):
        assert ended
        assert word in text.lower()


def test_figures_are_those_of_the_committed_model():
    from modelforge.tiny import evaluate

    model, tokenizer = loaded()
    base = figures()["base"]
    loss = evaluate.sft_loss(model, tokenizer, FILES["sft_eval"])
    assert loss == pytest.approx(base["sft_loss"], rel=1e-4)
    accuracy = evaluate.preference_accuracy(model, tokenizer, FILES["preference_eval"])
    assert accuracy == pytest.approx(base["preference_accuracy"], abs=0.02)
    assert model.num_parameters() == figures()["parameters"]


def test_card_shows_the_figures():
    from modelforge.tiny import card

    assert (card.MODEL / "README.md").read_text() == card.card(figures())


def test_every_strategy_was_seen_to_work():
    seen = figures()["strategies"]
    sft, dpo, reward, grpo = (seen[n] for n in ("sft", "dpo", "reward", "grpo"))
    assert sft["before"]["accuracy"] < 0.3
    assert sft["after"]["accuracy"] > 0.9
    assert sft["after"]["loss"] < 0.1 * sft["before"]["loss"]
    assert dpo["after"]["preference_accuracy"] > dpo["before"]["preference_accuracy"] + 0.1
    assert dpo["after"]["courteous"] > 0.8
    assert dpo["after"]["right"] > 0.8
    assert reward["after"]["pair_accuracy"] > 0.8
    assert reward["after"]["pair_accuracy_b"] > 0.8
    assert grpo["after"]["reward_greedy"] > grpo["before"]["reward_greedy"] + 0.3
    assert grpo["after"]["reward_sampled"] > grpo["before"]["reward_sampled"] + 0.3
