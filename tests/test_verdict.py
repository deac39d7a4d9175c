"""What a run says first: better, worse, not distinguishable, and what it lost of its parent."""

import json
import random

import pytest
from tiny import quick

from modelforge.evaluation.guards import affordable, of_parent
from modelforge.evaluation.page import html_report
from modelforge.evaluation.verdict import compared
from modelforge.registry import get_strategy
from modelforge.runs import files


def losses(values, **more):
    return [{"loss": value, "weight": 3.0, **more} for value in values]


def test_each_figure_is_better_worse_or_not_told_apart():
    low, high = [1.0 + i % 4 for i in range(40)], [2.0 + i % 4 for i in range(40)]
    noise = [value + (0.01 if i % 2 else -0.01) for i, value in enumerate(low)]
    before = {"rows": losses(high), "guards": losses(low, of="first") + losses(low, of="second")}
    after = {"rows": losses(low), "guards": losses(high, of="first") + losses(noise, of="second")}
    found = compared(get_strategy("sft").measure, before, after)
    assert [finding["word"] for finding in found["findings"]] == ["better", "worse", "unsure"]
    told = found["told"]
    assert told.startswith("Better: held-out loss 3.5 → 2.5 [-1, -1]. worse: loss on rows of first")
    assert "not distinguishable: loss on rows of second" in told


def test_labels_that_are_shuffled_give_nothing():
    draw = random.Random(0)
    measure = get_strategy("dpo").measure
    name = measure.key.removeprefix("eval_")
    start = [{name: 0.5, "weight": 1.0} for _ in range(150)]
    end = [{name: float(draw.random() < 0.5), "weight": 1.0} for _ in range(150)]
    (finding,) = compared(measure, {"rows": start}, {"rows": end})["findings"]
    assert finding["word"] == "unsure" and finding["low"] < 0 < finding["high"]


def test_few_rows_and_none_say_nothing():
    measure = get_strategy("sft").measure
    assert compared(measure, {"rows": []}, {"rows": losses([1.0] * 40)}) is None
    assert compared(measure, {"rows": losses([1.0] * 5)}, {"rows": losses([2.0] * 5)}) is None


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """sft, then dpo at a rate that breaks what sft taught."""
    folder = tmp_path_factory.mktemp("chain")
    sft = quick("sft", folder, "max_steps=30", "learning_rate=5e-3", run_name="taught").run_dir
    dpo = quick(
        "dpo", folder, "max_steps=20", "learning_rate=2e-2", model_name=sft, run_name="preferred"
    )  # fmt: skip
    return sft, dpo.run_dir


@pytest.mark.slow
def test_what_a_child_loses_of_its_parent_is_named_first(chain):
    sft, dpo = chain
    results = json.loads((dpo / files.RESULTS).read_text())
    worse = [f["label"] for f in results["compared"]["findings"] if f["word"] == "worse"]
    assert "loss on rows of taught" in worse
    told = results["compared"]["told"]
    card = (dpo / files.MODEL_CARD).read_text()
    assert card.index(told) < card.index("## Figures")
    assert "loss on rows of taught" in (dpo / files.REPORT).read_text()
    better = json.loads((sft / files.RESULTS).read_text())["compared"]["told"]
    assert better.startswith("Better: held-out loss")


@pytest.mark.slow
def test_rows_go_along_and_cost_little(chain):
    sft, dpo = chain
    left = [guard["of"] for guard in of_parent(dpo / files.MODEL)]
    assert left[:4] == ["preferred", "taught"] * 2 and set(left) == {"preferred", "taught"}
    assert of_parent(None) == of_parent(sft) == []

    class Some:
        ledger = type("Ledger", (), {"tokens": {"total": 1000.0}, "train_rows": 10})

    args = type("Args", (), {"num_train_epochs": 1, "max_steps": -1})
    kept = affordable(of_parent(dpo / files.MODEL), Some, args)
    tokens = sum(len(side["ids"]) for guard in kept for side in guard["sides"])
    assert 0 < tokens <= 0.05 * 3 * 1000 / 2


@pytest.mark.slow
def test_a_run_says_whether_it_remembers_its_rows(chain):
    for run in chain:
        found = json.loads((run / files.RESULTS).read_text())["membership"]
        assert found["low"] < found["auc"] < found["high"] and min(found["rows"]) >= 8
        for page in (html_report(run), (run / files.MODEL_CARD).read_text()):
            assert f"M{found['told'][1:]}." in page
