"""Calls of functions, thoughts and weights: read in every form, and rendered by the template."""

import json
from pathlib import Path

import pytest
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_tokens import toy_tokenizer

from modelforge.data import How, load_data, load_tokenizer_template
from modelforge.data.calls import calls_of, split_calls, tools_of
from modelforge.data.dialogue import to_messages
from modelforge.data.encoded import pairwise
from modelforge.data.message import Skip
from modelforge.errors import DataError

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
ENDS = {
    "llama3_1": "<|eot_id|>",
    "gptoss": "<|return|>",
    "deepseek_r1_distill": "<｜end▁of▁sentence｜>",
}
CALL = {"name": "get_weather", "arguments": {"city": "Bern"}}
OPENAI = {"type": "function", "function": CALL}
NORMAL = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [OPENAI]},
    {"role": "tool", "content": "Sunny"},
    {"role": "assistant", "content": "It is dry."},
]
USER, ANSWER = NORMAL[0], NORMAL[3]
TOOL = {
    "name": "get_weather",
    "description": "Tells the weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


def said(text):
    return {"from": "gpt", "value": text}


FORMS = {
    "openai": [USER, {"role": "assistant", "content": None, "tool_calls": [OPENAI]}, *NORMAL[2:]],
    "openai, arguments as text": [
        USER,
        {
            "role": "assistant",
            "tool_calls": [
                {"type": "function", "function": {**CALL, "arguments": '{"city": "Bern"}'}}
            ],
        },
        *NORMAL[2:],
    ],
    "openai, of old": [
        USER,
        {"role": "assistant", "content": None, "function_call": CALL},
        {"role": "function", "content": "Sunny"},
        ANSWER,
    ],
    "sharegpt": [
        {"from": "human", "value": "Weather?"},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "observation", "value": "Sunny"},
        said("It is dry."),
    ],
    "ms-swift": [
        USER,
        {"role": "tool_call", "content": json.dumps(CALL)},
        {"role": "tool_response", "content": "Sunny"},
        ANSWER,
    ],
    "anthropic": [
        USER,
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "name": "get_weather", "input": {"city": "Bern"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "content": "Sunny"}]},
        ANSWER,
    ],
    "llama-factory v1": [
        {"role": "user", "content": [{"type": "text", "value": "Weather?"}]},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
        {"role": "tool", "content": [{"type": "text", "value": "Sunny"}]},
        {"role": "assistant", "content": [{"type": "text", "value": "It is dry."}]},
    ],
}
HERMES = [
    USER,
    {"role": "assistant", "content": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>"},
    {"role": "tool", "content": "<tool_response>\nSunny\n</tool_response>"},
    ANSWER,
]


@pytest.mark.parametrize("form", FORMS)
def test_calls_are_read_in_every_form(form):
    assert to_messages(FORMS[form]) == NORMAL


def test_what_stands_beside_a_call_is_kept():
    two = {"name": "g", "arguments": {}}
    parts = [
        {"type": "thinking", "thinking": "I must look."},
        {"type": "text", "text": "I check."},
        {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Bern"}},
        {"type": "tool_use", "id": "t2", "name": "g", "input": {}},
    ]
    (message,) = to_messages([{"role": "assistant", "content": parts}])
    assert message["reasoning_content"] == "I must look." and message["content"] == "I check."
    assert [call["function"] for call in message["tool_calls"]] == [CALL, two]
    assert [call["id"] for call in message["tool_calls"]] == ["t1", "t2"]
    # Calls that follow one another, in ms-swift's form, are one turn.
    calls = [{"role": "tool_call", "content": json.dumps(each)} for each in (CALL, two)]
    (message,) = to_messages([{"role": "assistant", "content": "I check."}, *calls])
    assert [call["function"] for call in message["tool_calls"]] == [CALL, two]


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool_call", "content": "get_weather(Bern)"},
        {"role": "assistant", "content": None},
        {"role": "assistant", "tool_calls": [{"arguments": {}}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": "x.png"}]},
        {"role": "assistant", "content": "A", "weight": "some"},
        {"role": "assistant", "content": "A", "train_detail": [{"train": False}]},
    ],
)
def test_what_is_not_understood_is_said(message):
    with pytest.raises(Skip, match=r"broken messages|weight not understood"):
        to_messages([message])


texts = st.text(max_size=12)
arguments = st.dictionaries(texts, st.one_of(texts, st.integers(), st.lists(texts, max_size=2)))


@settings(max_examples=40, deadline=None)
@given(name=texts.filter(bool), given=arguments, before=texts.filter(lambda t: "<" not in t))
def test_any_call_survives_as_json_and_in_tags(name, given, before):
    call = {"name": name, "arguments": given}
    wanted = [{"type": "function", "function": call}]
    for form in (call, [call], json.dumps(call), {"function": call}):
        assert calls_of(form) == wanted
    tagged = f"{before}<tool_call>\n{json.dumps(call)}\n</tool_call>"
    words, calls = split_calls(tagged)
    if "</tool_call>" not in json.dumps(call):
        assert (words, calls) == (before.rstrip(), wanted)


@pytest.mark.parametrize(
    "value", [[TOOL], json.dumps([TOOL]), TOOL, [json.dumps(TOOL)], {"function": TOOL}]
)
def test_tools_are_read_in_every_form(value):
    assert tools_of(value) == [{"type": "function", "function": TOOL}]
    assert all(tools_of(nothing) is None for nothing in (None, "", "[]", []))
    anthropic = {"name": "f", "input_schema": {"type": "object"}}
    assert tools_of([anthropic])[0]["function"]["parameters"] == {"type": "object"}
    with pytest.raises(ValueError):
        tools_of("a weather tool")


# --- rendered ----------------------------------------------------------------------------------


def tokenizer_of(name):
    tokenizer = toy_tokenizer()
    special = ["<|im_end|>", "<|im_start|>", "<|eot_id|>", "<think>", "</think>"]
    tokenizer.add_special_tokens({"additional_special_tokens": [*special, *ENDS.values()]})
    tokenizer.eos_token = ENDS.get(name, "<|im_end|>")
    load_tokenizer_template(
        tokenizer, chat_template=name, task="text-generation", base_dir=TEMPLATES
    )
    return tokenizer


def load(tmp_path, rows, tokenizer, kind="demonstration", **how):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_data(
        max_length=None, dataset=str(path), eval_split=0, kind=kind, tokenizer=tokenizer, seed=1,
        how=How(**how),
    )  # fmt: skip


def shown(data, tokenizer, row=0):
    """A row as the model reads it, and what of it is trained on."""
    found = data.train_tokens[row]
    spans = pairwise(found.spans)
    trained = [tokenizer.decode(found.ids[0][begin:end].tolist()) for begin, end in spans]
    return tokenizer.decode(found.ids[0].tolist()), trained


@pytest.mark.parametrize("form", [*FORMS, "hermes"])
@pytest.mark.parametrize("name", ["qwen2_5", "llama3_1"])
def test_calls_are_trained_in_the_form_of_the_model(tmp_path, form, name):
    tokenizer = tokenizer_of(name)
    rows = [{"messages": FORMS.get(form, HERMES), "tools": json.dumps([TOOL])}]
    data = load(tmp_path, rows, tokenizer)
    read, trained = shown(data, tokenizer)
    assert "Tells the weather" in read and "Sunny" in read
    assert "Sunny" not in "".join(trained)
    call = {
        "qwen2_5": f"<tool_call>\n{json.dumps(CALL)}\n</tool_call>",
        "llama3_1": '{"name": "get_weather", "parameters": {"city": "Bern"}}',
    }[name]
    assert trained[0].strip() == f"{call}{tokenizer.eos_token}"
    assert trained[1].strip() == f"It is dry.{tokenizer.eos_token}"
    assert not data.ledger.warnings and tokenizer.chat_template == trl_text(name)


def trl_text(name):
    return (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")


def test_calls_are_read_in_pairs_and_prompts_too(tmp_path):
    tokenizer = tokenizer_of("qwen3")
    tools = [TOOL]
    pair = {"prompt": [USER], "chosen": NORMAL[1:2], "rejected": [ANSWER], "tools": tools}
    for scores in (False, True):
        data = load(tmp_path, [pair], tokenizer, "preference", scores=scores)
        chosen = tokenizer.decode(data.train_tokens[0].ids[0].tolist())
        assert "Tells the weather" in chosen and '"arguments": {"city": "Bern"}' in chosen
    prompt = {"prompt": NORMAL[:3], "answer": "It is dry.", "tools": tools}
    data = load(tmp_path, [prompt, {**prompt, "tools": []}], tokenizer, "prompt")
    first, second = (tokenizer.decode(row.ids[0].tolist()) for row in data.train_tokens)
    assert "Tells the weather" in first and "Tells the weather" not in second
    assert "Bern" in second and "Sunny" in second
    # The normal form holds each call with its own arguments alone.
    assert data.train["prompt"][0][1]["tool_calls"] == [OPENAI]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"messages": [USER, ANSWER], "tools": [TOOL]}, "functions that may be called"),
        ({"messages": NORMAL}, "calls of functions"),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "Hm."}]}, "thoughts"),
    ],
)
def test_a_template_without_a_place_for_them_is_refused(tmp_path, row, what):
    plain = {"messages": [USER, ANSWER]}
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: the row holds {what}.*qwen3,"):
        load(tmp_path, [plain, row], tokenizer_of("llama3"))


def test_thoughts_reach_their_place_from_any_field(tmp_path):
    rows = [
        {"messages": [USER, {**ANSWER, key: "I must look."}]}
        for key in ("reasoning_content", "thinking", "reasoning")
    ]
    tagged = {**ANSWER, "content": "<think>I must look.</think>It is dry."}
    rows.append({"messages": [USER, tagged]})
    for name, thought in {
        "qwen3": "<think>\nI must look.\n</think>",
        "gptoss": "<|channel|>analysis<|message|>I must look.<|end|>",
        "deepseek_r1_distill": "<think>\nI must look.\n</think>",
    }.items():
        tokenizer = tokenizer_of(name)
        data = load(tmp_path, rows[:3] if "r1" in name else rows, tokenizer)
        for row in range(len(data.train_tokens)):
            _, trained = shown(data, tokenizer, row)
            assert thought in "".join(trained) and "It is dry." in trained[-1]


@pytest.mark.parametrize("kind", ["prompt", "preference", "demonstration"])
def test_a_prompt_that_begins_the_answer_is_said(kind, tmp_path):
    """Its turn is closed, and the answer is another turn."""
    begun, rest = {**ANSWER, "content": "The answer is"}, [{**ANSWER, "content": " 4."}]
    answers = {
        "prompt": {},
        "preference": {"chosen": rest, "rejected": [{**ANSWER, "content": " 5."}]},
        "demonstration": {"completion": rest},
    }[kind]
    rows = [{"prompt": [USER, begun], **answers}, {"prompt": [USER], **answers}]
    told = load(tmp_path, rows, tokenizer_of("qwen3"), kind).ledger.warnings
    assert sum("1 row with prompts that end with words of the assistant" in w for w in told) == 1


def test_arguments_of_the_template_reach_it_from_the_run_and_from_the_row(tmp_path):
    tokenizer = tokenizer_of("qwen3")
    rows = [
        {"prompt": [USER]},
        {"prompt": [USER], "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": [USER], "chat_template_kwargs": '{"enable_thinking": true}'},
        {"prompt": [USER], "enable_thinking": False},
    ]
    closed = {False: [0, 1, 0, 1], True: [1, 1, 0, 1]}
    for off, wanted in closed.items():
        kwargs = {"enable_thinking": False} if off else {}
        data = load(tmp_path, rows, tokenizer, "prompt", template_kwargs=kwargs)
        texts = [tokenizer.decode(row.ids[0].tolist()) for row in data.train_tokens]
        assert [int("</think>" in text) for text in texts] == wanted


# --- what is trained on ------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["train", "loss", "weight", "loss_weight", "loss_scale"])
def test_a_message_that_says_so_is_only_read(tmp_path, key):
    tokenizer = tokenizer_of("qwen2_5")
    talk = [USER, {**ANSWER, "content": "Dog.", key: 0}, USER, {**ANSWER, key: 1}]
    data = load(tmp_path, [{"messages": talk}], tokenizer)
    read, trained = shown(data, tokenizer)
    assert "Dog." in read and [text.strip() for text in trained] == ["It is dry.<|im_end|>"]


def test_weights_are_refused_unless_they_are_all_the_same(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    talk = [USER, {**ANSWER, "loss_scale": 0.0}, USER, {**ANSWER, "loss_scale": 2.0}]
    data = load(tmp_path, [{"messages": talk}] * 2, tokenizer)
    assert len(shown(data, tokenizer)[1]) == 1 and "weigh 2" in "".join(data.ledger.notes)
    with pytest.raises(DataError, match=r"assistant messages weigh 1, 2: TRL"):
        load(tmp_path, [{"messages": talk}, {"messages": [USER, ANSWER]}], tokenizer)


def test_parts_of_a_message_that_say_so_are_only_read(tmp_path):
    tokenizer = tokenizer_of("qwen2_5")
    detail = [
        {"begin_offset": 0, "end_offset": 5, "train": False},
        {"begin_offset": 6, "end_offset": 40, "train": True},
    ]
    parts = [{"type": "text", "text": "SKIPME", "train": False}, {"type": "text", "text": " Yes."}]
    rows = [
        {"messages": [USER, {**ANSWER, "content": "SKIPME Yes.", "train_detail": detail}]},
        {"messages": [USER, {**ANSWER, "content": parts}]},
    ]
    data = load(tmp_path, rows, tokenizer)
    for row in range(2):
        read, trained = shown(data, tokenizer, row)
        assert "SKIPME Yes." in read and "".join(trained).strip() == "Yes.<|im_end|>"


def test_what_is_trained_on_can_be_chosen(tmp_path):
    tokenizer = tokenizer_of("qwen3")
    rows = [{"messages": [USER, ANSWER, USER, {**ANSWER, "content": "Wet."}]}]
    found = {how: load(tmp_path, rows, tokenizer, train_on=how) for how in ("all", "last")}
    assert [len(shown(data, tokenizer)[1]) for data in found.values()] == [2, 1]
    assert "Wet." in shown(found["last"], tokenizer)[1][0]
    data = load(tmp_path, rows, tokenizer, train_on="everything")
    read, trained = shown(data, tokenizer)
    assert trained == [read]


# --- trained -----------------------------------------------------------------------------------


# Short, for the tiny model's context.
SHORT = (
    "{%- for t in tools or [] %}{{ t.function.name + ':' + t.function.description }}{% endfor %}"
    "{%- for m in messages %}{{ '<' + m.role + '>' + m.content }}"
    "{%- for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    "{{- eos_token if m.role == 'assistant' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ '<assistant>' }}"
    "{{- '<think></think>' if enable_thinking is false }}{% endif %}"
)
TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"


def built(tmp_path, strategy, rows, **keys):
    """A run prepared, and its trainer on the tiny model under a real chat template."""
    from modelforge.configfile.load import load_config
    from modelforge.training.prepare import prepare
    from modelforge.training.run import build_trainer
    from modelforge.training.run import load as load_model

    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "short.jinja").write_text(SHORT)
    said = {
        "strategy": strategy,
        "model_name": str(TINY),
        "dataset": str(tmp_path / "rows.jsonl"),
        "output_dir": str(tmp_path),
        "max_seq_length": 2048,
        "eval_split": 0,
        "chat_template": str(tmp_path / "short.jinja"),
        "report_to": "none",
        **keys,
    }
    prepared = prepare(load_config(said))
    return prepared, build_trainer(prepared, load_model(prepared))


@pytest.mark.parametrize("strategy", ["grpo", "rloo", "ppo"])
def test_prompts_are_sampled_from_as_they_were_checked(tmp_path, strategy):
    rows = [
        {"prompt": NORMAL[:3], "answer": "4", "tools": [TOOL]},
        {"prompt": [USER], "answer": "4", "chat_template_kwargs": {"enable_thinking": False}},
        {"prompt": [USER], "answer": "4"},
    ] * 3
    keys = {"num_generations": 4} if strategy != "ppo" else {}
    keys |= {"chat_template_kwargs": {"enable_thinking": True}}
    prepared, trainer = built(
        tmp_path, strategy, rows, rewards=["numeric_answer"], **keys,
        per_device_train_batch_size=8, generation={"max_new_tokens": 16},
    )  # fmt: skip
    prompts = [row["prompt"] for row in trainer.train_dataset]
    checked = [row.ids[0].tolist() for row in prepared.data.train_tokens]
    assert trainer._tokenize_prompts(prompts)[0] == checked
    assert trainer._tokenize_prompts(prompts[2:3])[0] == checked[2:3]
    assert len(set(map(len, checked))) == 3


def test_pairs_are_trained_as_they_were_checked(tmp_path):
    rows = [
        {"prompt": [USER], "chosen": NORMAL[1:2], "rejected": [ANSWER], "tools": [TOOL]},
        {"prompt": NORMAL[:3], "chosen": NORMAL[3:], "rejected": [said("No.")], "tools": None},
    ] * 4
    prepared, trainer = built(tmp_path, "dpo", rows)
    for row, checked in zip(trainer.train_dataset, prepared.data.train_tokens, strict=True):
        assert row["prompt_ids"] + row["chosen_ids"] == checked.ids[0].tolist()
        assert row["prompt_ids"] + row["rejected_ids"] == checked.ids[1].tolist()
