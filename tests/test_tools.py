"""Tools and environments of GRPO: checked before a model is loaded, called, and masked right."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from tiny import resumed_bitwise, talking
from trl import GRPOTrainer

from modelforge import ConfigError, load_config
from modelforge.rewards.calls import make_readable
from modelforge.rewards.tools import call, load_environment, load_tools
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
CALLING = EXAMPLES / "tiny" / "calling.jinja"
SOURCE = '''
from functools import cache

def minus(a: int, b: int) -> int:
    """Subtract.

    Args:
        a: One.
        b: The other.
    """
    return a - b

def bare(a, b):
    return a

class Guess:
    def reset(self, word: str, **row):
        self.word, self.said = word, []
        return f" {len(word)} letters."

    def say(self, word: str) -> str:
        """Say a word.

        Args:
            word: Any.
        """
        self.said.append(word)
        return "right" if word == self.word else "wrong"

    def get_reward(self) -> float:
        return float(self.word in self.said)

class Endless:
    pass

class Own(Guess):
    def __init__(self):
        import random
        self.dice = random.Random(0)
'''


@pytest.fixture
def place(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    rows = [{"prompt": f"Say {word}.", "word": word} for word in ["red", "blue", "green"] * 4]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def values(place, **keys):
    return {
        "strategy": "grpo", "model_name": str(EXAMPLES / "tiny" / "model"), "report_to": "none",
        "dataset": str(place / "rows.jsonl"), "output_dir": str(place / "runs"), "eval_split": 0,
        "chat_template": str(CALLING), "max_seq_length": 192, "num_generations": 2,
        "generation": {"max_new_tokens": 96}, "per_device_train_batch_size": 2, **keys,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tools": "mine.py:plus"}, "has no 'plus'"),
        ({"tools": "other.py"}, "no such file"),
        ({"tools": "mine"}, "names no function or class"),
        ({"tools": ["mine.py:Guess"]}, 'set "environment"'),
        ({"environment": "mine.py:Gess"}, "did you mean 'Guess'"),
        ({"environment": "mine.py:minus"}, "for a function set tools"),
        ({"max_tool_calling_iterations": 2}, "nothing can be called"),
        ({"strategy": "rloo", "tools": "mine.py"}, "tools"),
    ],
)
def test_what_is_no_tool_is_refused_with_the_config(place, keys, said):
    path = place / "config.json"
    path.write_text(json.dumps(values(place, rewards=["numeric_answer"]) | keys))
    with pytest.raises(ConfigError, match=said):
        load_config(path)


def test_what_cannot_be_described_or_begun_is_refused(place):
    for name, said in (("mine.py:bare", "cannot be described"), ("mine.py", "cannot be described")):
        with pytest.raises(ConfigError, match=said):
            load_tools([name], place)
    with pytest.raises(ConfigError, match="has no method reset"):
        load_environment("mine.py:Endless", place)
    with pytest.raises(ConfigError, match=r"chance of its own \(dice\).*a resumed run"):
        load_environment("mine.py:Own", place)
    with pytest.raises(ConfigError, match="two are called 'minus'"):
        load_tools(["mine.py:minus", "mine.py:minus"], place)
    (tool,) = load_tools(["mine.py:minus"], place)
    assert call({"minus": tool}, "minus", {"a": 5, "b": 3}) == "2"
    assert "not found" in call({}, "plus", {}) and "error" in call({"minus": tool}, "minus", {})


def test_a_template_without_tools_is_refused_with_those_that_have_them(place):
    config = load_config(
        values(place, environment=str(place / "mine.py:Guess"), chat_template="auto")
    )
    with pytest.raises(ConfigError, match=r"no place for a call.*qwen3"):
        prepare(config)


def test_calls_of_a_template_in_hermes_form_are_read_back():
    from trl.chat_template_utils import parse_response

    tokenizer = talking(str(CALLING))
    make_readable(tokenizer, "chat_template", {})
    said = '<tool_call>{"name": "minus", "arguments": {"a": 3}}</tool_call>' + tokenizer.eos_token
    ids = tokenizer(said, add_special_tokens=False)["input_ids"]
    found = parse_response(tokenizer, ids, prefix=tokenizer("<|assistant|>")["input_ids"])
    assert found["tool_calls"][0]["function"] == {"name": "minus", "arguments": {"a": 3}}
    plain = parse_response(tokenizer, tokenizer("Nine.")["input_ids"][1:], prefix=[])
    assert plain["content"] == "Nine." and not plain.get("tool_calls")


def test_what_an_environment_says_is_not_trained_on(place):
    prepared = prepare(load_config(values(place, environment=str(place / "mine.py:Guess"))))
    trainer = build_trainer(prepared, load(prepared))
    tokenizer, ends = trainer.processing_class, trainer.processing_class.eos_token

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    said = '<tool_call>{"name": "say", "arguments": {"word": "WORD"}}</tool_call>' + ends
    turns = iter([[ids(said.replace("WORD", "red")), ids("No.")], [ids("Done." + ends)]])
    seen = []

    def scripted(prompt_ids, *more, **other):  # in place of sampling: what is said is known
        seen.append([tokenizer.decode(each) for each in prompt_ids])
        return next(turns), None

    trainer._generate_single_turn = scripted
    trainer.model.train()
    rows = [trainer.train_dataset[0], trainer.train_dataset[0]]
    rows = [row | {"word": "red"} for row in rows]
    out = trainer._generate_and_score_completions(rows)
    assert "say(word)" in seen[0][0] and "3 letters." in seen[0][0]
    assert seen[1][0].endswith("<|user|>right<|assistant|>")
    mask = out["tool_mask"] * out["completion_mask"]
    trained = [
        tokenizer.decode(i[m.bool()]) for i, m in zip(out["completion_ids"], mask, strict=True)
    ]
    assert trained == [said.replace("WORD", "red") + "Done." + ends, "No."]
    whole = tokenizer.decode(out["completion_ids"][0][out["completion_mask"][0].bool()])
    assert whole == trained[0].replace("Done.", "<|user|>right<|assistant|>Done.")
    assert out["advantages"][0] > 0 > out["advantages"][1]  # its reward is the environment's
    # and the loss of a token outside the mask is none
    batch = {key: value for key, value in out.items() if isinstance(value, torch.Tensor)}
    trainer.current_gradient_accumulation_steps = 1
    changed = dict(batch, advantages=batch["advantages"] * 2)
    assert trainer._compute_loss(trainer.model, batch) != trainer._compute_loss(
        trainer.model, changed
    )


def test_held_out_prompts_are_answered_with_tools_too(place, monkeypatch):
    keys = {"environment": str(place / "mine.py:Guess"), "eval_split": 6, "num_generations_eval": 2}
    prepared = prepare(load_config(values(place, **keys)))
    trainer = build_trainer(prepared, load(prepared))
    tokenizer = trainer.processing_class
    call = '<tool_call>{"name": "say", "arguments": {"word": "red"}}</tool_call>'

    def scripted(self, prompt_ids, *more, **other):
        told = ["<|user|>right<" in t or "<|user|>wrong<" in t
                for t in map(tokenizer.decode, prompt_ids)]  # fmt: skip
        texts = [("Done." if each else call) + tokenizer.eos_token for each in told]
        return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts], None

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", scripted)
    found = trainer.evaluate()
    right = [float(word == "red") for word in prepared.data.eval["word"]]
    assert found["eval_reward"] == pytest.approx(sum(right) / len(right))
    assert found["eval_tools/call_frequency"] == 1


@pytest.mark.slow
def test_the_worked_example_finds_the_treasure(tmp_path):
    spec = importlib.util.spec_from_file_location("game", EXAMPLES / "05_game.py")
    game = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(game)
    result = game.main(tmp_path, sft_steps=60, steps=4, held_out=12)
    # the standard error of 12 prompts with 4 answers each is about 0.05
    assert result.after["eval_reward"] - result.before["eval_reward"] > 0.2


LUCK = '''
import random

class Luck:
    """What it tells and gives is drawn as it is asked."""

    def reset(self, **row):
        self.number = random.randint(0, 9)
        return f" I think of {self.number}."

    def get_reward(self) -> float:
        return random.random() + self.number
'''


def test_a_run_with_an_environment_is_resumed_bitwise(tmp_path, monkeypatch):
    """Also one that draws: it is begun anew for each answer, and Python's chance is kept."""
    (tmp_path / "luck.py").write_text(LUCK)
    options = (
        f"environment={tmp_path / 'luck.py'}:Luck", f"chat_template={CALLING}", "rewards=null",
        "max_seq_length=128", "generation.max_new_tokens=6", "max_steps=4", "save_steps=1",
        "logging_steps=1", "eval_prompts=2", "per_device_train_batch_size=8", "num_generations=4",
        "num_iterations=2",
    )  # fmt: skip
    resumed_bitwise("grpo", tmp_path, monkeypatch, *options, stop=3)
