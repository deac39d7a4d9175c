"""A finished run's page and card: made from its folder alone, and safe to open."""

import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import modelforge
from modelforge.errors import RunError
from modelforge.evaluation.page import html_report
from modelforge.evaluation.report import model_card
from modelforge.runs import files

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
SCRIPT = "<script>alert('\u202eseen')</script>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose rows and file names try to be more than text."""
    place = tmp_path_factory.mktemp("<script>")
    row = {"prompt": SCRIPT, "completion": f"a | b `c` {SCRIPT}"}
    for name in ("<b>train.jsonl", "<b>eval.jsonl"):
        (place / name).write_text((json.dumps(row) + "\n") * (8 if "train" in name else 2))
    values = {
        "strategy": "sft",
        "model_name": str(TINY / "model"),
        "dataset": str(place / "<b>train.jsonl"),
        "eval_dataset": str(place / "<b>eval.jsonl"),
        "output_dir": str(place),
        "per_device_train_batch_size": 2,
        "max_steps": 2,
        "logging_steps": 1,
        "max_seq_length": 128,
    }
    return modelforge.train(values).run_dir


@pytest.mark.slow
def test_page_and_card_are_functions_of_the_runs_folder(folder):
    assert html_report(folder) == (folder / files.REPORT).read_text()
    assert model_card(folder) == (folder / files.MODEL_CARD).read_text()


@pytest.mark.slow
def test_the_page_has_curves_and_no_script_and_asks_for_nothing_outside(folder, tmp_path):
    named = tmp_path / "<script>alert(1)<"
    shutil.copytree(folder, named)
    for page in (html_report(folder), html_report(named)):
        assert "<script" not in page and "<b>" not in page and "\u202e" not in page
        assert "&lt;script&gt;alert(&#39;\\u202eseen&#39;)&lt;" in page
        assert "&lt;b&gt;train.jsonl" in page and "<polyline" in page
        assert "It flatters: held-out rows are also trained on (2 the same row)." in page
        assert not re.search(r"(src|href|url|@import)\s*[=(]", page)
    assert "<h1>&lt;script&gt;alert(1)&lt;</h1>" in page


@pytest.mark.slow
def test_the_cards_figures_are_the_hubs_and_a_folder_is_no_base_of_the_hub(folder):
    card = ModelCard.load(folder / files.MODEL_CARD)
    after = json.loads((folder / files.RESULTS).read_text())["after"]
    figures = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert figures == {key.removeprefix("eval_"): value for key, value in after.items()}
    assert figures["loss"] > 0
    assert card.data.base_model is None and str(folder) not in str(card.data.to_dict())
    assert card.data.library_name == "peft" and "sft" in card.data.tags


@pytest.mark.slow
def test_the_card_of_a_hub_model_names_its_base(folder, tmp_path):
    of_the_hub = tmp_path / "run"
    shutil.copytree(folder, of_the_hub)
    environment = json.loads((folder / files.ENVIRONMENT).read_text())
    environment["origin"]["model"] = "org/tiny"
    (of_the_hub / files.ENVIRONMENT).write_text(json.dumps(environment))
    assert ModelCard(model_card(of_the_hub)).data.base_model == "org/tiny"


@pytest.mark.slow
def test_an_unfinished_run_has_no_page(folder, tmp_path):
    begun = tmp_path / "begun"
    shutil.copytree(folder, begun)
    (begun / files.RESULTS).unlink()
    with pytest.raises(RunError, match="no finished run"):
        html_report(begun)


@pytest.mark.slow
def test_a_run_leaves_only_files_that_are_in_the_table(folder):
    left = {path.name for path in folder.iterdir()}
    assert left <= set(files.TABLE), left - set(files.TABLE)
    assert {files.CONFIG, files.CHOICES, files.DATA, files.BEFORE, files.MODEL} <= left


def test_the_readme_names_files_of_the_table():
    _, _, rest = (ROOT / "README.md").read_text().partition("## The run's folder")
    named = re.findall(
        r"`([^`]+)`", "".join(re.findall(r"^(\| `.*?) \|", rest.split("\n## ")[0], re.M))
    )
    assert len(named) > 8 and {name.rstrip("/") for name in named} <= set(files.TABLE)


def test_curves_have_axes_and_stay_small():
    from modelforge.web import charts, render

    rows = [
        {"step": step, "loss": 5 / step, "odd/figure": float("nan"), "more": step % 7,
         "session": {"tokens_per_second": 900.0 + step % 3}}
        for step in range(1, 10_001)
    ]  # fmt: skip
    rows += [{"step": step, "eval_loss": 4.0, "eval_more": 1.0} for step in (0, 10_000)]
    found = {chart.title: chart for chart in charts(rows)}
    assert list(found) == ["Loss", "Speed", "more"] and found["Loss"].unit == "nats a token"
    assert [curve.name for curve in found["Loss"].curves] == ["training", "held-out"]
    assert [tick.text for tick in found["Loss"].across] == [
        "0",
        "2000",
        "4000",
        "6000",
        "8000",
        "10k",
    ]
    heights = [float(tick.text) for tick in found["Loss"].up]
    assert 3 <= len(heights) <= 6 and heights == sorted(heights)
    first = found["Loss"].curves[0].points.split()
    assert len(first) <= 241  # and the highest and the last are among them
    assert float(first[0].split(",")[1]) < 20
    parts = [{"name": "n", "findings": [], "main": None, "notes": [], "summary": "s", "steps": 1,
              "charts": list(found.values()) * 6, "figures": [], "samples": [], "data": "",
              "choices": [], "machine": [], "files": [], "usage": [], "over": None}]  # fmt: skip
    assert len(render("report.html", title="t", parts=parts)) < 150 * 1024


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-3, 7, [-2, 0, 2, 4, 6]), (0.0013, 0.0029, 3)],
)
def test_ticks_are_round(low, high, expected):
    from modelforge.web.charts import ticks

    found = ticks(low, high)
    assert (len(found) if isinstance(expected, int) else found) == pytest.approx(expected)


@pytest.mark.slow
def test_report_and_runs_are_commands(folder, tmp_path):
    from typer.testing import CliRunner

    from modelforge.cli.main import app

    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(folder), "-o", str(page)])
    assert done.exit_code == 0 and page.read_text() == html_report(folder)
    listed = CliRunner().invoke(app, ["runs", str(folder.parent), "--json"])
    (run,) = json.loads(listed.stdout)
    assert run["strategy"] == "sft" and run["finished"] and run["after"] > 0
    for command in ("report", "runs"):
        wrong = CliRunner().invoke(app, [command, str(tmp_path / "nothing")])
        assert wrong.exit_code == 2
    assert CliRunner().invoke(app, ["runs", str(folder.parent)]).exit_code == 0


@pytest.mark.slow
def test_a_run_in_stages_is_one_page(folder, tmp_path):
    for stage in ("sft", "dpo"):
        shutil.copytree(folder, tmp_path / f"{stage}-1")
    stages = {stage: {"run": f"{stage}-1"} for stage in ("sft", "dpo")}
    (tmp_path / files.STAGES).write_text(json.dumps({"said": {}, "stages": stages}))
    page = html_report(tmp_path)
    assert page.count("<h2>") == 2 and "<h2>sft</h2>" in page and page.count("<!doctype") == 1


@pytest.mark.slow
def test_a_row_is_followed_through_a_run(tmp_path):
    from tiny import quick
    from typer.testing import CliRunner

    from modelforge.cli.main import app

    run = quick("sft", tmp_path, "max_steps=12", "learning_rate=5e-3").run_dir
    done = CliRunner().invoke(app, ["row", str(run), "sft_train.jsonl:3", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    (row,) = told["rows"]
    assert row["fate"] == "trained on" and 0 < row["supervised"] < row["tokens"]
    assert row["loss_after"] < row["loss_before"] and row["answer"]
    shares = [near["shared"] for near in told["nearest"]]
    assert len(shares) == 3 and shares == sorted(shares, reverse=True)
    gone = CliRunner().invoke(app, ["row", str(run), "99999"])
    assert gone.exit_code == 2
    assert CliRunner().invoke(app, ["row", str(tmp_path), "1"]).exit_code == 2
