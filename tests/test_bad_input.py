"""Forty-odd kinds of bad input: one clear message, exit code 2, nothing left behind."""

import json
import shutil
from pathlib import Path

import pytest

from modelforge.cli import main as cli

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"

GOOD_SFT = {"prompt": "What is 1 plus 2?", "completion": "It is 3."}
GOOD_PAIR = {"prompt": "Hello?", "chosen": "Good day!", "rejected": "What."}


def case(says, files=None, strategy="sft", model=None, raw=None, **values):
    """A bad config: what its message says, the files beside it, the values it sets."""
    return {
        "says": says,
        "files": files or {},
        "values": {"strategy": strategy, **values},
        "model": model,
        "raw": raw,
    }


def lines(*rows):
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def without(*names):
    """A copy of the tiny model that lacks these files."""

    def make(folder):
        shutil.copytree(TINY / "model", folder)
        for name in names:
            (folder / name).unlink()

    return make


def with_pickle(folder):
    without("model.safetensors")(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


def without_eos(folder):
    shutil.copytree(TINY / "model", folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["eos_token"] = None
    path.write_text(json.dumps(settings))


def broken_config(folder):
    shutil.copytree(TINY / "model", folder)
    (folder / "config.json").write_text('{"model_type": "no-such-architecture"}')


def adapter_without_base(folder):
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/no/such/base"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")


DATA = {"data.jsonl": lines(*[GOOD_SFT] * 4)}
PAIRS = {"data.jsonl": lines(*[GOOD_PAIR] * 4)}
PROMPTS = {"data.jsonl": lines(*[{"prompt": "What is 1 plus 2?", "answer": "3"}] * 4)}

CASES = {
    "misspelt key": case("did you mean 'learning_rate'", DATA, learning_rat=1e-4),
    "wrong type": case("set a whole number", DATA, lora_r="8"),
    "out of range": case("above 0", DATA, learning_rate=-1.0),
    "unknown strategy": case("did you mean 'sft'", DATA, strategy="stf"),
    "unknown provider": case("did you mean 'huggingface'", DATA, provider="huggingfase"),
    "unsloth cannot do it": case("keeps no 32-bit", DATA, provider="unsloth", lora_r=0),
    "unknown profile": case("did you mean 'high'", DATA, hardware_profile="higj"),
    "unknown optimizer": case("did you mean 'adamw_torch", DATA, optim="adamw_tor"),
    "unknown task": case("one of", DATA, task="translation"),
    "two keys that exclude each other": case("keep one", DATA, use_4bit=True, use_8bit=True),
    "4-bit and all weights": case("cannot be trained", DATA, lora_r=0, use_4bit=True),
    "run name with a slash": case("that matches", DATA, run_name="../up"),
    "nothing to train on": case("is missing", raw='{"strategy": "sft", "model_name": "m"}'),
    "not JSON": case("not valid JSON", raw='{"strategy": "sft",}'),
    "a list for a config": case("one object", raw="[]"),
    "unknown tracker": case("report_to", DATA, report_to="tensorbord"),
    "missing data file": case("data.jsonl", {"dota.jsonl": lines(GOOD_SFT)}),
    "empty data file": case("holds no rows", {"data.jsonl": ""}),
    "empty list": case("data.json", {"data.json": "[]"}, dataset="data.json"),
    "unknown ending": case("data.docx", {"data.docx": "hello"}, dataset="data.docx"),
    "broken line": case("data.jsonl:3", {"data.jsonl": lines(GOOD_SFT, GOOD_SFT, '{"prompt": ')}),
    "a row that is no object": case("data.jsonl:2", {"data.jsonl": lines(GOOD_SFT, "[1]")}),
    "missing column": case("columns", {"data.jsonl": lines({"colour": "red", "size": 3})}),
    "mapped column that is not there": case(
        "did you mean 'reply'", {"data.jsonl": lines({"ask": "a", "reply": "b"})},
        columns={"prompt": "ask", "completion": "replly"},
    ),
    "preferences without a rejected": case("", {"data.jsonl": lines(GOOD_SFT)}, strategy="dpo"),
    "empty cells": case("empty", {"data.jsonl": lines({"prompt": "", "completion": ""})}),
    "numbers for messages": case("", {"data.jsonl": lines({"messages": 5})}),
    "chosen equals rejected": case(
        "equals", {"data.jsonl": lines({**GOOD_PAIR, "rejected": "Good day!"})}, strategy="dpo"
    ),
    "prompt longer than the length": case(
        "max_seq_length", {"data.jsonl": lines({**GOOD_SFT, "prompt": "word " * 300})},
        max_seq_length=32,
    ),
    "every row masked": case(
        "no assistant", {"data.jsonl": lines({"messages": [{"role": "user", "content": "Hi"}]})}
    ),
    "wrong encoding": case("UTF-8", {"data.jsonl": lines(GOOD_SFT).encode() + b"\xff\n"}),
    "template that does not parse": case(
        "template", DATA | {"t.jinja": "{% for m in messages %}"}, chat_template="t.jinja"
    ),
    "template that is not there": case("template", DATA, chat_template="nosuch.jinja"),
    "template without EOS": case(
        "chat_template",
        DATA | {"t.jinja": "{% for m in messages %}{{ m['content'] }} {% endfor %}"},
        chat_template="t.jinja",
    ),
    "model folder that is not there": case("there is no folder", DATA, model="./no/such/model"),
    "model folder without tokenizer": case(
        "no tokenizer", DATA, model=without("tokenizer.json", "tokenizer_config.json")
    ),
    "model folder without config": case("no config.json", DATA, model=without("config.json")),
    "model folder without weights": case(
        "no .safetensors", DATA, model=without("model.safetensors")
    ),
    "pickled weights": case("convert them to safetensors", DATA, model=with_pickle),
    "tokenizer without EOS": case("no EOS token", DATA, model=without_eos),
    "unknown architecture": case("no usable model", DATA, model=broken_config),
    "adapter without its base": case("/no/such/base", DATA, model=adapter_without_base),
    "unknown hub id": case("no usable model", DATA, model="no-such-org/no-such-model"),
    "unknown reward": case(
        "did you mean 'exact_match'", PROMPTS, strategy="grpo", rewards=["exact_mach"]
    ),
    "reward function that is not there": case(
        "rewards.py", PROMPTS, strategy="grpo", rewards=["rewards.py:score"]
    ),
    "reward with a wrong argument": case(
        "pattern", PROMPTS, strategy="grpo", rewards=[{"name": "regex"}]
    ),
    "no reward and no answer": case(
        "rewards", {"data.jsonl": lines({"prompt": "Hello?"})}, strategy="grpo"
    ),
    "reward column that the data lacks": case(
        "solution", PROMPTS, strategy="grpo",
        rewards=[{"name": "exact_match", "arguments": {"column": "solution"}}],
    ),
    "group that does not divide the batch": case(
        "times per_device_train_batch_size 8 makes no whole groups of 3", PROMPTS, strategy="grpo",
        rewards=["exact_match"], num_generations=3, per_device_train_batch_size=8,
        gradient_accumulation_steps=1,
    ),
    "no room for the prompt": case(
        "is left for the prompt", PROMPTS, strategy="grpo", rewards=["exact_match"],
        generation={"max_new_tokens": 128},
    ),
    "checkpoint that is not there": case("not a checkpoint", DATA, resume="checkpoint-5"),
    "output that is a file": case("cannot be written", DATA | {"runs": "a file"}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_bad_input_is_one_clear_message_and_leaves_nothing(name, tmp_path, monkeypatch, capsys):
    bad = CASES[name]
    for file, content in bad["files"].items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / file).write_bytes(data)
    model = bad["model"] or str(TINY / "model")
    if callable(model):
        model(tmp_path / "a-model")
        model = "./a-model"
    values = {
        "model_name": model,
        "dataset": "data.jsonl",
        "max_seq_length": 128,
        "max_steps": 1,
        "output_dir": str(tmp_path / "runs"),
    } | bad["values"]
    (tmp_path / "config.json").write_text(bad["raw"] or json.dumps(values))
    before = sorted(tmp_path.rglob("*"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["modelforge", "train", "config.json"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()

    said = " ".join(capsys.readouterr().err.split())
    assert stopped.value.code == 2, said
    assert bad["says"] in said
    # Data that cannot train is one problem and its reasons.
    assert "Traceback" not in said and ("1 problem" in said or "0 of " in said)
    assert sorted(tmp_path.rglob("*")) == before


def test_there_are_forty_kinds():
    assert len(CASES) >= 40
