"""Tokenizers that put EOS behind text, and text that brings its own BOS."""

import json
from pathlib import Path

import pytest

import modelforge
from modelforge.data import keep_prompts_open, load_data
from modelforge.evaluation.samples import answer
from modelforge.training.prepare import prepare

TINY = Path(__file__).parents[1] / "examples" / "tiny"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The tiny model with a tokenizer that puts BOS before and EOS behind every text."""
    import shutil

    folder = tmp_path_factory.mktemp("adds-eos") / "model"
    shutil.copytree(TINY / "model", folder)
    (folder / "chat_template.jinja").unlink()
    state = json.loads((folder / "tokenizer.json").read_text())
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    bos, eos = tokenizer.bos_token, tokenizer.eos_token
    text = {"Sequence": {"id": "A", "type_id": 0}}
    marks = [{"SpecialToken": {"id": mark, "type_id": 0}} for mark in (bos, eos)]
    template = {
        "type": "TemplateProcessing",
        "single": [marks[0], text, marks[1]],
        "pair": [marks[0], text, {"Sequence": {"id": "B", "type_id": 0}}, marks[1]],
        "special_tokens": {
            mark: {"id": mark, "ids": [tokenizer.convert_tokens_to_ids(mark)], "tokens": [mark]}
            for mark in (bos, eos)
        },
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    state["post_processor"] = {
        "type": "Sequence",
        "processors": [level | {"use_regex": True}, template],
    }
    (folder / "tokenizer.json").write_text(json.dumps(state))
    return folder


def loaded(model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def ready(model, folder, strategy, row, **keys):
    (folder / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    values = {
        "strategy": strategy, "model_name": str(model), "dataset": str(folder / "rows.jsonl"),
        "chat_template": "none", "eval_split": 0, "max_seq_length": 64, "report_to": "none",
        "output_dir": str(folder / "runs"), **keys,
    }  # fmt: skip
    return prepare(modelforge.load_config(values))


LENGTH = {"rewards": [{"name": "length", "arguments": {"target": 4}}]}


@pytest.mark.parametrize(
    ("strategy", "row", "keys"),
    [
        ("grpo", {"prompt": "Name a color"}, LENGTH),
        ("ppo", {"prompt": "Name a color"}, LENGTH),
        ("sft", {"prompt": "Name a color", "completion": " Blue."}, {}),
        ("sft", {"text": "Name a color Blue."}, {}),
        ("dpo", {"prompt": "Name a color", "chosen": " Blue.", "rejected": " Two."}, {}),
        ("reward", {"prompt": "Name a color", "chosen": " Blue.", "rejected": " Two."}, {}),
    ],
)
def test_no_prompt_ends_in_eos_and_every_reply_ends_once(model, tmp_path, strategy, row, keys):
    run = ready(model, tmp_path, strategy, row, **keys)
    eos, bos = run.tokenizer.eos_token_id, run.tokenizer.bos_token_id
    tokens = run.data.train_tokens[0]
    for ids in tokens.ids:
        assert ids[0] == bos and list(ids).count(bos) == 1
        assert list(ids).count(eos) == (
            0 if "answer" in row or (len(row) == 1 and "prompt" in row) else 1
        )
    assert eos not in tokens.ids[0][: tokens.start]
    # What TRL tokenises itself, a prompt before each rollout among it, it does with this tokenizer.
    assert run.tokenizer(["Name a color"])["input_ids"][0][-1] != eos
    run.tokenizer.save_pretrained(tmp_path / "saved")
    assert loaded(tmp_path / "saved")("Name a color")["input_ids"] == list(
        run.tokenizer("Name a color")["input_ids"]
    )


def test_samples_are_answers_to_an_open_prompt(model, tmp_path):
    from transformers import AutoModelForCausalLM

    run = ready(model, tmp_path, "sft", {"prompt": "Name a color", "completion": " Blue."})
    seen = []
    policy = AutoModelForCausalLM.from_pretrained(model)
    policy.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].tolist()), with_kwargs=True
    )
    answer(policy, run.tokenizer, run.data.train.select([0]), limit=64, new_tokens=1)
    assert run.tokenizer.eos_token_id not in seen[0][0]


def test_a_tokenizer_that_adds_none_is_left_alone(model):
    plain = loaded(TINY / "model")
    before = plain.backend_tokenizer.to_str()
    assert not keep_prompts_open(plain) and plain.backend_tokenizer.to_str() == before
    ending = loaded(model)
    assert keep_prompts_open(ending)
    assert ending("a", "b")["input_ids"][-1] != ending.eos_token_id


def test_a_bos_that_the_text_brings_is_not_doubled(model, tmp_path):
    tokenizer = loaded(model)
    keep_prompts_open(tokenizer)
    tokenizer.chat_template = None
    bos = tokenizer.bos_token
    kinds = {
        "demonstration": [
            {"prompt": f"{bos}Q", "completion": " A"},
            {"prompt": "Q", "completion": "B"},
        ],
        "preference": [{"prompt": f"{bos}Q", "chosen": " A", "rejected": " B"}],
        "prompt": [{"prompt": f"{bos}Q"}],
    }
    for kind, rows in kinds.items():
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = load_data(
            dataset=path, kind=kind, tokenizer=tokenizer, max_length=64, seed=0, eval_split=0
        )
        assert data.ledger.double_bos == 0
        assert list(data.train_tokens[0].ids[0]).count(tokenizer.bos_token_id) == 1
        assert data.train[0]["prompt"] == "Q"  # what TRL tokenises again
        assert any("taken off" in note for note in data.ledger.notes)


def test_prompts_that_end_like_a_reply_are_warned_of(tmp_path):
    from modelforge.data import load_tokenizer_template

    tokenizer = loaded(TINY / "model")
    closed = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}\n"
    (tmp_path / "closed.jinja").write_text(closed)
    load_tokenizer_template(
        tokenizer, chat_template="closed.jinja", task="text-generation", base_dir=tmp_path
    )
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "Q"}) + "\n")
    data = load_data(
        dataset=path, kind="prompt", tokenizer=tokenizer, max_length=64, seed=0, eval_split=0
    )
    assert data.ledger.closed_prompts == 1
    assert any("asked for nothing" in warning for warning in data.ledger.warnings)
