"""lm-evaluation-harness: one number from our evaluator, the adapter and the merged model."""

import importlib.util
import json
import os
import re
import shutil
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest
from tiny import ROOT, quick

from modelforge.errors import UserError
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.harness import Asked, benchmark
from modelforge.evaluation.kept import read
from modelforge.evaluation.opened import named
from modelforge.evaluation.options import Options
from modelforge.runs import files

MODEL = str(ROOT / "examples/tiny/model")
HAS = importlib.util.find_spec("lm_eval") is not None
TASK = """
task: mine
dataset_path: json
dataset_kwargs:
  data_files: {test: DATA}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["<|eos|>"], do_sample: false, max_gen_toks: 24}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


@pytest.mark.skipif(HAS, reason="lm-eval is installed")
def test_without_lm_eval_the_command_says_what_to_install(command, tmp_path):
    code, _, error = command("benchmark", MODEL, "--tasks", "gsm8k")
    assert code == 2 and "needs the package lm-eval" in error and "eval" in error


@pytest.mark.slow
@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_ours_the_adapter_and_the_merged_model_give_one_number(tmp_path, command):
    lines = (ROOT / "examples/tiny/data/sft_eval.jsonl").read_text().splitlines()[:12]
    first = [[turn["content"] for turn in json.loads(line)["messages"]] for line in lines]
    run = quick("sft", tmp_path, "max_steps=20", "learning_rate=0.01").run_dir
    data = tmp_path / "data.jsonl"
    lines = [{"question": q, "target": a} for q, a in first]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ours = tmp_path / "ours.jsonl"
    pairs = [{"prompt": [{"role": "user", "content": q}], "answer": a} for q, a in first]
    ours.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    same = tmp_path / "same.py"
    same.write_text(
        "def same(completions, answer, **columns):\n"
        "    texts = [each[-1]['content'] for each in completions]\n"
        "    return [float(a == b) for a, b in zip(texts, answer)]\n"
    )
    options = Options(str(ours), rewards=(f"{same}:same",), max_new_tokens=24,
                      metrics=("same",), output_dir=tmp_path / "kept")  # fmt: skip
    expected = evaluate(str(run), options)
    answers = [row["resps"][0][0] for row in expected.rows]
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "mine.yaml").write_text(TASK.replace("DATA", str(data)))
    merged = tmp_path / "merged"
    code, _, error = command("export", str(run), "--format", "merged", "-o", str(merged))
    assert code == 0, error
    for model in (run, merged):
        asked = Asked(("mine",), include=tasks, output_dir=tmp_path / "out")
        found = benchmark(str(model), asked)
        assert dict(found.metrics) == {"mine exact_match": expected.metrics["same"]}
        rows = [json.loads(line) for line in (found.folder / "samples_mine.jsonl").open()]
        assert [row["resps"][0][0].strip() for row in rows] == answers, model
        assert rows[0].keys() - {"exact_match"} <= read(expected.folder).rows[0].keys()
        assert benchmark(str(model), asked) == found  # read, and not asked again
        assert not list(found.folder.glob(".*"))
    from lm_eval.utils import make_table

    for folder in (found.folder, expected.folder):
        table = make_table(json.loads((folder / "results.json").read_text()))
        shown = [float(cell) for cell in re.findall(r"\| *(0\.\d+|0|1) *\|±", table)]
        assert pytest.approx(expected.metrics["same"], abs=1e-4) in shown, table


def kept_by_lm_eval(folder, right, date="_2026-11-27T12-00-00"):
    """What ``lm_eval --log_samples`` writes of two tasks, one with two filters."""
    folder.mkdir()
    hit, rest = sum(right) / len(right), {"doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
    results = {
        "results": {
            "group": {"alias": "group", "exact_match,strict": hit},
            "mine": {"alias": "mine", "exact_match,strict": hit, "exact_match_stderr,strict": 0.1,
                     "exact_match,last": 1.0, "exact_match_stderr,last": "N/A"},
            "other": {"alias": "other", "word_perplexity,none": 3.0,
                      "word_perplexity_stderr,none": 0.5},
        },
        "higher_is_better": {"mine": {"exact_match": True}, "other": {"word_perplexity": False}},
    }  # fmt: skip
    (folder / f"results{date}.json").write_text(json.dumps(results))
    rows = [
        {"doc_id": i, "filter": f, "metrics": ["exact_match"],
         "exact_match": float(v or f == "last"),
         "doc": {"topic": "ab"[i % 2]}, "resps": [["x"]], **rest}
        for f in ("strict", "last") for i, v in enumerate(right)
    ]  # fmt: skip
    (folder / f"samples_mine{date}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    row = {"doc_id": 0, "filter": "none", "metrics": ["word_perplexity"], "doc": {},
           "word_perplexity": [-3.0, 2], "resps": [["x"]], **rest}  # fmt: skip
    (folder / f"samples_other{date}.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def test_rows_that_lm_eval_kept_are_held_together_row_by_row(tmp_path, command):
    first = kept_by_lm_eval(tmp_path / "a", [0, 0, 0, 0, 1] * 8)
    second = kept_by_lm_eval(tmp_path / "b", [1, 0, 1, 0, 1] * 8)
    kept_by_lm_eval(tmp_path / "c", [1], date="_2025-01-01T00-00-00")
    for file in (tmp_path / "c").iterdir():  # an older date is left alone
        file.rename(second / file.name)
    code, out, error = command("compare", f"a={first}", f"b={second}", "--by", "topic", "--json")
    assert code == 0, error
    told = json.loads(out)
    (whole,) = [v for v in told["verdicts"] if v["metric"] == "mine exact_match (strict)"
                and not v["part"]]  # fmt: skip
    assert (whole["word"], whole["first"], whole["second"]) == ("better", 0.2, 0.6)
    assert {v["part"] for v in told["verdicts"]} == {"", "topic=a", "topic=b"}
    model = told["models"][0]
    assert model["metrics"]["other word_perplexity"] == 3.0  # of no row, and so of no verdict
    assert model["intervals"]["other word_perplexity"] == pytest.approx([2.02, 3.98], abs=1e-3)
    assert model["metrics"]["group exact_match (strict)"] == 0.2
    for given, told in (
        ((f"a={first}", f"b={MODEL}"), "holds no kept rows"),
        ((f"a={first}", f"b={second}", "--data", "x.jsonl"), "has no effect on rows that are kept"),
        (
            (f"a={first}", f"b={second}", "--metrics", "loss", "--limit", "2", "--reward", "x"),
            "--metrics, --num-samples, --reward: have no effect on rows that are kept",
        ),
    ):
        code, _, error = command("compare", *given)
        assert code == 2 and told in " ".join(error.split())
    (second / "samples_mine_2026-11-27T12-00-00.jsonl").write_text("{}")
    code, _, error = command("compare", f"a={first}", f"b={second}")
    assert code == 2 and "is damaged" in error
    (half := tmp_path / "half").mkdir()
    (half / "results.json").write_text('{"modelforge": ')
    (half / "samples_mine.jsonl").write_text("{}")
    code, _, error = command("compare", f"a={first}", f"b={half}")
    assert code == 2 and "half: is damaged" in error, error


@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_what_cannot_be_asked_is_said_before_a_model_is_loaded(tmp_path, command):
    (tmp_path / "mine.yaml").write_text(TASK.replace("DATA", str(tmp_path / "data.jsonl")))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "no question"}\n')
    (empty := tmp_path / "empty.jsonl").write_text("")
    mine = ("--tasks", "mine", "--include", os.path.relpath(tmp_path))
    for given, told in (
        (("--tasks", "mime", "--include", str(tmp_path)), "mime: is no task"),
        (mine, "data.jsonl"),
        ((*mine, "--task-data", f"mine={rows}"), "'question' is undefined"),
        ((*mine, "--task-data", f"other={rows}"), "is of a task that is not asked for"),
        ((*mine, "--task-data", "mine"), "is no TASK=FILE"),
        ((*mine, "--task-data", f"mine={empty}"), "holds no rows"),
        ((*mine, "--limit", "0"), "--limit: is 0"),
    ):
        code, _, error = command("benchmark", MODEL, *given, "-o", str(tmp_path / "out"))
        assert code == 2 and told in error and "loading" not in error, error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_a_measure_that_is_not_there_is_said_of_the_task(tmp_path, command):
    where = two_tasks(tmp_path, [{"question": "q", "target": "a"}])
    task = (tmp_path / "mine.yaml").read_text()
    (tmp_path / "mine.yaml").write_text(task.replace("exact_match", "exact_mach"))
    code, _, error = command("benchmark", MODEL, "--tasks", "mine", *where, "--max-new-tokens", "2")
    assert code == 2 and "asks for what is not there" in error, error


def test_answers_that_cannot_be_kept_end_in_one_message(tmp_path):
    from modelforge.evaluation.harness import _answers

    lm = SimpleNamespace(cache_hook=SimpleNamespace(dbdict=None))
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(UserError, match="cannot keep answers: disk full → free some space"),
        _answers(lm, tmp_path / "out", Asked(("mine",))),
    ):
        raise sqlite3.OperationalError("disk full")


CHOICE = """
task: choice
dataset_path: json
dataset_kwargs:
  data_files: {test: DATA}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: ["a", "b"]
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


def two_tasks(tmp_path, rows):
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("mine", TASK), ("choice", CHOICE)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("DATA", str(data)))
    return ("--include", str(tmp_path), "-o", str(tmp_path / "out"))


@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_files_that_cannot_be_read_and_a_length_without_effect_are_refused(tmp_path, command):
    where = two_tasks(tmp_path, [{"question": "q", "target": "a"}])
    mine = ("--tasks", "mine", *where)
    for name, text in (
        ("broken.jsonl", '{"question": "q"}\n{"question": \n'),
        ("table.tsv", "question\ttarget\nq\ta\n"),
        ("broken.parquet", "no parquet"),
    ):
        (tmp_path / name).write_text(text)
        code, _, error = command(
            "benchmark", MODEL, *mine, "--task-data", f"mine={tmp_path / name}"
        )
        assert code == 2 and "give JSON Lines, CSV or Parquet" in error, error
        assert name in error and "while generating" not in error and "loading" not in error
    length = ("--max-new-tokens", "4")
    code, _, error = command("benchmark", MODEL, "--tasks", "choice", *where, *length)
    assert code == 2 and "has no effect: no answer is written in choice" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_cut_prompts_and_tasks_that_a_length_does_not_reach_are_told(tmp_path, command):
    rows = [{"question": "a b c d " * 800, "target": "a"}]
    where = two_tasks(tmp_path, rows)
    given = ("--tasks", "mine,choice", "--max-new-tokens", "4", *where)
    code, _, error = command("benchmark", MODEL, *given)
    told = " ".join(error.split())
    assert code == 0 and "no effect on choice" in told and "no effect on mine" not in told
    assert "longer than the model reads, and cut from the left" in told, error
    assert "Left truncation applied" not in told


@pytest.mark.skipif(not HAS, reason="lm-eval is not installed")
def test_kept_answers_outlive_a_start_that_fails(tmp_path):
    from types import SimpleNamespace

    from modelforge.evaluation.harness import _close

    kept = tmp_path / ".answers_rank0.db"
    kept.touch()
    _close(SimpleNamespace(cache_hook=SimpleNamespace(dbdict=None)), tmp_path)
    assert kept.is_file()


def test_a_runs_template_arguments_are_given_to_what_is_asked(tmp_path):
    model, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(MODEL, model)
    template = model / "chat_template.jinja"
    template.write_text("{{ note | default('') }}" + template.read_text())
    run.mkdir()
    (run / files.CONFIG).write_text('{"chat_template_kwargs": {"note": "marked"}}')
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": [{"role": "user", "content": "q"}]}\n')
    options = Options(str(data), max_new_tokens=4, output_dir=tmp_path / "out")
    plain = named(str(model))
    first, second = (evaluate(each, options) for each in (plain, replace(plain, run=run)))
    assert "marked" not in json.dumps(first.rows[0]) and "marked" in json.dumps(second.rows[0])
    assert first.folder != second.folder
