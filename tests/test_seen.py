"""evaluate says which rows the model was trained on, in its run and in those before it."""

import json
import shutil

import pytest
from tiny import ROOT, quick
from typer.testing import CliRunner

from modelforge.cli.main import app
from modelforge.data.overlap import RUN, SAME
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.opened import named
from modelforge.evaluation.options import Options
from modelforge.evaluation.seen import training_rows

LONG = "the old lamp by the window in the hall was lit again at ten each night"


def row(asked, answer="yes"):
    return {"prompt": asked, "completion": answer}


def write(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


@pytest.mark.slow
def test_rows_of_every_run_that_made_the_model_are_named(tmp_path):
    first = write(tmp_path / "first.jsonl", [row(f"first {i}") for i in range(12)])
    second = write(tmp_path / "second.jsonl", [row(f"second {i}") for i in range(11)] + [row(LONG)])
    said = {"max_steps": 1, "per_device_train_batch_size": 2}
    parent = quick("sft", tmp_path, "eval_dataset=null", "eval_split=2", run_name="parent",
                   dataset=first, **said).run_dir  # fmt: skip
    child = tmp_path / "child"  # as a run that began with the first, on other rows
    shutil.copytree(parent, child)
    for name, keys in (("config.json", ()), ("choices.json", ("said",))):
        stored = json.loads((child / name).read_text())
        part = stored["said"] if keys else stored
        part |= {"model_name": str(parent), "dataset": str(second), "run_name": "child"}
        (child / name).write_text(json.dumps(stored))
    trained = training_rows(parent)
    assert len(trained) == 10 and len(training_rows(child)) == 12  # two of the first are held out
    kept = [example["prompt"] for _, example in trained]
    asked = [kept[0][-1]["content"], "second 3", f"Was it lit? {LONG[9:60]} so", "nobody asked"]
    data = write(tmp_path / "data.jsonl", [row(each) for each in asked])
    options = Options(str(data), metrics=("loss",), output_dir=tmp_path / "out")
    found = evaluate(str(child), options)
    assert found.seen == [
        {"run": "child", "rows": 12, "shared": {SAME: [1], RUN: [2]}},
        {"run": "parent", "rows": 10, "shared": {SAME: [0]}},
    ]
    arguments = ["evaluate", str(child), "--data", str(data), "--metrics", "loss", "--json"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "out")])
    told = json.loads(done.stdout)
    assert told["trained_on"] == found.seen and told["without_trained_on"]["rows"] == 1
    assert told["without_trained_on"]["metrics"]["loss"] == pytest.approx(found.rows[3]["loss"])
    first.unlink()
    again = Options(str(data), metrics=("loss",), output_dir=tmp_path / "again")
    one, other = evaluate(str(child), again).seen
    assert one == found.seen[0] and "first.jsonl" in other["why"]
    none = Options(str(data), metrics=("loss",), output_dir=tmp_path / "no", contamination=False)
    assert evaluate(str(child), none).seen == []
    model = str(ROOT / "examples/tiny/model")
    assert named(model).run is None and evaluate(model, again).seen == []
