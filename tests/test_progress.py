"""What a user sees while a run works: steps, evaluations, reading, and nothing twice."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from tiny import held_out, quick

import modelforge
from modelforge.common import progress
from modelforge.common.progress import Task, doing, track
from modelforge.strategies.sft import SFT

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"


class Said(logging.Handler):
    """Keeps what a run says."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())

    def about(self, *words):
        return [line for line in self.lines if all(word in line for word in words)]


@pytest.fixture(scope="module")
def said():
    handler = Said()
    logging.getLogger("modelforge").addHandler(handler)
    yield handler
    logging.getLogger("modelforge").removeHandler(handler)


@pytest.fixture(scope="module")
def short_run(said, tmp_path_factory):
    """Four steps that log every ten, and look at the held-out rows every two."""
    said.lines.clear()
    folder = tmp_path_factory.mktemp("short")
    result = quick(
        "sft",
        folder,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        per_device_train_batch_size=2,
    )
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    return said.lines[:], rows


def test_a_run_of_four_steps_says_and_writes_its_last_loss(short_run):
    lines, rows = short_run
    (last,) = [line for line in lines if line.startswith("step 4/4  loss")]
    assert "tok/s" in last
    assert [row["step"] for row in rows if "loss" in row] == [1, 4]


def test_every_evaluation_is_one_line(short_run):
    lines, rows = short_run
    held = [line for line in lines if "held-out loss" in line and "→" not in line]
    assert [line.partition("  ")[0] for line in held] == [
        "before training", "step 2/4", "step 4/4", "after training"
    ]  # fmt: skip
    losses = [f"{row['eval_loss']:.4g}" for row in rows if "eval_loss" in row]
    assert [line.split()[-1] for line in held] == losses


def test_ppo_shows_reward_kl_and_tokens_per_second_at_every_step(said, tmp_path):
    said.lines.clear()
    modelforge.train(
        {
            "strategy": "ppo",
            "model_name": str(TINY / "model"),
            "dataset": str(TINY / "data" / "prompts_train.jsonl"),
            "eval_dataset": str(held_out("prompts", 4)),
            "rewards": [{"name": "length", "arguments": {"target": 4}}],
            "max_steps": 4,
            "logging_steps": 1,
            "per_device_train_batch_size": 4,
            "max_seq_length": 64,
            "generation": {"max_new_tokens": 8},
            "report_to": "none",
            "output_dir": str(tmp_path),
        }
    )
    steps = said.about("step ", "/4  loss")
    assert len(steps) == 4
    for line in steps:
        assert "reward " in line and "KL " in line
        (rate,) = [part for part in line.split(" · ") if part.endswith("tok/s")]
        assert int(rate.split()[0].replace(",", "")) > 0
    assert said.about("before training  held-out", "reward") and said.about("after training", "KL")


def test_long_work_is_told_in_lines_further_and_further_apart(said):
    said.lines.clear()
    task = Task("reading a.jsonl", 400)
    for seconds, rows in ((0, 10), (200, 10), (100, 10), (0, 10), (1000, 10)):
        task.begin -= seconds  # so much time has passed
        task.advance(rows)
    task.close()
    told = [line.partition(", ")[0] for line in said.lines]
    assert told == [f"reading a.jsonl: {rows} of 400 rows" for rows in (20, 30, 50)]
    assert ", 1:03:" in said.lines[0] and said.lines[0].endswith("left")  # 200 s for 20 of 400


def test_short_work_says_nothing(said):
    said.lines.clear()
    assert list(track(range(1000), "reading b.jsonl", 1000)) == list(range(1000))
    assert said.lines == []


def test_a_file_that_is_one_list_is_read_item_by_item(tmp_path):
    """So it is seen to proceed, and no item is looked at with the whole text."""
    from modelforge.data.read import read_json

    text = "[\n" + ",\n".join(f'{{"prompt": "q {i}"}}' for i in range(5)) + "\n]\n"
    read = read_json(io.StringIO(text.replace('"q 3"', "broken")), print)
    assert next(read) == (2, {"prompt": "q 0"})
    with pytest.raises(ValueError, match="broken JSON, expecting value"):
        list(read)
    assert [line for line, _ in read_json(io.StringIO(text), print)] == [2, 3, 4, 5, 6]


def test_reading_converting_and_tokenising_are_shown(said, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "WAIT", 1e-9)
    said.lines.clear()
    quick("sft", tmp_path, max_steps=1, per_device_train_batch_size=2)
    assert said.about("reading", "sft_train.jsonl: ", "of 200 rows")
    assert said.about("converting", "sft_train.jsonl")
    assert said.about("tokenising: ", "of 200 rows")
    assert said.about("sample answers: ", "of 4 prompts")


class Noisy(SFT):
    """Its trainer warns at every step, as a library that is half out of date."""

    name = "noisy"

    @classmethod
    def trl_trainer_class(cls):
        class Trainer(super().trl_trainer_class()):
            def training_step(self, *args, **kwargs):
                step = self.state.global_step
                with warnings.catch_warnings():
                    warnings.simplefilter("always")
                    warnings.warn(f"step {step}: this goes away", FutureWarning, stacklevel=1)
                logging.getLogger("transformers.trainer").warning("lr is odd at step %d", step)
                return super().training_step(*args, **kwargs)

        return Trainer


def test_a_librarys_warning_is_said_once_and_can_be_silenced(tmp_path, capfd, monkeypatch):
    from modelforge import registry

    monkeypatch.setitem(registry._registered, "noisy", Noisy)
    house, theirs = logging.getLogger("modelforge"), logging.getLogger("transformers")
    before = warnings.showwarning, list(theirs.handlers)
    config = {
        "strategy": "noisy",
        "model_name": str(TINY / "model"),
        "dataset": str(TINY / "data" / "sft_eval.jsonl"),
        "eval_split": 0,
        "max_steps": 3,
        "max_seq_length": 64,
        "report_to": "none",
        "output_dir": str(tmp_path),
    }
    modelforge.train(config | {"run_name": "loud"})
    err = capfd.readouterr().err
    assert err.count("this goes away") == err.count("lr is odd") == 1
    assert (warnings.showwarning, list(theirs.handlers)) == before
    house.setLevel(logging.CRITICAL)
    try:
        modelforge.train(config | {"run_name": "quiet"})
    finally:
        house.setLevel(logging.INFO)
    assert capfd.readouterr() == ("", "")


def on_a_terminal(program):
    """What a program shows there."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=theirs, stderr=theirs, close_fds=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert child.wait() == 0
    os.close(ours)
    return shown.decode()


ON_A_TERMINAL = """
import logging, sys, time
from modelforge.common.console import say
from modelforge.common.progress import Task
steps = Task("training", 4, unit="steps", wait=0, lines=False)
for step in range(4):
    time.sleep(0.3)
    steps.advance()
    steps.tell(f"loss {step}")
    say(f"a note {step}")
    print(f"a stray line {step}", file=sys.stderr)
steps.close()
say("the end")
"""


def test_a_terminal_has_a_bar_that_lines_do_not_tear():
    text = on_a_terminal(ON_A_TERMINAL)
    assert "training" in text and "3/4" in text and "loss 2" in text
    for step in range(4):
        for line in (f"a note {step}", f"a stray line {step}"):
            # Each on a line of its own: nothing of the bar stands before it.
            begin = text.index(line)
            assert text[:begin].endswith(("\n", "\x1b[2K")), text[begin - 40 : begin + 20]
    assert text.rstrip().endswith("the end") or "the end" in text.splitlines()[-2:]


AT_WORK = """
import time
from modelforge.common.progress import Task, doing, hand_over
def work():
    begin = time.monotonic()
    while time.monotonic() < begin + 1.5:
        time.sleep(0.01)
with doing("at work"):
    work()
    with doing("planning"):
        work()
    counted = Task("reading", 2, wait=0)
    counted.advance()
    work()
    counted.close()
    hand_over()
    work()
print("the end")
"""


def test_work_that_counts_nothing_has_a_moving_bar_where_no_other_is():
    shown = on_a_terminal(AT_WORK)
    places = [shown.index(word) for word in ("at work", "planning", "reading", "the end")]
    assert places == sorted(places) and "0/2 rows" in shown
    assert "at work" not in shown[places[1] :] and "planning" not in shown[places[2] :]


def test_elsewhere_it_is_silent(capfd):
    with doing("at work"), doing("planning"):
        pass
    assert capfd.readouterr() == ("", "")
