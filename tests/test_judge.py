"""Judges that like a place, a length or nothing are refused, and one that sees is let through."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tiny import ROOT, few
from typer.testing import CliRunner

from modelforge.cli.main import app
from modelforge.errors import ConfigError, DataError, RunError
from modelforge.evaluation.contest import contests, of_the_data
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.judge import audit, open_judge, read_pairs
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.metrics import METRICS
from modelforge.evaluation.options import Options

MODEL = str(ROOT / "examples/tiny/model")
PAIRS = str(few("preference_eval", 150))
PLANTED = """
import random

draw = random.Random(3)
BETTER = {better}


def always_first(prompts, firsts, seconds):
    return [1.0] * len(prompts)


def longer(prompts, firsts, seconds):
    return [float(len(a) > len(b)) if len(a) != len(b) else 0.5 for a, b in zip(firsts, seconds)]


def at_random(prompts, firsts, seconds):
    return [draw.random() for _ in prompts]


def sees(prompts, firsts, seconds):
    right = [draw.random() < 0.8 for _ in prompts]
    return [float(([p, a] in BETTER) == r) for p, a, r in zip(prompts, firsts, right)]


def wrong_size(prompts, firsts, seconds):
    return [0.5]
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A file of judges; the one that sees is right in 80 % of verdicts."""
    path = tmp_path_factory.mktemp("judges") / "judges.py"
    better = [[prompt, answer] for prompt, answer, _ in read_pairs(PAIRS)]
    path.write_text(PLANTED.replace("{better}", repr(better)))
    return path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("always_first", "it takes the first answer 100% of the time"),
        ("longer", "takes the longer answer on 100% of pairs"),
        ("at_random", "not told apart from a coin"),
    ],
)
def test_a_judge_that_does_not_see_is_refused(planted, name, told):
    found = audit(open_judge(f"{planted}:{name}"), read_pairs(PAIRS), name=name)
    assert not found.passed and told in " ".join(found.problems)


def test_a_judge_that_sees_passes_and_its_rate_is_inside(planted):
    found = audit(open_judge(f"{planted}:sees"), read_pairs(PAIRS), name="sees")
    assert found.passed and found.problems == []
    low, high = found.agreement_interval
    assert low < 0.8 < high and 0.5 < found.consistency < 0.9
    assert found.first_interval[0] < 0.5 < found.first_interval[1]


def test_the_command_says_it_and_exits_by_it(planted):
    runner = CliRunner()
    for name, code in (("sees", 0), ("always_first", 1)):
        done = runner.invoke(
            app, ["judge", "audit", f"{planted}:{name}", "--data", PAIRS, "--json"]
        )
        assert done.exit_code == code, done.output
        assert json.loads(done.stdout)["passed"] == (code == 0)
    gone = runner.invoke(app, ["judge", "audit", "no.py:judge", "--data", PAIRS])
    assert gone.exit_code == 2


def test_what_is_no_judge_and_no_pair_is_named(planted, tmp_path):
    with pytest.raises(RunError, match="for 8 cases"):
        audit(open_judge(f"{planted}:wrong_size"), read_pairs(PAIRS), name="x")
    with pytest.raises(ConfigError, match="no function 'nobody'"):
        open_judge(f"{planted}:nobody")
    with pytest.raises(ConfigError, match="--judge-model"):
        open_judge("http://localhost:1")
    with pytest.raises(DataError):
        read_pairs(str(few("sft_eval", 8)))


@pytest.mark.slow
def test_a_model_here_reads_both_letters():
    judge = open_judge(str(ROOT / "examples/tiny/model"))
    first, second = judge([("2 + 2?", "4", "5"), ("2 + 2?", "5", "4")])
    assert 0 < first < 1 and 0 < second < 1


def test_an_endpoint_is_asked_with_the_key_of_the_environment(monkeypatch):
    seen = []

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append((self.path, self.headers.get("Authorization"), body))
            better = "B" if "Answer B: right" in body["messages"][0]["content"] else "(A)"
            said = {"choices": [{"message": {"content": f" {better}"}}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setenv("MODELFORGE_JUDGE_KEY", "secret")
        judge = open_judge(f"http://127.0.0.1:{server.server_port}/v1", model="m")
        assert judge([("q", "wrong", "right"), ("q", "right", "wrong")]) == [0.0, 1.0]
        path, key, body = seen[0]
        assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer secret", "m")
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(RunError, match="gave no verdict"):
        judge([("q", "a", "b")])


def answered(name, answers):
    """An evaluation of prompts with one answer each."""
    rows = [
        {"doc_id": i, "doc_hash": str(i), "doc": {"prompt": f"p{i}"}, "resps": [[answer]]}
        for i, answer in enumerate(answers)
    ]
    return Evaluation(name, "t", Path(name), {}, {}, rows, {"length": METRICS["length"]}, {})


def test_a_judge_awards_wins_in_both_orders_and_strengths():
    def knows(cases):
        return [0.5 if a == b else float(a > b) for _, a, b in cases]

    worst, middle, best = (answered(n, [n] * 40) for n in ("a", "b", "c"))
    found = contests(knows, [worst, middle, best])
    assert [(c["model"], c["against"], c["wins"]) for c in found["contests"]] == [
        ("b", "a", 1.0), ("c", "a", 1.0), ("c", "b", 1.0)
    ]  # fmt: skip
    strength = [found["strengths"][name][0] for name in "abc"]
    assert strength == sorted(strength) and strength[0] < -1
    tied = contests(knows, [worst, answered("d", ["a"] * 40)])["contests"][0]
    assert tied["wins"] == 0.5 and tied["low"] < 0.5 < tied["high"]
    first = contests(lambda cases: [1.0] * len(cases), [worst, best])["contests"][0]
    assert first["wins"] == 0.5  # one that likes a place gives half to each
    rows = [{**row, "target": "b"} for row in best.rows]
    own = of_the_data(replace(best, rows=rows))
    against = {c["model"]: c["wins"] for c in contests(knows, [own, worst, best])["contests"][:2]}
    assert own.model == "data" and against == {"a": 0.0, "c": 1.0}
    half = of_the_data(replace(best, rows=[{**r, "target": "b" * (r["doc_id"] % 2)} for r in rows]))
    assert contests(knows, [half, best])["contests"][0]["rows"] == 20
    with pytest.raises(DataError, match="has no answers of its own"):
        of_the_data(replace(best, rows=[{**row, "target": ""} for row in best.rows]))
    with pytest.raises(ConfigError, match="a judge reads them"):
        contests(knows, [replace(worst, table={}), best])


@pytest.mark.slow
def test_the_questions_of_mt_bench_are_asked_in_turn_and_judged_together(tmp_path):
    rows = [{"question_id": i, "category": "math", "turns": [f"What is {i} plus 2?", "And less 1?"]}
            for i in range(5)]  # fmt: skip
    data = tmp_path / "mt_bench.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = Options(str(data), max_new_tokens=6, metrics=("length",), output_dir=tmp_path / "out")
    found = evaluate(MODEL, options)
    for row, asked in zip(found.rows, rows, strict=True):
        (later,) = row["later"]
        assert later["question"] == asked["turns"][1]
        talk = [asked["turns"][0], row["resps"][0][0], asked["turns"][1]]
        roles = ("user", "assistant", "user")
        alone = tmp_path / "alone.jsonl"
        talk = [{"role": r, "content": c} for r, c in zip(roles, talk, strict=True)]
        alone.write_text(json.dumps({"prompt": talk}) + "\n")
        again = evaluate(MODEL, replace(options, data=str(alone)))
        assert again.rows[0]["resps"][0][0] == later["answer"]
    worse = replace(found, model="worse", rows=[{**r, "resps": [["x"]]} for r in found.rows])
    seen = []

    def judge(cases):
        seen.extend(cases)
        return [0.5 if a[-1] == b[-1] else float(b.endswith("x")) for _, a, b in cases]

    told = contests(judge, [worse, found])["contests"][0]
    assert told["rows"] == 5 and len(seen) == 20  # two cases, in both orders
    assert told["wins"] == 0.75  # the first answers win, and both last ones are the same
    assert seen[1][0] == "(1) What is 0 plus 2?\n\n(2) And less 1?"
    assert seen[1][1].startswith("(1) x\n\n(2) ")


def test_compare_refuses_a_judge_that_fails_before_a_model_is_loaded(planted, tmp_path):
    model = str(ROOT / "examples/tiny/model")
    done = CliRunner().invoke(app, [
        "compare", f"a={model}", f"b={model}", "--data", PAIRS, "-o", str(tmp_path), "--json",
        "--judge", f"{planted}:always_first",
    ])  # fmt: skip
    assert done.exit_code == 2 and "awards no win rate" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_judge_without_pairs_or_numbers_is_named(tmp_path):
    file = tmp_path / "judge.py"
    file.write_text("def words(prompts, firsts, seconds):\n    return ['A'] * len(prompts)\n")
    with pytest.raises(RunError, match=r"gave \['A', 'A'"):
        audit(open_judge(f"{file}:words"), read_pairs(PAIRS), name="words")
    model = str(ROOT / "examples/tiny/model")
    arguments = ["compare", f"a={model}", f"b={model}", "-o", str(tmp_path / "out")]
    for more, told in (
        (["--data", PAIRS, "--judge-model", "m"], "--judge-model: has no effect"),
        (["--data", PAIRS, "--against-data"], "--against-data: has no effect"),
        (["--data", PAIRS, "--against-data", f"data={model}"], "name the model otherwise"),
        (["--data", str(few("sft_eval", 8)), "--judge", f"{file}:words"], "--judge-data"),
    ):
        done = CliRunner().invoke(app, [*arguments, *more])
        assert done.exit_code == 2 and told in done.output, done.output
    assert not (tmp_path / "out").exists()
