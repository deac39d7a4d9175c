"""Runs in the terminal and in a browser as they train; models compared on a page."""

import http.client
import json
import os
import platform
import re
import threading
from pathlib import Path

import pytest

from modelforge.cli.watch import lines, spark
from modelforge.errors import RunError
from modelforge.evaluation.board import Board
from modelforge.evaluation.compare import compare
from modelforge.evaluation.compare_page import compare_page
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.metrics import METRICS
from modelforge.runs.folder import RunDir
from modelforge.runs.standing import standing
from modelforge.web import overlaid
from modelforge.web.server import server

SCRIPT = "<script>alert('\u202eseen')</script>"


def begun(folder, *, steps=6, owner=None):
    """A run's folder as it is in the middle of the training."""
    folder.mkdir(parents=True)
    (folder / "choices.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"strategy": "sft", "max_steps": 10}))
    rows = [{"step": s, "loss": 4 / s, "session": {"seconds": 2.0 * s}} for s in range(1, steps)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "warnings.jsonl").write_text(json.dumps({"step": 2, "what": SCRIPT}) + "\n")
    if owner is not None:
        (folder / ".owner.json").write_text(json.dumps({"pid": owner, "host": platform.node()}))
    return folder


def test_a_run_stands_where_its_folder_says(tmp_path):
    run = begun(tmp_path / "a", owner=os.getpid())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # as it is written
    now = standing(RunDir(run))
    assert (now.state, now.step, now.share) == ("trains", 5, 0.5)
    assert now.left == pytest.approx(10.0)
    head, bar, curve, warning = lines(run, now)
    assert head.endswith("/a trains") and "50%, step 5, about 0:10 left" in bar
    assert curve == "loss  █▃▂▁▁  0.8" and "alert" in warning
    resumed = [{"step": 8, "loss": 0.5, "session": {"seconds": 3.0}}]
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 5, "loss": 1, "session": {"seconds": 90.0}}) + "\n"
        + "".join(json.dumps(row) + "\n" for row in resumed)
    )  # fmt: skip
    assert standing(RunDir(run)).left == pytest.approx(2.0)
    assert standing(RunDir(begun(tmp_path / "b"))).state == "stopped"
    assert standing(RunDir(begun(tmp_path / "c", owner=2**22 + 1))).state == "stopped"
    (tmp_path / "c" / "results.json").write_text("{}")
    assert standing(RunDir(tmp_path / "c")).state == "ended"
    assert spark([]) == "" and spark([1.0]) == "▁" and len(spark(range(1000))) == 48


def test_watch_is_a_command(tmp_path, command):
    begun(tmp_path / "runs" / "a")
    code, out, _ = command("watch", tmp_path / "runs", "--json")
    found = json.loads(out)
    assert code == 0 and found["state"] == "stopped" and found["figures"] == {"loss": 0.8}
    code, _, error = command("watch", tmp_path / "runs")
    assert code == 0 and "was stopped" in error and "goes on with it" in error
    (tmp_path / "none").mkdir()
    for folder, told in (("none", "holds no run yet"), ("nowhere", "is no folder")):
        code, _, error = command("watch", tmp_path / folder)
        assert code == 2 and told in error
    code, _, error = command("board", tmp_path / "nowhere")
    assert code == 2 and "is no folder" in error


def test_curves_of_several_runs_are_drawn_over_each_other():
    runs = {n: [{"step": s, "loss": s * k, "eval_loss": k} for s in (1, 2)]
            for n, k in (("a", 1.0), ("b", 2.0))}  # fmt: skip
    drawn = overlaid(runs | {"c": []})
    assert [chart.title for chart in drawn] == ["Loss", "Loss, held out"]
    assert [curve.name for curve in drawn[0].curves] == ["a", "b"]
    runs["a"] = []
    alone = overlaid(runs)[0]
    assert [(curve.name, curve.style) for curve in alone.curves] == [("b", 1)] and alone.keyed


@pytest.fixture
def served(tmp_path):
    """A board's port; what is asked of it is bounded by the test."""
    begun(tmp_path / "runs" / f"x {SCRIPT.replace('/', '')}", owner=os.getpid())
    begun(tmp_path / "runs" / "two")
    with server(Board(tmp_path / "runs").page, 0) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


def ask(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer, text


def test_the_board_serves_runs_alone_and_this_machine_alone(served):
    answer, page = ask(served, "/")
    assert (
        answer.status == 200 and "default-src 'none'" in answer.headers["Content-Security-Policy"]
    )
    assert "<script" not in page and "\u202e" not in page
    links = re.findall(r'href="(/run/[^"]+)"', page)
    assert len(links) == 2 and all(ask(served, link)[0].status == 200 for link in links)
    live = next(text for link in links if 'http-equiv="refresh"' in (text := ask(served, link)[1]))
    assert "50% done" in live and "<polyline" in live and "<script" not in live
    curves = ask(served, "/curves?run=two&run=nothing")[1]
    assert curves.count("<polyline") == 1
    for path in ("/run/../../../etc/passwd", "/run/%2e%2e/", "/run/", "/two", "/run/two/.."):
        assert ask(served, path)[0].status == 404, path
    for host in ("evil.example", f"evil.example:{served}", "127.0.0.1"):
        assert ask(served, "/", Host=host)[0].status == 403
    assert ask(served, "/", method="POST")[0].status == 501
    with pytest.raises(RunError, match="cannot be listened on"):
        server(lambda *_: None, served)


def test_curves_say_which_run_is_left_out(tmp_path):
    for name, line in (("b", "{\n"), ("c", '{"loss": 1}\n')):
        (begun(tmp_path / name) / "metrics.jsonl").write_text(line)
    begun(tmp_path / "a")
    page = Board(tmp_path).page("/curves", {"run": ["a", "b", "c"]})
    assert page.count("<polyline") == 1
    assert "b is left out" in page and "c is left out" in page and "has no step" in page


def rows_of(values, answer):
    return [
        {"doc_id": i, "doc_hash": str(i), "doc": {"prompt": f"ask {i} {SCRIPT}"}, "accuracy": v,
         "target": "t", "resps": [[f"{answer} {i} {SCRIPT}"]]}
        for i, v in enumerate(values)
    ]  # fmt: skip


def test_a_comparison_is_a_page_that_runs_nothing():
    table = {"accuracy": METRICS["accuracy"]}
    each = [
        Evaluation(name, SCRIPT, Path(name), {"accuracy": sum(v) / 40}, {"accuracy": (0.1, 0.9)},
                   rows_of(v, name), table, {})
        for name, v in (("base", [0.0] * 40), ("tuned", [0.0] * 10 + [1.0] * 30))
    ]  # fmt: skip
    page = compare_page(each, compare(each[0], each[1:]), notes=["a note"])
    assert "▲ better" in page and "0 → 0.75" in page and "a note" in page
    assert page.count('<section class="chat">') == 8 and "tuned 10 " in page
    assert "<script" not in page and "\u202e" not in page
    assert not re.search(r"(src|href|url|@import)\s*[=(]", page)
