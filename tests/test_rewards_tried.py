"""Rewards tried before a run, and runs whose rewards teach nothing."""

import json

import pytest
from tiny import ROOT, quick

from modelforge import load_config
from modelforge.callbacks.alarms import no_signal, too_short_to_tell
from modelforge.errors import ConfigError, RunError
from modelforge.evaluation.results import result_of
from modelforge.rewards.build import build_rewards, opened_tag
from modelforge.rewards.spec import parse_rewards
from modelforge.rewards.tried import try_rewards
from modelforge.runs.folder import RunDir
from modelforge.training.prepare import prepare

FUNCTIONS = """
import asyncio
def none(completions, **k): return [None] * len(completions)
def constant(completions, **k): return [0.5] * len(completions)
def short(completions, **k): return [1.0]
def text(completions, **k): return ["1"] * len(completions)
def raises(completions, **k): raise ValueError("judge is down")
def states(completions, trainer_state, log_metric, answer, **k):
    log_metric("seen", 1.0)
    return [float(trainer_state.global_step + len(a)) for a in answer]
async def later(completions, **k): return [float(len(c[0]["content"])) for c in completions]
"""
NUMBERS = [{"prompt": f"What is {n} plus 1?", "answer": str(n + 1)} for n in range(12)]
OPENING = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\\n' }}{% endif %}"
)


def config(folder, rows=NUMBERS, **values):
    (folder / "r.py").write_text(FUNCTIONS)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = {
        "strategy": "grpo", "model_name": str(ROOT / "examples/tiny/model"),
        "dataset": str(folder / "rows.jsonl"), "output_dir": str(folder), "eval_split": 0,
        "max_seq_length": 96, "per_device_train_batch_size": 8, "num_generations": 4,
    }  # fmt: skip
    return load_config(said | values)


def prepared(folder, reward, **values):
    rewards = reward if isinstance(reward, list) else [reward]
    rewards = [r.replace("r.py", str(folder / "r.py")) for r in rewards]
    return prepare(config(folder, **values, rewards=rewards))


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ("r.py:none", "can score none of the first 12 rows"),
        ("r.py:short", "returned 1 values for 8 completions"),
        ("r.py:text", "not a number"),
        ("r.py:raises", "ValueError: judge is down"),
    ],
)
def test_a_reward_that_cannot_serve_is_refused_before_a_model_is_loaded(tmp_path, reward, says):
    with pytest.raises(ConfigError, match=says):
        prepared(tmp_path, reward)
    assert {path.name for path in tmp_path.iterdir()} <= {"r.py", "rows.jsonl", "__pycache__"}


def test_what_the_rewards_give_is_said(tmp_path, capsys):
    names = ["numeric_answer", "r.py:constant", "r.py:states", "r.py:later", "r.py:none"]
    prepared(tmp_path, names)
    said = " ".join(capsys.readouterr().err.split())
    assert "reward numeric_answer: 1 on the reference answers of the first 8 rows" in said
    assert "reward constant: gives 0.5 to right and to wrong answers alike" in said
    assert "reward none: scores none of the first 12 rows" in said
    assert "reward states: 1 to 2 on" not in said and "reward states: 1 on" in said
    assert "numeric_answer: gives" not in said


def test_rewards_that_take_each_other_away_are_said(tmp_path, capsys):
    opposed = [{"name": "exact_match", "weight": weight} for weight in (1, -1)]
    prepare(config(tmp_path, rewards=opposed))
    assert "weighted sum is 0 for right and for wrong answers alike" in capsys.readouterr().err
    prepare(config(tmp_path, rewards=[opposed[0], {**opposed[1], "weight": -0.5}]))
    assert "weighted sum" not in capsys.readouterr().err


def test_answers_that_are_no_numbers_are_said_or_refused(tmp_path, capsys):
    words = [{"prompt": f"q {n}", "answer": "Paris"} for n in range(9)]
    with pytest.raises(ConfigError, match="can score none of the first 9 rows"):
        prepared(tmp_path, "numeric_answer", rows=words)
    prepared(tmp_path, "numeric_answer", rows=[*NUMBERS[:4], *words])
    assert "cannot score 4 of the first 8 rows" in " ".join(capsys.readouterr().err.split())


PAIRS = [{"prompt": f"q {n}", "chosen": f"Yes, {n}!", "rejected": "no"} for n in range(9)]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (PAIRS, "the reference answers are not numbers .such as 'Yes, 0!'"),
        ([{"prompt": "q", "answer": "Paris"}] * 9, "are not numbers .such as 'Paris'"),
        ([{"prompt": "q"}] * 9, "no column 'answer'"),
    ],
)
def test_without_rewards_none_is_made_up(tmp_path, rows, says):
    with pytest.raises(ConfigError, match=says):
        prepare(config(tmp_path, rows=rows))


@pytest.mark.parametrize("answer", ["12", "So 7 and 5. #### 12", ["12", "twelve"], 12])
def test_without_rewards_numbers_are_compared_and_the_reason_is_true(tmp_path, answer):
    choice = prepare(config(tmp_path, rows=[{"prompt": "q", "answer": answer}] * 9))
    chosen = choice.config.choices["rewards"]
    assert chosen.value == [{"name": "numeric_answer"}]
    assert chosen.reason.startswith("the reference answers are numbers (12")


def test_the_best_policy_is_the_one_of_the_highest_reward(tmp_path):
    steps = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "eval_split": 2}
    made = prepared(tmp_path, "numeric_answer", load_best_model_at_end=True, **steps)
    assert made.args.metric_for_best_model == "eval_reward" and made.args.greater_is_better
    assert "judged by" in made.config.choices["metric_for_best_model"].reason


# --- a thought that the template has opened ------------------------------------------------------


class Opening:
    """A tokenizer whose generation prompt opens a thought."""

    chat_template = OPENING

    def apply_chat_template(self, messages, **arguments):
        return "<|user|>?<|assistant|>" + ("<think>\n" if arguments.get("thinking", True) else "")


def scores(name, texts, *, prompt=None, tokenizer=None, **arguments):
    entries = parse_rewards([name], where="r")
    [function], _ = build_rewards(entries, tokenizer=tokenizer, template_arguments=arguments)
    prompts = [prompt or [{"role": "user", "content": "?"}]] * len(texts)
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    answers = answers if prompt is None else list(texts)
    return function(prompts=prompts, completions=answers, completion_ids=[[0]] * len(texts))


INSIDE = "so 4</think>\n<answer>4</answer>"


@pytest.mark.parametrize(
    ("name", "text"), [("format", INSIDE), ("think_format_reward", "so 4</think>\n4")]
)
def test_a_thought_that_the_prompt_opens_belongs_to_the_completion(name, text):
    assert opened_tag(Opening(), {}) == "think"
    whole = "<think>" + text
    assert scores(name, [text, whole, "4"], tokenizer=Opening()) == [1.0, 1.0, 0.0]
    assert scores(name, [text, whole], tokenizer=Opening(), thinking=False) == [0.0, 1.0]
    assert scores(name, [text], prompt="?<think>\n") == [1.0]
    assert scores(name, [text], prompt="?") == [0.0]


def test_tags_that_rewards_never_see_are_refused(tmp_path):
    class Hiding(Opening):
        all_special_tokens = ["<eos>", "</think>"]

    with pytest.raises(ConfigError, match="would always give 0: </think> are special tokens"):
        try_rewards(config(tmp_path, rewards=["format"]), None, Hiding())


# --- a run that learns nothing -------------------------------------------------------------------


class Args:
    missing_eos_penalty = None


def log(reward, same=None, spread=None):
    said = {"loss": 0.0, "reward": reward, "reward_std": spread, "frac_reward_zero_std": same}
    return {key: value for key, value in said.items() if value is not None or key == "reward"}


@pytest.mark.parametrize(
    ("logs", "silent"),
    [
        ([log(1.0, 1.0, 0.0)] * 3, True),
        ([log(0.5, 1.0, 0.5)] * 3, True),  # prompts differ, the answers to each do not
        ([log(0.5, 1.0, 0.5), log(0.5, 0.9, 0.5)], False),
        ([log(None, 0.0)] * 3, True),  # no answer could be scored
        ([log(0.5, None, 0.0)] * 3, True),  # ppo
        ([log(0.5, None, 0.1)] * 3, False),
        ([{"loss": 1.0}], False),
        ([], False),
    ],
)
def test_a_signal_is_a_difference_between_answers(logs, silent):
    ended = Args()
    ended.missing_eos_penalty = 1.0  # tells answers by their end, which no reward is about
    found = no_signal(logs, Args())
    assert (found is not None) == (no_signal(logs, ended) is not None) == silent
    assert found is None or (found.where == "reward" and found.fix)


def test_a_short_run_without_success_may_only_have_begun():
    assert too_short_to_tell([log(0.0, 1.0)], 2)
    assert not too_short_to_tell([log(0.0, 1.0)], 5)
    assert not too_short_to_tell([log(0.5, 1.0)], 2)


@pytest.mark.slow
def test_a_run_whose_rewards_are_always_the_same_is_no_success(tmp_path):
    (tmp_path / "r.py").write_text(FUNCTIONS)
    rewards = json.dumps([f"{tmp_path / 'r.py'}:constant"])
    options = ("per_device_train_batch_size=8", "num_generations=4", "eval_prompts=4",
               "generation.max_new_tokens=4", "logging_steps=1", "run_name=run")  # fmt: skip
    with pytest.raises(RunError, match="the same for all answers to a prompt"):
        quick("grpo", tmp_path, *options, "max_steps=5", "save_strategy=no", f"rewards={rewards}")
    run = RunDir(tmp_path / "run")
    assert len(run.read_lines("held_out.jsonl")) == 4  # of 16
    assert run.finished and (run.model / "adapter_model.safetensors").is_file()
    assert "Nothing was learned" in (run.model / "README.md").read_text()
    [warning] = [row for row in run.read_lines("warnings.jsonl") if row["where"] == "reward"]
    assert warning["step"] == 5
    with pytest.raises(RunError, match="nothing can be learned"):
        result_of(run, None)


def test_sampling_from_another_distribution_than_the_policys_is_warned_of(tmp_path, capsys):
    prepared(tmp_path, "numeric_answer", generation={"top_p": 0.9}, repetition_penalty=1.2)
    said = capsys.readouterr().err
    assert "generation.top_p: answers are sampled" in said
    assert "repetition_penalty: answers are sampled" in said and "top_k:" not in said
