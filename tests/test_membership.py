"""Whether the loss tells rows that were trained on from rows that were not."""

import json
from array import array

import numpy as np
import pytest
from scipy import stats
from tiny import few, held_out, quick

from modelforge.data.encoded import Encoded
from modelforge.evaluation.membership import COUNT, SEEN, UNSEEN, _spread, auc, membership


@pytest.mark.parametrize("seed", range(5))
def test_the_share_is_mann_and_whitneys_and_the_error_that_of_the_placements(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 9, 23) / 3, rng.integers(0, 12, 31) / 3  # with ties
    share, low, high = auc(list(a), list(b))
    assert share == pytest.approx(stats.mannwhitneyu(b, a).statistic / len(a) / len(b), abs=1e-12)
    placed = [[np.mean([(x < y) + 0.5 * (x == y) for y in b]) for x in a],
              [np.mean([(x < y) + 0.5 * (x == y) for x in a]) for y in b]]  # fmt: skip
    error = np.sqrt(sum(np.var(each, ddof=1) / len(each) for each in placed))
    odds = np.log(share / (1 - share))
    half = 1.959963984540054 * error / share / (1 - share)
    assert [low, high] == pytest.approx(list(1 / (1 + np.exp([-odds + half, -odds - half]))))


def test_the_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    truth = stats.norm.cdf(0.8 / np.sqrt(2))
    inside = 0
    for _ in range(500):
        _, low, high = auc(rng.normal(0, 1, 40), rng.normal(0.8, 1, 40))
        inside += low <= truth <= high
    assert 0.92 < inside / 500 < 0.98


def test_what_is_remembered_is_said_and_sets_that_differ_anyway_are_not_taken_for_it():
    def rows(seen, unseen):
        return [{"of": SEEN, "loss": v} for v in seen] + [{"of": UNSEEN, "loss": v} for v in unseen]

    alike = rows(range(20), range(20))
    apart = rows(range(20), range(15, 35))
    found = membership(alike, apart)
    assert found["auc"] > 0.9 and found["before"] == 0.5 and found["rows"] == [20, 20]
    assert found["told"].endswith("before training 50%): single rows are remembered")
    assert membership(apart, apart)["told"].endswith(")")  # as before
    assert "before" not in membership([], apart)["told"]
    assert membership((), rows([0, 1], [2, 3])) is None
    assert membership((), rows(range(9), range(20, 29)))["high"] == 1  # nothing varies
    assert membership((), [*alike, {"of": SEEN}])["rows"] == [20, 20]  # a loss that is no number


@pytest.mark.parametrize("rows", [0, 5, 64, 100, 1000])
def test_rows_are_taken_from_all_over_a_set(rows):
    tokens = [Encoded((array("i", [i, i + 1]),), start=1) for i in range(rows)]
    taken = [each["sides"][0]["ids"][0] for each in _spread(tokens, SEEN)]
    assert len({*taken}) == min(rows, COUNT)
    assert not taken or taken[-1] >= rows - 1 - rows // COUNT - 1


def test_nothing_is_said_of_rows_that_a_run_did_not_reach(tmp_path):
    keys = {"per_device_train_batch_size": 50, "save_strategy": "no", "max_steps": 8}
    keys |= {"eval_dataset": held_out("sft", 16)}
    told = []
    for rows in (800, 200):
        run = quick("sft", tmp_path / str(rows), **keys, dataset=few("sft_train", rows))
        told.append("membership" in json.loads((run.run_dir / "results.json").read_text()))
    assert told == [False, True]
