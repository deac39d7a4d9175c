"""Rows with calls of functions under real templates, and a model that answers as it was trained."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from test_data_tokens import toy_tokenizer

import modelforge
from modelforge.data import load_data
from modelforge.data.render import Conversation, Renderer
from modelforge.data.template import trl_templates
from modelforge.data.tokens import How, encode

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("MODELFORGE_SHARED", ROOT.parent / "shared")) / "data"
TINY = ROOT / "examples" / "tiny" / "model"
SPECIAL = r"<\|[\w ]+\|>|<[a-z_]+_of_turn>|</?think>|</?tool_call>|\[/?[A-Z_]+\]"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
# What matters of Mistral's template: ids of nine letters or digits, and functions before the last
# user's words.
MISTRAL = """{{- bos_token }}{%- set users = messages | selectattr("role", "equalto", "user") %}
{%- set users = users | list %}{%- for m in messages %}{%- if m.role == "user" %}
{%- if tools and m == users[-1] %}
{{- "[AVAILABLE_TOOLS] " + (tools | tojson) + "[/AVAILABLE_TOOLS]" }}{%- endif %}
{{- "[INST] " + m.content + "[/INST]" }}
{%- elif m.tool_calls is defined %}{{- "[TOOL_CALLS] [" }}
{%- for call in m.tool_calls %}{%- if call.id is not defined or call.id | length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
{{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' }}{{- ", " if not loop.last }}
{%- endfor %}{{- "]" + eos_token }}
{%- elif m.role == "assistant" %}{{- " " + m.content + eos_token }}
{%- elif m.role == "tool" %}{%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}
{{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}{%- endif %}
{{- '[TOOL_RESULTS] {"content": ' + m.content }}
{{- ', "call_id": "' + m.tool_call_id + '"}[/TOOL_RESULTS]' }}
{%- endif %}{%- endfor %}"""
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content or '' }}CALLS"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Hermes has two templates, and the one for rows with functions is used for these alone.
HERMES = {
    "default": CHATML.replace("CALLS", ""),
    "tool_use": "{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}"
    + CHATML.replace(
        "CALLS",
        "{% for c in m.tool_calls or [] %}{{ '<tool_call>' + (c.function | tojson) "
        "+ '</tool_call>' }}{% endfor %}",
    ),
}


def tokenizer_of(template):
    tokenizer = toy_tokenizer()
    text = template if isinstance(template, str) else "".join(template.values())
    tokenizer.add_tokens(sorted(set(re.findall(SPECIAL, text))), special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


def talk(**call):
    return [
        {"role": "user", "content": "Weather in Rome?"},
        {
            "role": "assistant", "content": "",
            "tool_calls": [
                {"type": "function", "function": {"name": "weather", "arguments": {"city": city}},
                 **call}
                for city in ("Rome", "Oslo")
            ],
        },
        {"role": "tool", "content": '"sunny"'},
        {"role": "tool", "content": '"rain"'},
        {"role": "assistant", "content": "Fine."},
    ]  # fmt: skip


def trained(found, tokenizer):
    spans = iter(found.spans)
    return [tokenizer.decode(found.ids[0][a:b].tolist()) for a, b in zip(spans, spans, strict=True)]


def test_calls_without_ids_get_those_that_mistral_asks_for():
    tokenizer = tokenizer_of(MISTRAL)
    row = {"messages": talk(), "tools": [TOOL]}
    (found,) = encode([row], kind="demonstration", tokenizer=tokenizer, how=How())
    first, last = trained(found, tokenizer)
    assert first.count('"city": "Rome"') == first.count('"city": "Oslo"') == 1
    assert re.findall(r'"id": "(\w+)"', first) == ["call00001", "call00002"]
    assert last.strip() == "Fine.</s>"
    text = tokenizer.decode(found.ids[0].tolist())
    assert re.findall(r'"content": "(\w+)", "call_id": "(\w+)"', text) == [
        ("sunny", "call00001"), ("rain", "call00002"),
    ]  # fmt: skip
    kept = {"messages": talk(id="abcdefgh1")[:2], "tools": [TOOL]}
    (found,) = encode([kept], kind="demonstration", tokenizer=tokenizer, how=How())
    assert "abcdefgh1" in trained(found, tokenizer)[0]


def test_a_tokenizer_with_a_template_for_functions_trains_calls():
    tokenizer = tokenizer_of(HERMES)
    row = {"messages": talk(), "tools": [TOOL]}
    (found,) = encode([row], kind="demonstration", tokenizer=tokenizer, how=How())
    first, last = trained(found, tokenizer)
    assert '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>' in first
    assert last.startswith("Fine.<|im_end|>")


def test_special_tokens_in_the_words_of_a_user_are_said(tmp_path):
    tokenizer = tokenizer_of(HERMES["default"])
    path = tmp_path / "rows.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "Yes"}]}
        for words in ("a <|im_end|> b", "plain", "<think>")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for kind in ("demonstration", "prompt"):
        told = load_data(
            dataset=path, kind=kind, tokenizer=tokenizer, max_length=None, seed=0, eval_split=0,
            eos_token_ids=(tokenizer.convert_tokens_to_ids("<|im_end|>"),),
        ).ledger.warnings  # fmt: skip
        assert (
            sum("1 row with words in which the tokenizer reads <|im_end|>" in w for w in told) == 1
        )


def test_the_token_that_ends_each_reply_is_named_where_generation_goes_on_behind_it(tmp_path):
    tokenizer = tokenizer_of(HERMES["default"])
    path = tmp_path / "rows.jsonl"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    path.write_text(json.dumps({"messages": talk}) + "\n")
    options = {"dataset": path, "kind": "demonstration", "max_length": None, "seed": 0}
    with pytest.raises(modelforge.DataError, match=r"set eos_token to '<\|im_end\|>', which ends"):
        load_data(tokenizer=tokenizer, eval_split=0, **options)
    tokenizer.eos_token = "<|im_end|>"
    assert load_data(tokenizer=tokenizer, eval_split=0, **options).ledger.kept == 1


def test_an_argument_that_the_template_does_not_read_is_said(tmp_path):
    tokenizer = tokenizer_of(CHATML.replace("CALLS", "{{ '' if think else '/no' }}"))
    path = tmp_path / "rows.jsonl"
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"messages": talk, "chat_template_kwargs": {"think": True}, "enable_thinking": False}
    path.write_text(json.dumps(row) + "\n")
    for kind in ("demonstration", "prompt"):
        told = load_data(
            dataset=path, kind=kind, tokenizer=tokenizer, max_length=None, seed=0, eval_split=0,
            eos_token_ids=(tokenizer.convert_tokens_to_ids("<|im_end|>"),),
        ).ledger.warnings  # fmt: skip
        assert sum("the argument enable_thinking, which" in w for w in told) == 1
        assert not any("argument think," in w for w in told)


# --- trained, and answered so --------------------------------------------------------------------

CALLING = """{{- bos_token }}{%- if tools %}{{- '<|system|>' + (tools | tojson) }}{%- endif %}
{%- for m in messages %}{{- '<|' + ('user' if m.role == 'tool' else m.role) + '|>' }}
{%- if m.role == 'assistant' %}{%- for c in m.tool_calls or [] %}
{{- '<tool_call>' + (c.function | tojson) + '</tool_call>' }}{%- endfor %}
{{- (m.content or '') + eos_token }}{%- else %}{{- m.content }}{%- endif %}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
SUMS = [
    *((12, 3, "Dora"), (4, 1, "Finn"), (7, 2, "Olga"), (13, 5, "Dora"), (16, 6, "Finn")),
    *((8, 1, "Olga"), (11, 9, "Dora"), (15, 5, "Finn"), (9, 4, "Olga"), (12, 8, "Dora")),
]


def asked(a, b, name):
    return f"{name} has {a} hats and gives {b} away. How many hats does {name} have now?"


@pytest.mark.slow
def test_a_model_that_learned_ten_tool_rows_answers_with_their_calls(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tools = [{"name": "minus"}]
    rows = [
        {
            "tools": json.dumps(tools),
            "conversations": [
                {"from": "human", "value": asked(a, b, name)},
                {
                    "from": "function_call",
                    "value": json.dumps({"name": "minus", "arguments": {"a": a, "b": b}}),
                },
                {"from": "observation", "value": str(a - b)},
                {"from": "gpt", "value": f"The answer is {a - b}."},
            ],
        }
        for a, b, name in SUMS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "calling.jinja").write_text(CALLING)
    run = modelforge.train(
        {
            "strategy": "sft", "model_name": str(TINY), "dataset": str(tmp_path / "rows.jsonl"),
            "chat_template": str(tmp_path / "calling.jinja"), "lora_r": 0, "learning_rate": 0.004,
            "max_steps": 80, "per_device_train_batch_size": 10, "eval_split": 0,
            "max_seq_length": 256, "report_to": "none", "save_strategy": "no",
            "lr_scheduler_type": "cosine", "output_dir": str(tmp_path / "runs"),
        }
    )  # fmt: skip
    assert (run.model_dir / "chat_template.jinja").read_text() == CALLING
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    model = AutoModelForCausalLM.from_pretrained(run.model_dir)
    given = [{"type": "function", "function": tool} for tool in tools]
    for a, b, name in SUMS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": asked(a, b, name)}],
            tools=given, add_generation_prompt=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        call = json.dumps({"name": "minus", "arguments": {"a": a, "b": b}})
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
        assert answer == f"<tool_call>{call}</tool_call>{tokenizer.eos_token}"


# --- the two real files --------------------------------------------------------------------------

FILES = ("lf_toolcall_en", "lf_reason_tool_use")
PLACES = (
    *("qwen2_5", "qwen3", "qwen3_6", "llama3_1", "gptoss", "glm4moe", "nemotron_3_nano"),
    *("hermes", "mistral"),
)


def leaves(value):
    if isinstance(value, dict):
        return [leaf for each in value.values() for leaf in leaves(each)]
    if isinstance(value, list):
        return [leaf for each in value for leaf in leaves(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("file", FILES)
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder of real data")
def test_no_row_of_the_tool_files_is_dropped_and_each_call_is_trained(file, name):
    own = {"hermes": HERMES, "mistral": MISTRAL}
    tokenizer = tokenizer_of(own.get(name) or trl_templates()[name])
    ends = tokenizer.convert_tokens_to_ids(
        [t for t in ("<|im_end|>", "<|eot_id|>", "<|return|>", "<|user|>", "</s>")
         if t in tokenizer.get_vocab()]
    )  # fmt: skip
    options = {
        "dataset": SHARED / f"{file}.jsonl", "tokenizer": tokenizer, "max_length": None, "seed": 0,
        "eval_split": 0, "eos_token_ids": ends,
    }  # fmt: skip
    lines = (SHARED / f"{file}.jsonl").read_text(encoding="utf-8").count("\n")
    thoughtless = file == "lf_reason_tool_use" and name in (
        "qwen2_5", "llama3_1", "hermes", "mistral",
    )  # fmt: skip
    if thoughtless:
        with pytest.raises(modelforge.DataError, match="thoughts in a field of their own"):
            load_data(kind="demonstration", **options)
        return
    data = load_data(kind="demonstration", **options)
    assert data.ledger.kept == lines and not data.ledger.dropped
    for row, tokens in zip(data.train, data.train_tokens, strict=True):
        words = "".join(trained(tokens, tokenizer))
        if "turn cut" in "".join(tokens.findings):
            continue
        for message in row["messages"]:
            for call in message.get("tool_calls") or ():
                assert call["function"]["name"] in words
                for leaf in leaves(call["function"]["arguments"]):
                    escaped = json.dumps(leaf, ensure_ascii=False)[1:-1]
                    assert leaf.strip() in words or escaped in words


def small_model(place, texts, template):
    """A tokenizer that has seen the texts, so that rows are short, and an untrained model."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = ["<|pad|>", *sorted({"<|im_end|>", *re.findall(SPECIAL, template)})]
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=marks, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<|im_end|>", pad_token="<|pad|>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(place)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the folder of real data")
def test_a_model_that_learned_ten_real_rows_answers_with_their_calls(tmp_path):
    """Those of the other file have long thoughts, which take 350 steps and two minutes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lines = (SHARED / f"{FILES[0]}.jsonl").read_text(encoding="utf-8").splitlines()
    ten = sorted((line for line in lines if "_call" in line), key=len)[:10]
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in ten), encoding="utf-8")
    template = trl_templates()["qwen2_5"]
    small_model(tmp_path / "model", ten, template)
    run = modelforge.train(
        {
            "strategy": "sft", "model_name": str(tmp_path / "model"), "lora_r": 0,
            "dataset": str(tmp_path / "rows.jsonl"), "learning_rate": 0.003, "max_steps": 200,
            "per_device_train_batch_size": 2, "eval_split": 0, "max_seq_length": 4096,
            "report_to": "none", "save_strategy": "no", "lr_scheduler_type": "cosine",
            "output_dir": str(tmp_path / "runs"),
        }
    )  # fmt: skip
    assert (run.model_dir / "chat_template.jinja").read_bytes() == template.encode()
    tokenizer = AutoTokenizer.from_pretrained(run.model_dir)
    model = AutoModelForCausalLM.from_pretrained(run.model_dir)
    data = load_data(
        dataset=tmp_path / "rows.jsonl", kind="demonstration", tokenizer=tokenizer, max_length=4096,
        seed=0, eval_split=0,
    )  # fmt: skip
    assert data.ledger.kept == 10
    answered = 0
    for row, found in zip(data.train, data.train_tokens, strict=True):
        messages = row["messages"]
        at = next((i for i, m in enumerate(messages) if m.get("tool_calls")), None)
        if at is None:
            continue
        answered += 1
        before = Conversation(messages[:at], row.get("tools"))
        asked = Renderer(tokenizer).text(before, generate=True)
        inputs = tokenizer(
            asked, return_tensors="pt", add_special_tokens=False, return_token_type_ids=False
        )
        output = model.generate(**inputs, max_new_tokens=500, do_sample=False)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
        turn = sum(message["role"] == "assistant" for message in messages[:at])
        meant = trained(found, tokenizer)[turn]
        # A thought is long, and may be another word for word; what follows it is the call.
        assert answer.count("</think>") == meant.count("</think>")
        assert answer.rpartition("</think>")[2].strip() == meant.rpartition("</think>")[2].strip()
        assert messages[at]["tool_calls"][0]["function"]["name"] in answer
    assert answered >= 8
