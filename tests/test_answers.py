"""`validate`, `play` and `replay`: rewards tried without a policy."""

import json

import pytest
from test_tools import SOURCE, values
from tiny import held_out, quick
from typer.testing import CliRunner

from modelforge import RunError
from modelforge.cli.main import app
from modelforge.training.answers import replay


@pytest.fixture
def config(tmp_path):
    (tmp_path / "mine.py").write_text(SOURCE)
    rows = [{"prompt": f"Say {word}.", "word": word, "answer": str(n)}
            for n, word in enumerate(["red", "blue", "green", "gold"] * 3)]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "config.json"
    keys = values(tmp_path, environment="mine.py:Guess", tools="mine.py:minus",
                  rewards=["numeric_answer"])  # fmt: skip
    path.write_text(json.dumps(keys))
    return path


def run(*arguments, **options):
    return CliRunner().invoke(app, [str(a) for a in arguments], **options)


def test_validate_scores_right_answers_and_begins_the_environment(config):
    found = run("validate", config, "--json")
    assert found.exit_code == 0, found.output
    told = json.loads(found.stdout)
    assert told["rewards"]["numeric_answer"] == {"weight": 1, "right": 1, "wrong": 0, "unscored": 0}
    assert told["tools"] == ["minus", "say"] and told["rows"] == 12
    assert told["environment"]["at once"] == 0
    assert told["environment"]["observations"][0].endswith("letters.")
    assert not (config.parent / "runs").exists()  # nothing is written


def test_a_person_plays_the_policy(config):
    typed = 'say {"word": "red"}\nminus {"a": 3, "b": 1}\nIt is 0.\n'
    found = run("play", config, "--rows", 2, input=typed)
    assert found.exit_code == 0, found.output
    told = found.output + found.stderr
    assert "Say red. 3 letters." in told and "tools: minus, say" in told
    assert "→ right" in told and "→ 2" in told
    assert "numeric_answer: 1" in told and "Guess: 1" in told and "sum: 2" in told


def test_replay_scores_what_a_run_kept_by_other_rewards(tmp_path):
    result = quick(
        "grpo", tmp_path, max_steps=2, logging_steps=1, eval_dataset=held_out("prompts", 4)
    )
    brief = {"name": "length", "arguments": {"target": 3}}
    told = replay(result.run_dir, ["numeric_answer", brief])
    assert told["rows"] == 8
    assert told["new"]["numeric_answer"] == pytest.approx(told["old"]["numeric_answer"])
    assert told["correlation"]["numeric_answer"] in (None, pytest.approx(1.0))
    assert len(told["differ"]) == 5 and {row["reward"] for row in told["differ"]} == {"length"}
    with pytest.raises(RunError, match="kept no answers"):
        replay(tmp_path, ["length"])
    refused = {"{bad": "not JSON", '{"nme": "length"}': "Field required", "lenght": "length"}
    for said, why in refused.items():
        found = run("replay", result.run_dir, "--rewards", said)
        assert found.exit_code == 2 and why in found.stderr, found.stderr
    kept = result.run_dir / "rollouts.jsonl"
    row = json.loads(kept.read_text().splitlines()[0]) | {"prompt": "one\u2028two"}
    kept.write_text(kept.read_text() + json.dumps(row, ensure_ascii=False) + '\n{"step": 3, "pro')
    assert replay(result.run_dir, ["numeric_answer"])["rows"] == 9  # the last was cut by a kill
    kept.write_text("{\n" + kept.read_text())
    with pytest.raises(RunError, match=r"rollouts.jsonl:1.*damaged"):
        replay(result.run_dir, ["numeric_answer"])
    (result.run_dir / "model").rename(tmp_path / "elsewhere")
    kept.write_text(json.dumps(row) + "\n")
    with pytest.raises(RunError, match="no finished run"):
        replay(result.run_dir, ["numeric_answer"])
