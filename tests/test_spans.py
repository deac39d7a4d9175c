"""Which tokens of a conversation are trained on, under templates of many kinds."""

import json
from pathlib import Path

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_tokens import message, toy_tokenizer, without_marks

from modelforge.data import built_in_templates, load_data
from modelforge.data.encoded import MASKED
from modelforge.data.render import RenderError
from modelforge.data.tokens import How, encode
from modelforge.errors import DataError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
THOUGHT = "<think>\nTwo and two make four.\n</think>\n\nThe answer is 4."
# Drops a thought always, and opens one where the model is to answer.
STRIPS = (
    "{%- for m in messages %}{%- set c = m['content'] %}{%- if '</think>' in c %}"
    "{%- set c = c.split('</think>')[-1] %}{%- endif %}"
    "{{- '<|' + m['role'] + '|>' + c }}{{- eos_token if m['role'] == 'assistant' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|assistant|><think>\n' }}{%- endif %}"
)
# The next turn's first token ends an answer; nothing does at the end of a conversation.
OPEN_ENDED = (
    "[gMASK]{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
FIRST = [
    message("assistant", "Welcome."),
    message("user", "Name a color"),
    message("assistant", "Blue."),
    message("user", "another"),
    message("assistant", "Red."),
]


def with_text(template, *, special=()):
    """A tokenizer with a template, and tokens of its own for what the template writes."""
    tokenizer = toy_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [*special]})
    tokenizer.chat_template = template
    return tokenizer


ENDS = {"deepseek_r1_distill": "<｜end▁of▁sentence｜>", "deepseekv3": "<｜end▁of▁sentence｜>"}


def trl_template(name):
    special = ["<|im_end|>", "<|im_start|>", "<think>", "</think>", "<｜Assistant｜>"]
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    tokenizer = with_text(text, special=[*special, *ENDS.values()])
    tokenizer.eos_token = ENDS.get(name, "<|im_end|>")
    return tokenizer


def trained(row, tokenizer):
    """The stretches of a row that are trained on, as text."""
    ids = row.ids[0]
    spans = iter(row.spans)
    return [
        tokenizer.decode(ids[begin:end].tolist()) for begin, end in zip(spans, spans, strict=True)
    ]


def one(tokenizer, row, kind="demonstration", **how):
    (found,) = encode([row], kind=kind, tokenizer=tokenizer, how=How(**how))
    return found


def ledger(tmp_path, rows, tokenizer, kind="demonstration", **options):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_data(
        max_length=None, dataset=str(path), eval_split=0, kind=kind, tokenizer=tokenizer,
        seed=1, **options,
    ).ledger  # fmt: skip


# --- every turn is found -----------------------------------------------------------------------


@pytest.mark.parametrize("name", [*built_in_templates(), "own"])
def test_all_turns_are_trained_where_the_assistant_begins(name):
    bare = "{{- bos_token }}" + STRIPS
    tokenizer = with_text(bare if name == "own" else without_marks(built_in_templates()[name]))
    found = one(tokenizer, {"messages": FIRST})
    said = [text.strip().removesuffix("</s>") for text in trained(found, tokenizer)]
    assert [text.split("<|")[0] for text in said] == ["Welcome.", "Blue.", "Red."]
    assert not [name for name in found.findings if not name.startswith("not opened")]


def test_a_turn_that_the_next_one_ends_is_closed_at_the_end_too():
    tokenizer = with_text(OPEN_ENDED, special=["[gMASK]", "<|user|>", "<|assistant|>"])
    end = tokenizer.convert_tokens_to_ids("<|user|>")
    row = {"messages": FIRST[1:]}
    found = one(tokenizer, row, end_ids=frozenset([end, tokenizer.eos_token_id]))
    assert trained(found, tokenizer) == ["Blue.<|user|>", "Red.<|user|>"]
    # Where generation does not stop there, it is no part of the answer.
    assert trained(one(tokenizer, row), tokenizer) == ["Blue.", "Red."]


def test_an_empty_turn_is_not_trained(tmp_path):
    row = {"messages": [FIRST[1], message("assistant", ""), FIRST[3], FIRST[4]]}
    tokenizer = with_text(built_in_templates()["plain"])
    assert ledger(tmp_path, [row], tokenizer).silent.count == 1


def test_a_prompt_is_not_trained_on_whatever_it_is_mixed_with(tmp_path):
    rows = [{"prompt": FIRST[:2], "completion": FIRST[2:3]}]
    (tmp_path / "b.jsonl").write_text(json.dumps({"messages": FIRST}) + "\n")
    (tmp_path / "a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    tokenizer = with_text(built_in_templates()["plain"])
    data = load_data(
        max_length=None, dataset=str(tmp_path), eval_split=0, kind="demonstration",
        tokenizer=tokenizer, seed=1,
    )  # fmt: skip
    assert [trained(row, tokenizer) for row in data.train_tokens] == [
        [" Blue.</s>"],
        [" Welcome.</s>", " Blue.</s>", " Red.</s>"],
    ]


# What a template writes: its text, its own tokens, and what ends a turn.
LAYOUTS = {
    "vicuna": (
        "{% for m in messages %}{{ {'user': 'USER: ', 'assistant': 'ASSISTANT: '}[m.role] }}"
        "{{ m.content }}{{ eos_token if m.role == 'assistant' else ' ' }}{% endfor %}"
        "{{ 'ASSISTANT:' if add_generation_prompt }}",
        (),
        "</s>",
    ),
    "mistral": (  # nothing opens the assistant's turn
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
        "[INST] {{ m.content | trim }} [/INST]{% else %} {{ m.content | trim }}{{ eos_token }}"
        "{% endif %}{% endfor %}",
        ("[INST]", "[/INST]"),
        "</s>",
    ),
    "another end in the middle": (
        "{% for m in messages %}<|start|>{{ m.role }}<|message|>{{ m.content }}"
        "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
        "{{ '<|start|>assistant<|message|>' if add_generation_prompt }}",
        ("<|start|>", "<|message|>", "<|end|>", "<|return|>"),
        ("<|end|>", "<|return|>"),
    ),
    "words end it": (
        "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n### End\n\n{% endfor %}"
        "{{ '### assistant:\n' if add_generation_prompt }}",
        (),
        "\n### End",
    ),
    "cohere": (
        "{{ bos_token }}{% for m in messages %}<|t|><|{{ m.role }}|>{{ m.content.strip() }}<|e|>"
        "{% endfor %}{{ '<|t|><|assistant|>' if add_generation_prompt }}",
        ("<|t|>", "<|e|>", "<|assistant|>"),
        "<|e|>",
    ),
}
WORDS = ["hello", " a b", "User:", "ASSISTANT: no", "é\n", "### End", "x\n\ny", "0", "[INST]"]
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map("".join)


@settings(max_examples=40, deadline=None)
@given(said=st.lists(words, min_size=2, max_size=7), name=st.sampled_from(sorted(LAYOUTS)))
def test_what_is_trained_is_what_the_assistant_says_and_its_end(said, name):
    template, special, ends = LAYOUTS[name]
    if any(token in word for word in said for token in (*special, "### End")):
        return  # a message that writes the template's own marks cannot be told from them
    tokenizer = with_text(template, special=special)
    roles = ["user", "assistant"] * 4
    talk = [message(role, text) for role, text in zip(roles, said, strict=False)]
    found = trained(one(tokenizer, {"messages": talk}), tokenizer)
    replies = [m["content"].strip() for m in talk if m["role"] == "assistant"]
    middle, last = ends if isinstance(ends, tuple) else (ends, ends)
    whole = [reply + middle for reply in replies]
    if talk[-1]["role"] == "assistant":
        whole[-1] = replies[-1] + last
    # White space between the words and their end is the user's own.
    assert ["".join(text.split()) for text in found] == ["".join(text.split()) for text in whole]
    assert not any(text.endswith("\n") for text in found)


# --- what the template takes away --------------------------------------------------------------


ASKED = message("user", "What is 2 plus 2?")
ROWS = {
    "prompt and completion": ("demonstration", {"prompt": ASKED["content"], "completion": THOUGHT}),
    "messages": ("demonstration", {"messages": [ASKED, message("assistant", THOUGHT)]}),
    "pair": (
        "preference",
        {"prompt": ASKED["content"], "chosen": THOUGHT, "rejected": "I do not know."},
    ),
}


@pytest.mark.parametrize("form", ROWS)
def test_a_thought_that_the_template_drops_is_not_dropped_unsaid(tmp_path, form):
    kind, row = ROWS[form]
    with pytest.raises(DataError, match="template drops text: thought of the assistant"):
        ledger(tmp_path, [row] * 3, with_text(STRIPS), kind)
    if kind == "preference":
        told = ledger(tmp_path, [row] * 3, with_text(STRIPS), kind, how=How(scores=True))
        assert "3 rows with replies of which the chat template takes away the thought" in (
            "".join(told.warnings)
        )


@pytest.mark.parametrize("form", ROWS)
def test_thoughts_are_trained_with_the_training_template_of_trl(tmp_path, form):
    """DeepSeek-R1-Distill's own template drops them; the saved one stays as it is."""
    kind, row = ROWS[form]
    tokenizer = trl_template("deepseek_r1_distill")
    own = tokenizer.chat_template
    told = ledger(tmp_path, [row] * 3, tokenizer, kind)
    assert told.kept == 3 and tokenizer.chat_template == own
    wanted = ("The answer is 4.", "Two and two make four.")
    if kind == "demonstration":
        assert not told.warnings
        found = one(tokenizer, {"messages": ROWS["messages"][1]["messages"]})
        shown = "".join(trained(found, tokenizer))
    else:
        talk = {name: [message("assistant", row[name])] for name in ("chosen", "rejected")}
        found = one(tokenizer, {"prompt": [ASKED], **talk}, "preference")
        shown = tokenizer.decode(found.ids[0][found.start :].tolist())
        assert "with answers that do not begin with '<think>'" in "".join(told.warnings)
    assert all(words in shown for words in wanted)


def test_earlier_thoughts_are_kept_by_trl_or_their_turns_are_only_read():
    talk = [ASKED, message("assistant", THOUGHT), ASKED, message("assistant", THOUGHT)]
    tokenizer = trl_template("qwen3")
    kept = trained(one(tokenizer, {"messages": talk}), tokenizer)
    assert len(kept) == 2 and all("make four" in text for text in kept)
    # As a template that TRL does not know.
    tokenizer.chat_template += "{# mine #}"
    found = one(tokenizer, {"messages": talk})
    assert trained(found, tokenizer) == [THOUGHT + "<|im_end|>"]
    assert found.findings == ("turn cut: thought",)


def test_answers_that_do_not_begin_as_generation_does_are_said(tmp_path):
    row = {"messages": [ASKED, message("assistant", "4.")]}
    for tokenizer in (with_text(STRIPS), trl_template("deepseek_r1_distill")):
        told = ledger(tmp_path, [row], tokenizer)
        assert "1 row with answers that do not begin with '<think>'" in told.warnings[0]
    # Qwen3.5 opens a thought too, and its answers always have one.
    assert not ledger(tmp_path, [row], trl_template("qwen3_5_think")).warnings


def test_a_message_that_the_template_leaves_out_costs_the_row():
    deaf = with_text(STRIPS.replace("{{- '<|'", "{%- if m.role != 'system' %}{{- '<|'", 1).replace(
        "{%- endfor", "{%- endif %}{%- endfor"))  # fmt: skip
    talk = [message("system", "Be brief."), ASKED]
    rows = {
        "demonstration": {"messages": [*talk, FIRST[2]]},
        "preference": {"prompt": talk, "chosen": [FIRST[2]], "rejected": [FIRST[4]]},
        "prompt": {"prompt": talk},
    }
    for kind, row in rows.items():
        found = one(deaf, row, kind)
        assert isinstance(found, RenderError)
        assert found.reason == "template drops text: text of the system"


def test_thoughts_of_earlier_turns_of_a_prompt_are_left_out_as_in_use(tmp_path):
    row = {"prompt": [ASKED, message("assistant", THOUGHT), ASKED]}
    told = ledger(tmp_path, [row], trl_template("qwen3"), "prompt")
    assert not told.warnings and "thoughts of earlier turns" in "".join(told.notes)


# --- equal to TRL ------------------------------------------------------------------------------


def conversations():
    system = message("system", "Be brief.")
    return [[system, *FIRST[1:]], FIRST[1:3], [ASKED, message("assistant", THOUGHT)], FIRST]


@pytest.mark.parametrize(
    "name", ["qwen2_5", "qwen3", "qwen3_6", "phi3_5", "gptoss", "llama3", "deepseekv3", "gemma3"]
)
def test_masks_are_those_of_the_training_template_of_trl(name):
    from jinja2 import TemplateError
    from trl.chat_template_utils import get_training_chat_template

    tokenizer = trl_template(name)
    template = get_training_chat_template(tokenizer)
    for talk in conversations():
        found = one(tokenizer, {"messages": talk})
        try:
            theirs = tokenizer.apply_chat_template(
                talk, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
            )
        except TemplateError:
            assert isinstance(found, RenderError)
            continue
        if isinstance(found, RenderError):  # the one that also TRL's template cuts
            assert name == "deepseekv3" and talk[-1]["content"] == THOUGHT
            continue
        if name == "gptoss" and talk[-1]["content"] == THOUGHT:
            continue  # the thought goes to its own channel
        assert found.ids[0].tolist() == theirs["input_ids"]
        mask = [int(label != MASKED) for label in found.labels()]
        assert mask == theirs["assistant_masks"]


READS = "{%- if m.KEY %}{{- '<think>' + m.KEY + '</think>' }}{%- endif %}"


@pytest.mark.parametrize("keys", [("reasoning_content", "thinking"), ("thinking",), ("reasoning",)])
@pytest.mark.parametrize("content", ["Blue.", "<think>Sky.</think>Blue."])
def test_a_thought_is_written_once(keys, content):
    """Also where the template reads several keys, and where the row holds it in two places."""
    reads = "".join(READS.replace("KEY", key) for key in keys)
    tokenizer = with_text(
        "{%- for m in messages %}{{- '<|' + m.role + '|>' }}" + reads + "{{- m.content }}"
        "{{- eos_token if m.role == 'assistant' }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
    )
    said = {**message("assistant", content), "reasoning_content": "Sky."}
    found = one(tokenizer, {"messages": [ASKED, said]})
    assert "".join(trained(found, tokenizer)).count("Sky.") == 1
