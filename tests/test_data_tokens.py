"""Tokens, labels and templates; compared with what TRL's own trainers make of the same rows."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from modelforge.data import built_in_templates, load_tokenizer_template, preview
from modelforge.data.encoded import MASKED
from modelforge.data.output import token_columns
from modelforge.data.render import RenderError
from modelforge.data.tokens import encode
from modelforge.errors import ModelError

HERE = Path()
TASKS = ("text-generation", "summarization", "question-answering")
# Strips earlier thoughts, as reasoning models' templates do: prefixes do not hold.
FORGETFUL = (
    "{% for m in messages %}{{ '<' + m['role'] + '>' }}"
    "{{ m['content'] if loop.last or m['role'] != 'assistant' else m['content'].split('|')[-1] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
STRICT = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('roles must alternate') }}{% endif %}"
    + FORGETFUL
)


def toy_tokenizer(*, bos: bool = True):
    """Byte-level BPE of 300 tokens that writes any text; with ``bos`` it begins text with <s>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(
        ["User: hello there\nAssistant: hello you", "the cat and the dog"], trainer
    )
    if bos:
        bare.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="module")
def tokenizer():
    return toy_tokenizer()


def with_template(tokenizer, name, task="text-generation"):
    tokenizer.chat_template = None
    load_tokenizer_template(tokenizer, chat_template=name, task=task, base_dir=HERE)
    return tokenizer


def dataset(rows):
    from datasets import Dataset

    return Dataset.from_list(rows)


def tokenize(rows, *, kind, tokenizer, max_length):
    """Rows in the columns that TRL takes as already prepared."""
    tokens = list(encode(rows, kind=kind, tokenizer=tokenizer))
    return token_columns(tokens, dataset(rows), kind=kind, max_length=max_length)


def message(role, content):
    return {"role": role, "content": content}


WORDS = ["the cat", "hello", "x" * 40, "é\n\n ü", "a dog and you", " lead", "trail "]
DEMOS = [
    {"prompt": [message("user", p)], "completion": [message("assistant", c)]}
    for p in WORDS
    for c in WORDS
]
TALKS = [
    {
        "messages": [
            message("user", a),
            message("assistant", b),
            message("user", c),
            message("assistant", a),
        ]
    }
    for a, b, c in zip(WORDS, WORDS[1:], WORDS[2:], strict=False)
] + [
    {"messages": [message("system", "be kind"), message("user", "hi"), message("assistant", "yo")]}
]
PAIRS = [
    {
        "prompt": [message("user", a)],
        "chosen": [message("assistant", b)],
        "rejected": [message("assistant", b + "?")],
        "margin": 1.5,
    }
    for a in WORDS
    for b in WORDS
]


def raw(rows):
    """The same rows as plain strings."""
    return [
        {k: v[0]["content"] if isinstance(v, list) else v for k, v in row.items()} for row in rows
    ]


def decode(tokenizer, ids):
    return tokenizer.decode(ids)


# --- the templates -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["plain", "summarization", "question-answering", "chatml", "llama3"]
)
def test_built_in_templates_supervise_replies_and_their_end(tokenizer, name):
    with_template(tokenizer, name)
    for row, found in zip(
        TALKS, encode(TALKS, kind="demonstration", tokenizer=tokenizer), strict=True
    ):
        trained = [label for label in found.labels() if label != MASKED]
        ends = trained.count(tokenizer.eos_token_id)
        replies = [m["content"] for m in row["messages"] if m["role"] == "assistant"]
        assert ends == len(replies)
        assert trained[-1] == tokenizer.eos_token_id
        shown = decode(tokenizer, trained)
        for reply in replies:
            assert reply in shown
            shown = shown[shown.index(reply) + len(reply) :]
        asked = [m["content"] for m in row["messages"] if m["role"] != "assistant"]
        masked = decode(
            tokenizer, [i for i, n in zip(found.ids[0], found.labels(), strict=True) if n == MASKED]
        )
        assert all(text in masked for text in asked)


def test_built_in_layouts_read_as_designed(tokenizer):
    rows = [message("user", "Long text."), message("assistant", "Short.")]
    shown = {}
    for name in built_in_templates():
        with_template(tokenizer, name)
        shown[name] = tokenizer.apply_chat_template(rows, tokenize=False)
        opened = tokenizer.apply_chat_template(rows[:1], tokenize=False, add_generation_prompt=True)
        assert shown[name].startswith(opened)
    assert shown == {
        "plain": "<s>User: Long text.\nAssistant: Short.</s>",
        "summarization": "<s>Long text.\n\nTL;DR: Short.</s>",
        "question-answering": "<s>Question: Long text.\nAnswer: Short.</s>",
        "chatml": "<s><|im_start|>user\nLong text.<|im_end|>\n"
        "<|im_start|>assistant\nShort.<|im_end|></s>\n",
        "llama3": "<s><|start_header_id|>user<|end_header_id|>\n\nLong text.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nShort.<|eot_id|></s>",
        "alpaca": "<s>Below is an instruction that describes a task. Write a response that "
        "appropriately completes the request.\n\n### Instruction:\nLong text.\n\n"
        "### Response:\nShort.</s>\n\n",
        "vicuna": "<s>A chat between a curious user and an artificial intelligence assistant. The "
        "assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: Long text. ASSISTANT: Short.</s>",
        "zephyr": "<s><|user|>\nLong text.</s>\n<|assistant|>\nShort.</s>\n",
    }


def test_the_choice_of_a_template_has_its_reason(tmp_path):
    tokenizer = toy_tokenizer(bos=False)
    chosen = [
        load_tokenizer_template(tokenizer, chat_template="auto", task=task, base_dir=HERE)
        for task in TASKS[:1]
    ]
    assert chosen[0].name == "plain" and "has none" in chosen[0].reason
    assert not tokenizer.chat_template.startswith("{{- bos_token }}")
    again = load_tokenizer_template(tokenizer, chat_template="auto", task=TASKS[1], base_dir=HERE)
    assert again.name == "tokenizer" and again.text == chosen[0].text
    for task in TASKS[1:]:
        tokenizer.chat_template = None
        found = load_tokenizer_template(tokenizer, chat_template="auto", task=task, base_dir=HERE)
        assert found.name == task
    (tmp_path / "mine.jinja").write_text(STRICT)
    mine = load_tokenizer_template(
        tokenizer, chat_template="mine.jinja", task=TASKS[0], base_dir=tmp_path
    )
    assert mine.text == STRICT == tokenizer.chat_template
    load_tokenizer_template(tokenizer, chat_template="none", task=TASKS[0], base_dir=HERE)
    assert tokenizer.chat_template is None


def test_bad_templates_are_told(tmp_path):
    tokenizer = toy_tokenizer()
    (tmp_path / "bad.jinja").write_text("{% for m in messages %}")
    ask = {"task": TASKS[0], "base_dir": tmp_path}
    with pytest.raises(ModelError, match=r"bad\.jinja, line 1"):
        load_tokenizer_template(tokenizer, chat_template="bad.jinja", **ask)
    with pytest.raises(ModelError, match="did you mean 'chatml'"):
        load_tokenizer_template(tokenizer, chat_template="chat-ml", **ask)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer_template(tokenizer, chat_template="auto", **ask)


# --- masks -------------------------------------------------------------------------------------


def without_marks(template):
    return template.replace("endgeneration", "endif").replace("generation %}", "if true %}")


@pytest.mark.parametrize("name", ["plain", "chatml", "llama3"])
def test_templates_without_marks_give_the_labels_that_the_marks_gave(tokenizer, name):
    first = {"messages": [message("assistant", "Welcome"), *TALKS[0]["messages"]]}
    rows = [*TALKS, first]
    with_template(tokenizer, name)
    marked = list(encode(rows, kind="demonstration", tokenizer=tokenizer))
    tokenizer.chat_template = without_marks(tokenizer.chat_template)
    bare = list(encode(rows, kind="demonstration", tokenizer=tokenizer))
    assert [(a.ids, a.labels()) for a in marked] == [(b.ids, b.labels()) for b in bare]
    assert not any(b.findings for b in bare)


def test_turns_that_a_template_cuts_are_read_and_not_trained_on(tokenizer):
    tokenizer.chat_template = FORGETFUL
    talk = [message("user", "a"), message("assistant", "think|b"), message("user", "c")]
    talk.append(message("assistant", "think|d"))
    (found,) = encode([{"messages": talk}], kind="demonstration", tokenizer=tokenizer)
    assert found.findings == ("turn cut: text",)
    trained = [label for label in found.labels() if label != MASKED]
    assert decode(tokenizer, trained) == "think|d</s>"


def test_a_row_the_template_refuses_fails_alone(tokenizer):
    tokenizer.chat_template = STRICT
    rows = [TALKS[0], {"messages": [message("assistant", "x")]}, TALKS[1]]
    found = list(encode(rows, kind="demonstration", tokenizer=tokenizer))
    assert [isinstance(item, RenderError) for item in found] == [False, True, False]
    assert "roles must alternate" in str(found[1])


talks = st.lists(
    st.tuples(st.sampled_from(["user", "assistant", "system"]), st.text(max_size=20)),
    min_size=1,
    max_size=6,
).map(lambda turns: {"messages": [message(role, text) for role, text in turns]})


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(talks, min_size=1, max_size=5), name=st.sampled_from(["plain", "llama3", "own"])
)
def test_labels_are_masked_or_the_ids(tokenizer, rows, name):
    if name == "own":
        tokenizer.chat_template = FORGETFUL
    else:
        with_template(tokenizer, name)
    for row, found in zip(
        rows, encode(rows, kind="demonstration", tokenizer=tokenizer), strict=True
    ):
        if isinstance(found, RenderError):
            assert name == "own"  # it cuts every turn of this row
            continue
        pairs = list(zip(found.ids[0], found.labels(), strict=True))
        assert all(label in (MASKED, token) for token, label in pairs)
        if name != "own":
            assert any(label != MASKED for _, label in pairs) == any(
                m["role"] == "assistant" for m in row["messages"]
            )


def test_tokenize_cuts_and_drops_what_is_left_without_labels(tokenizer):
    with_template(tokenizer, "plain")
    whole = tokenize(DEMOS, kind="demonstration", tokenizer=tokenizer, max_length=None)
    cut = tokenize(DEMOS, kind="demonstration", tokenizer=tokenizer, max_length=20)
    assert whole.column_names == ["input_ids", "labels"] and len(whole) == len(DEMOS)
    expected = [
        (row["input_ids"][:20], row["labels"][:20])
        for row in whole
        if any(label != MASKED for label in row["labels"][:20])
    ]
    assert [(row["input_ids"], row["labels"]) for row in cut] == expected
    assert 0 < len(cut) < len(DEMOS)


def test_preview_shows_all_text_and_what_is_trained(tokenizer):
    with_template(tokenizer, "plain")

    def shown(row, kind, limit=None):
        (tokens,) = encode([row], kind=kind, tokenizer=tokenizer)
        found = preview(tokens, tokenizer=tokenizer, max_length=limit)
        return [(segment.part, segment.text, segment.trained) for segment in found]

    talk = shown(TALKS[0], "demonstration")
    assert [on for _, _, on in talk] == [False, True, False, True]
    assert "".join(text for _, text, _ in talk) == tokenizer.apply_chat_template(
        TALKS[0]["messages"], tokenize=False
    )
    assert shown(PAIRS[0], "preference") == [
        ("prompt", "<s>User: the cat\nAssistant:", False),
        ("chosen", " the cat</s>", True),
        ("rejected", " the cat?</s>", True),
    ]
    assert shown(DEMOS[0], "prompt") == [("prompt", "<s>User: the cat\nAssistant:", False)]
    assert shown({"text": "words"}, "demonstration") == [("row", "<s>words</s>", True)]
    assert len(shown(TALKS[0], "demonstration", 3)) == 1


# --- the same as TRL ---------------------------------------------------------------------------


def tiny(kind, tokenizer):
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, pad_token_id=0, num_labels=1,
    )  # fmt: skip
    return getattr(transformers, f"LlamaFor{kind}")(config)


def trl_rows(trainer, config, rows, tokenizer, folder, *, models, **options):
    """The rows as a TRL trainer prepares them for itself."""
    args = config(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none",
        gradient_checkpointing=False, **options,
    )  # fmt: skip
    return trainer(
        **models, args=args, train_dataset=dataset(rows), processing_class=tokenizer
    ).train_dataset


@pytest.mark.slow
@pytest.mark.parametrize("max_length", [None, 80])
@pytest.mark.parametrize("template", ["plain", "chatml", "none"])
def test_demonstrations_equal_trl(tmp_path, template, max_length):
    from trl import SFTConfig, SFTTrainer

    tokenizer = with_template(toy_tokenizer(), template)
    ask = {"models": {"model": tiny("CausalLM", tokenizer)}, "max_length": max_length}
    rows = raw(DEMOS) if template == "none" else DEMOS
    if template == "none":
        cases = [(rows, {}), ([{"text": row["prompt"]} for row in rows], {})]
    else:
        # ChatML's line break behind a turn is no part of it, whichever form the rows have.
        only = {"assistant_only_loss": True}
        cases = [(rows, {} if template == "plain" else only), (TALKS, only)]
    for case, options in cases:
        theirs = trl_rows(SFTTrainer, SFTConfig, case, tokenizer, tmp_path, **ask, **options)
        ours = tokenize(case, kind="demonstration", tokenizer=tokenizer, max_length=max_length)
        assert len(ours) == len(theirs) > 0
        assert list(ours["input_ids"]) == list(theirs["input_ids"])
        assert list(ours["labels"]) == list(theirs["labels"])
        # And the trainer takes our columns as they are.
        again = trl_rows(SFTTrainer, SFTConfig, list(ours), tokenizer, tmp_path, **ask)
        assert list(again["labels"]) == list(ours["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("template", ["plain", "none"])
def test_pairs_equal_trl(tmp_path, template):
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer

    tokenizer = with_template(toy_tokenizer(), template)
    rows = raw(PAIRS) if template == "none" else PAIRS
    for max_length in (None, 24):
        scored = trl_rows(
            RewardTrainer, RewardConfig, rows, tokenizer, tmp_path, max_length=max_length,
            models={"model": tiny("SequenceClassification", tokenizer)},
        )  # fmt: skip
        ours = tokenize(rows, kind="preference", tokenizer=tokenizer, max_length=max_length)
        assert ours.column_names == ["chosen_ids", "rejected_ids", "margin"]
        for name in ours.column_names:
            assert list(ours[name]) == list(scored[name])
    models = {name: tiny("CausalLM", tokenizer) for name in ("model", "ref_model")}
    theirs = trl_rows(
        DPOTrainer, DPOConfig, rows, tokenizer, tmp_path, models=models, max_length=None
    )
    found = list(encode(rows, kind="preference", tokenizer=tokenizer))
    for item, row in zip(found, theirs, strict=True):
        assert item.start == len(row["prompt_ids"])
        assert item.ids[0].tolist() == row["prompt_ids"] + row["chosen_ids"]
        assert item.ids[1].tolist() == row["prompt_ids"] + row["rejected_ids"]


def test_a_tokenizer_in_python_alone_is_refused_where_turns_are_to_be_found(tmp_path):
    """It gives no offsets: reading the rows ended in a traceback."""
    with pytest.raises(ModelError, match=r"ByT5Tokenizer does not tell .* tokenizer\.json"):
        load_tokenizer_template(
            ByT5Tokenizer(), chat_template="auto", task="text-generation", base_dir=tmp_path
        )
