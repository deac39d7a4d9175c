"""`modelforge verify RUN`: steps trained again are those of the run."""

import json
import math
import shutil

import pytest
from tiny import quick

from modelforge.errors import RunError
from modelforge.runs import files
from modelforge.training.replay import replay


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Six steps, with checkpoints after the fourth and the last."""
    return quick(
        "sft", tmp_path_factory.mktemp("replay"), max_steps=6, save_steps=2, save_total_limit=2,
        logging_steps=1, eval_strategy="steps", eval_steps=3,
    ).run_dir  # fmt: skip


@pytest.fixture
def copied(run, tmp_path):
    return shutil.copytree(run, tmp_path / run.name)


def test_steps_trained_again_are_the_same_to_the_last_bit(run):
    before = sorted(run.rglob("*"))
    begun = set()
    for seed in range(3):
        found = replay(run, steps=2, seed=seed)
        begun.add(found.start)
        assert (found.difference, found.elsewhere) == (0, ())
        assert found.end - found.start == 2 and found.lines >= 2
        assert bool(found.saved) == (found.end == 6)
    assert begun == {0, 4}
    assert sorted(run.rglob("*")) == before


def test_a_figure_that_was_changed_is_named(copied):
    _change_loss(copied, lambda loss: loss + 1e-6)
    with pytest.raises(RunError, match=r"step 2: loss was .* when trained again"):
        replay(copied, steps=2, seed=next(s for s in range(9) if _begins(copied, s) == 0))


def test_a_checkpoint_that_other_steps_gave_is_named(copied):
    """Whole by its own list of files, and not what the steps before it come to."""
    last = copied / "checkpoints" / "checkpoint-6"
    listed = json.loads((last / "manifest.json").read_text())
    for name in listed:
        if name.endswith(".safetensors"):
            other = copied / "checkpoints" / "checkpoint-4" / name
            shutil.copy(other, last / name)
            before = json.loads((other.parent / "manifest.json").read_text())
            listed[name] = before[name]
    (last / "manifest.json").write_text(json.dumps(listed))
    with pytest.raises(RunError, match=r"adapter_model.safetensors: is another"):
        replay(copied, steps=2, seed=next(s for s in range(9) if _begins(copied, s) == 4))


def test_on_another_machine_a_loss_may_differ_by_rounding(copied):
    environment = json.loads((copied / files.ENVIRONMENT).read_text())
    environment["versions"]["torch"] = "2.0"
    (copied / files.ENVIRONMENT).write_text(json.dumps(environment))
    _change_loss(copied, lambda loss: loss * (1 + 1e-4))
    seed = next(s for s in range(9) if _begins(copied, s) == 0)
    found = replay(copied, steps=2, seed=seed)
    assert 9e-5 < found.difference < 1.1e-4
    assert any("torch 2.0" in each for each in found.elsewhere)
    for changed in (lambda loss: loss * 1.1, lambda loss: math.nan):
        _change_loss(copied, changed)
        with pytest.raises(RunError, match="step 2: loss was"):
            replay(copied, steps=2, seed=seed)


def _change_loss(run, change):
    """Change the loss that was logged at the second step."""
    path = run / files.METRICS
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    (line,) = (line for line in lines if line["step"] == 2)
    line["loss"] = change(line["loss"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _begins(run, seed):
    """Which step the replay with this seed begins after."""
    import random

    from modelforge.runs.folder import RunDir
    from modelforge.training.replay import _drawn, _logged

    return _drawn(RunDir(run), _logged(RunDir(run)), 2, random.Random(seed))[0]


def test_what_cannot_be_replayed_is_said_with_the_reason(copied, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds neither a run nor an export"):
        replay(tmp_path / "empty")
    (copied / "checkpoints" / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(RunError, match=r"checkpoint-4: is damaged: optimizer\.pt"):
        replay(copied)
    (copied / files.METRICS).unlink()
    with pytest.raises(RunError, match="has logged no step"):
        replay(copied)


def test_verify_says_what_it_compared(run, tmp_path, command):
    code, out, err = command("verify", str(run), "--steps", "2", "--seed", "0", "--json")
    found = json.loads(out)
    assert code == 0 and found["difference"] == 0 and found["lines"] >= 2
    code, out, err = command("verify", str(tmp_path / "none"), "--steps", "2")
    assert code == 2 and "--steps: is for a run" in err
