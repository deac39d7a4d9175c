"""Reward and judge against the distance from the reference, and the checkpoint at the top."""

import json
import math

import pytest

from modelforge.evaluation.against_kl import over_optimised
from modelforge.runs.folder import RunDir
from modelforge.web import render


def run_of(folder, points, *, kl="eval_kl/reference", **more):
    rows = [
        {"step": 10 * i, "loss": 1.0, kl: d * d, "eval_reward": reward, "eval_reward_std": 0.4,
         "eval_rewards/judge/mean": judge, "eval_rewards/judge/std": 0.4, **more}
        for i, (d, reward, judge) in enumerate(points)
    ]  # fmt: skip
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held_out.jsonl").write_text("{}\n" * 64)
    return RunDir(folder)


def test_the_top_is_named_and_a_fall_since_then(tmp_path):
    points = [(0.0, 0.0, 0.0), (1.0, 0.5, 0.6), (2.0, 0.8, 0.4), (3.0, 1.0, 0.2)]
    run = run_of(tmp_path, points)
    (tmp_path / "checkpoints" / "checkpoint-10").mkdir(parents=True)
    found = over_optimised(run)
    reward, judge = found["charts"]
    assert "Reward: highest after step 30 (1 ± 0.1, KL 9 nats), the last." in found["told"]
    assert (
        "Judge: highest after step 10 (0.6 ± 0.1, KL 1 nats), checkpoints/checkpoint-10. "
        in (found["told"])
    )
    assert "Since then it fell to 0.2, beyond two standard errors." in found["told"]
    assert len(judge.curves[0].errors) == 4 and "square root of the KL" in judge.by
    assert [tick.text for tick in reward.across] == ["0", "1", "2", "3"]
    (x, low, high), *_ = judge.curves[0].errors
    assert high < low and x == judge.left  # above is less, in pixels
    page = render("curves.html", title="t", note="", charts=found["charts"])
    assert page.count('class="error"') == 8 and "two standard errors" in page


def test_a_distance_of_a_token_counts_over_the_answer_and_none_gives_nothing(tmp_path):
    run = run_of(tmp_path, [(d, d, d) for d in (0.0, 0.5, 1.0)], kl="eval_kl")
    assert over_optimised(run) is None  # no length
    run = run_of(tmp_path, [(d, 1.0, d / 99) for d in (-0.5, 0.5, 1.0)], kl="eval_kl",
                 **{"eval_completions/mean_length": 4.0})  # fmt: skip
    found = over_optimised(run)
    assert "Judge: highest after step 20" in found["told"] and "KL 4 nats" in found["told"]
    assert "Reward: highest after step 0 (1 ± 0.1" in found["told"]
    assert (
        "cannot be told apart" in found["told"] and "no checkpoint of it is kept" in found["told"]
    )
    assert over_optimised(run_of(tmp_path, [(0.0, 0.0, 0.0), (1.0, 1.0, math.nan)])) is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_no_point(tmp_path, value):
    points = [(0.0, 0.0, value), (1.0, 1.0, value), (2.0, 2.0, value)]
    (chart,) = over_optimised(run_of(tmp_path, points))["charts"]
    assert chart.title == "Reward against distance"
