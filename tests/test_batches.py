"""Rows made in batches are those made one by one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge.data import How
from modelforge.data.ahead import in_turn
from modelforge.data.masks import first_where
from modelforge.data.render import Conversation, Renderer, RenderError
from modelforge.data.tokens import BATCH, encode
from tests.tiny import talking


def talk(*words):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": each} for i, each in enumerate(words)]


ODD = [
    talk("hi", "yes"),
    talk("  two", "code:\n\n\tx = 1", "<b>bold</b>", "ok  "),
    talk("think", "<think>\nwell\n</think>\n\nfine"),
    [{"role": "tool", "content": "a result that nobody asked for"}],
    talk("again", "again", "and again"),
    talk("", ""),
    [{"role": "assistant", "content": "I begin"}, {"role": "user", "content": "so?"}],
    [{"role": "system", "content": "Be brief."}, *talk("hi", "hello")],
]


@pytest.mark.parametrize("template", ["auto", "qwen3", "llama3", "gemma", "plain"])
@pytest.mark.parametrize("marks", [False, True])
def test_conversations_render_together_as_alone(template, marks):
    """Also where the template refuses one of them, or one brings arguments of its own."""
    renderer = Renderer(talking(template))
    talks = [Conversation(messages) for messages in ODD]
    talks.append(Conversation(talk("hi", "yes"), kwargs={"enable_thinking": False}))
    together = renderer.each(talks, marks=marks)
    for conversation, found in zip(talks, together, strict=True):
        (alone,) = renderer.each([conversation], marks=marks)
        if isinstance(found, RenderError):
            assert isinstance(alone, RenderError) and alone.reason == found.reason
        else:
            assert alone == found and found[0] == renderer.text(conversation)


@pytest.mark.parametrize("template", ["auto", "llama3"])
def test_rows_of_many_batches_are_those_of_single_rows(template):
    tokenizer = talking(template)
    messages = [each for each in ODD if each[0]["role"] != "tool"]
    rows = [{"messages": messages[i % len(messages)]} for i in range(2 * BATCH + 3)]
    single = {
        json.dumps(row): next(encode([row], kind="demonstration", tokenizer=tokenizer, how=How()))
        for row in rows[: len(messages)]
    }
    found = list(encode(rows, kind="demonstration", tokenizer=tokenizer, how=How()))
    assert len(found) == len(rows)
    for row, each in zip(rows, found, strict=True):
        assert str(each) == str(single[json.dumps(row)])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_come_in_their_order_whatever_they_ask(threads):
    def batch(number):
        answers = []
        for question in range(number % 3):
            answers.append((yield (number, question)))
        return number, answers

    made = list(in_turn(map(batch, range(10)), lambda asked: asked, threads=threads))
    assert made == [(n, [(n, q) for q in range(n % 3)]) for n in range(10)]


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_the_tokenizer_refuses_is_raised(threads):
    def batch(number):
        yield number

    def answer(number):
        if number == 5:
            raise ValueError("no such text")

    with pytest.raises(ValueError, match="no such text"):
        list(in_turn(map(batch, range(10)), answer, threads=threads))


@given(st.data(), st.integers(0, 40))
def test_the_first_token_is_found_from_any_guess(data, count):
    first = data.draw(st.integers(0, count))
    near = data.draw(st.none() | st.integers(0, max(0, count - 1)))
    if near is not None and near >= count:
        near = None
    assert first_where(lambda at: at >= first, count, near) == first
