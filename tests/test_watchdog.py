"""Alarms of a run without rewards: its loss or its gradient explodes."""

import json
import math

import pytest
import torch
from transformers import TrainerState

from modelforge.callbacks.watchdog import LossWatch, exploding


def logs(*losses, norms=None):
    norms = norms or [1.0] * len(losses)
    return [{"loss": a, "grad_norm": b} for a, b in zip(losses, norms, strict=True)]


def noisy(values, spread, seed=0):
    """The values with noise of this share, as a batch of 16 rows gives it."""
    torch.manual_seed(seed)
    factors = torch.exp(spread * torch.randn(len(values))).tolist()
    return [value * factor for value, factor in zip(values, factors, strict=True)]


def falling(first, last, count):
    return [last + (first - last) * math.exp(-4 * i / count) for i in range(count)]


@pytest.mark.parametrize(
    ("rows", "where"),
    [
        (logs(*[2.0] * 12, 6.0, 7.0, 9.0), "loss"),
        (logs(*falling(3.0, 0.4, 30), 2.2, 2.4, 2.6), "loss"),  # back near where it began
        (logs(4.64, 6.49, 8.09, 7.45, 8.53), "loss"),  # the tiny model's at a rate of 0.3
        (logs(*[2.0] * 12, math.nan), "loss"),
        (logs(*[2.0] * 15, norms=[1.0] * 12 + [30.0, 40.0, 50.0]), "grad_norm"),
        (logs(*[2.0] * 12, 9.0, 2.0, 2.0), None),  # one bad batch
        (logs(*[2.0] * 5, 2.5, 2.9, 2.9), None),  # too few to tell
        (logs(*falling(0.69, 0.01, 30), 0.05, 0.08, 0.06), None),  # pairs are sure by now
        (logs(*[0.01] * 15, norms=[3.0] * 8 + [0.01] * 4 + [0.5, 2.0, 5.0]), None),
        ([], None),
    ],
)
def test_an_explosion_is_told_from_a_bad_batch(rows, where):
    found = exploding(rows)
    assert [problem.where for problem in found] == ([where] if where else [])
    assert all("learning_rate" in problem.fix for problem in found)


@pytest.mark.parametrize("seed", range(20))
def test_noise_raises_none(seed):
    losses = noisy(falling(2.5, 0.3, 150), 0.25, seed)
    norms = noisy(falling(4.0, 0.5, 150), 0.5, seed + 100)
    rows = logs(*losses, norms=norms)
    assert not any(exploding(rows[:count]) for count in range(len(rows)))


def test_what_is_found_is_said_once_and_written_down(tmp_path, caplog):
    watch, state = LossWatch(tmp_path), TrainerState(global_step=0)
    watch.on_log(None, state, None, logs={"eval_loss": 4.0})  # before the first step
    for step, loss in enumerate((4.64, 6.49, 8.09, 7.45, 8.53, 8.6), 1):
        state.global_step = step
        watch.on_log(None, state, None, logs={"loss": loss, "grad_norm": 1.0})
    (row,) = [json.loads(line) for line in (tmp_path / "warnings.jsonl").open()]
    assert (row["step"], row["where"]) == (5, "loss") and "learning_rate" in row["fix"]
    assert caplog.text.count("it explodes") == 1
    assert LossWatch(tmp_path).before(None) == set()
    assert watch.before(None) == {"loss"}  # of a run that is resumed
