"""`modelforge verify RUN`: some steps of a run again, from one of its checkpoints.

The run's own files and one checkpoint are laid into a folder aside, and the run resumes there as it
would after a kill. What it logs and saves is held against what the run logged and saved: to the
last bit on the processor and with the versions that trained it, within float noise elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modelforge import registry
from modelforge.checkpointing.checkpoints import MANIFEST, checkpoints, step_of, why_damaged
from modelforge.common.console import headline, say
from modelforge.common.files import writing
from modelforge.common.libraries import libraries_heard
from modelforge.configfile.load import load_config
from modelforge.errors import Problem, RunError
from modelforge.machine.environment import prepare_environment
from modelforge.runs import files
from modelforge.runs.folder import RunDir, of_a_run, open_run
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

#: Steps that are trained again, where nothing else is said.
STEPS = 4
# What a run that was killed finds of itself, beside its checkpoint.
_KEPT = (
    files.CHOICES, files.CONFIG, files.ENVIRONMENT, files.DATA, files.PROMPTS, files.PLAN,
    files.BEFORE, files.GUARDS,
)  # fmt: skip
#: The largest relative difference of a loss on another machine: bfloat16 has 8 bits, 2⁻⁷.
NOISE = 2.0**-7
# Of a checkpoint: these hold places and times, beside what was trained.
_OWN = ("trainer_state.json", "training_args.bin", "README.md")


@dataclass(frozen=True)
class Replayed:
    """Steps that were trained again.

    Attributes:
        run: The run's folder.
        start: The step that they began after; 0 is the run's own start.
        end: The last of them.
        lines: How many logged lines were compared.
        saved: How many files of the checkpoint at ``end`` were compared.
        difference: The largest relative difference of a logged figure; 0 is the same bits.
        elsewhere: What differs between this machine and the one that trained.
    """

    run: Path
    start: int
    end: int
    lines: int
    saved: int
    difference: float
    elsewhere: tuple[str, ...]

    def told(self) -> str:
        """What came out, in a sentence or two."""
        files_too = f" and {self.saved} saved files" if self.saved else ""
        alike = "the same to the last bit"
        if self.difference:
            alike = f"the same within {self.difference:.1e}"
        other = f" ({'; '.join(self.elsewhere)})" if self.elsewhere else ""
        return (
            f"{self.run}: steps {self.start + 1} to {self.end} were trained again; "
            f"{self.lines} logged lines{files_too} are {alike}{other}"
        )


def replay(folder: Path, *, steps: int = STEPS, seed: int | None = None) -> Replayed:
    """Train some steps of a run again, from its start or one of its checkpoints, drawn at random.

    Args:
        folder: A run; of a run in stages the last stage.
        steps: How many, at least; they go on to the next line of the log or checkpoint.
        seed: Of the draw.

    Raises:
        UserError: If it holds no run or log, a checkpoint is damaged, or a figure differs.
    """
    run = RunDir(of_a_run(folder))
    lines = _logged(run)
    start, end, checkpoint = _drawn(run, lines, steps, random.Random(seed))
    headline("Replay")
    where = f"from {checkpoint}" if checkpoint else "from the run's start"
    say(f"training steps {start + 1} to {end} again, {where}")
    fix = "make room, or verify a copy of the run in another folder"
    with writing(run.path, fix):
        aside = TemporaryDirectory(prefix=".replay-", dir=run.path)
    with aside:
        again = RunDir(Path(aside.name) / run.path.name)
        with writing(run.path, fix):
            _lay_out(run, again, checkpoint)
        _train(again.path, end)
        elsewhere = tuple(_elsewhere(run))
        difference, compared = _difference(run, lines, again, start, end, exact=not elsewhere)
        saved = 0 if elsewhere else _same_files(run, again, end)
    return Replayed(run.path, start, end, compared, saved, difference, elsewhere)


def _logged(run: RunDir) -> list[dict[str, Any]]:
    """The lines of a run's log that training wrote.

    Raises:
        RunError: If there are none, or it was trained by several processes.
    """
    if not (run.path / files.CHOICES).is_file():
        what = "holds neither a run nor an export"
        raise RunError(Problem(str(run.path), what, "name a run's folder, or an export's"))
    lines = [line for line in run.read_lines(files.METRICS) if line.get("step")]
    if not lines:
        what = "has logged no step, so there is nothing to hold a replay against"
        raise RunError(Problem(str(run.path), what, "train it first"))
    processes = (run.read_json(files.ENVIRONMENT) or {}).get("processes", 1)
    if processes > 1:
        what = f"was trained by {processes} processes, and a replay is one"
        raise RunError(Problem(str(run.path), what))
    return lines


def _drawn(
    run: RunDir, lines: list[dict[str, Any]], steps: int, chance: random.Random
) -> tuple[int, int, Path | None]:
    """Where to begin, after which step to stop, and the checkpoint to begin from.

    Raises:
        RunError: If a checkpoint is damaged.
    """
    saved = checkpoints(run.checkpoints)
    wrong = [(each, why) for each in saved if (why := why_damaged(each)) is not None]
    if wrong:
        fix = "delete it: the others are whole"
        raise RunError(*(Problem(str(each), f"is damaged: {why}", fix) for each, why in wrong))
    seen = sorted({line["step"] for line in lines} | {step_of(each) for each in saved})
    starts: dict[int, Path | None] = {0: None, **{step_of(each): each for each in saved}}
    logged = max(line["step"] for line in lines)
    start = chance.choice([step for step in starts if step < logged])
    wanted = min(start + steps, logged)
    end = next(step for step in seen if step >= wanted)
    return start, end, starts[start]


def _lay_out(run: RunDir, again: RunDir, checkpoint: Path | None) -> None:
    """Lay a folder out as the run's was when it had written this checkpoint."""
    again.checkpoints.mkdir(parents=True)
    for name in _KEPT:
        if (run.path / name).is_file():
            shutil.copy2(run.path / name, again.path / name)
    if checkpoint is not None:
        shutil.copytree(checkpoint, again.checkpoints / checkpoint.name, copy_function=_linked)


def _linked(source: str, target: str) -> str:
    """Give a file a second name, where the disk can; a checkpoint's files are never changed."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def _train(folder: Path, end: int) -> None:
    """Resume the run of this folder, and stop after a step."""
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.global_step >= end

    prepare_environment()
    with libraries_heard():
        config = load_config(folder)
        strategy = registry.get_strategy(config.settings.strategy)()
        prepared = prepare(config, strategy, opened=open_run(config))
        prepared.args.report_to = []  # the run's curves are not drawn twice
        prepared.args.load_best_model_at_end = False
        trainer = build_trainer(prepared, load(prepared))
        trainer.add_callback(Stop())
        checkpoint = prepared.checkpoint
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def _elsewhere(run: RunDir) -> list[str]:
    """What is another than it was: device and versions of what computes."""
    from modelforge.machine.hardware import detect_hardware
    from modelforge.machine.versions import versions

    before = run.read_json(files.ENVIRONMENT) or {}
    then, now = before.get("versions", {}), versions()
    found = [
        f"{name} {then.get(name)} → {now.get(name)}"
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    device, here = before.get("hardware", {}).get("device_name"), detect_hardware()
    if device != here.device_name:
        found.append(f"{device} → {here.device_name}")
    if here.device != "cpu":
        found.append(f"{here.device} adds in an order of its own")
    return found


def _difference(
    run: RunDir, lines: list[dict[str, Any]], again: RunDir, start: int, end: int, *, exact: bool
) -> tuple[float, int]:
    """The largest relative difference of the run's lines and the replay's, and how many there are.

    Raises:
        RunError: If a line is missing, or a figure is another.
    """
    now = [_figures(line) for line in again.read_lines(files.METRICS) if line.get("step")]
    then = [_figures(line) for line in lines if start < line["step"] <= end]
    # After its last step a run measures once more, and a replay does not.
    later = then[len(now) :]
    measured_after = sum(line["step"] == end and "loss" not in line for line in later)
    then = then[: len(then) - measured_after]
    nothing: dict[str, Any] = {}
    problems, largest = [], 0.0
    for before, after in zip_longest(then, now, fillvalue=nothing):
        told = before.keys() | after.keys()
        if not exact:  # other versions log other figures beside the loss
            told = (before.keys() & after.keys()) | (told & {"step", "loss"})
        for key in sorted(told):
            apart = _apart(before.get(key), after.get(key))
            largest = max(largest, apart)
            if apart and (exact or apart == math.inf or (key == "loss" and apart > NOISE)):
                what = f"{key} was {before.get(key)}, and is {after.get(key)} when trained again"
                step = before.get("step", after.get("step"))
                problems.append(Problem(f"{run.path}: step {step}", what))
    if problems:
        raise RunError(*problems[:5])
    return largest, len(then)


def _figures(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "session"}


def _apart(one: Any, other: Any) -> float:
    """How far two values are apart, relative to the larger; infinity where one is no number."""
    if one == other or (one != one and other != other):
        return 0.0
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (one, other)):
        return math.inf
    return abs(one - other) / max(abs(one), abs(other))


def _same_files(run: RunDir, again: RunDir, end: int) -> int:
    """See that the checkpoint at the end holds what the run's own does; how many files there are.

    Raises:
        RunError: If one is another.
    """
    theirs, ours = (each.checkpoints / f"checkpoint-{end}" / MANIFEST for each in (run, again))
    if not theirs.is_file() or not ours.is_file():
        return 0
    then, now = (json.loads(each.read_text(encoding="utf-8")) for each in (theirs, ours))
    names = [name for name in then if Path(name).name not in _OWN]
    other = [name for name in names if now.get(name) != then[name]]
    if other:
        where = str(run.checkpoints / f"checkpoint-{end}")
        what = "is another when trained again"
        raise RunError(*(Problem(f"{where}/{name}", what) for name in other[:5]))
    return len(names)
