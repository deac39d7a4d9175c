"""Where a run stands, read from its folder: its step, its figures, and whether it goes on."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modelforge.errors import Problem, RunError
from modelforge.runs import files
from modelforge.runs.folder import RunDir

State = Literal["begins", "trains", "stopped", "ended"]


@dataclass(frozen=True)
class Standing:
    """How a run stood when its folder was read.

    Attributes:
        state: ``begins`` (nothing is logged yet), ``trains``, ``stopped`` (no process trains there,
            and it has not ended) or ``ended``.
        step: The last step that was logged.
        share: Of the run that is done, 0 to 1; None where its config does not tell.
        begun: The step that this session of training began at, or one before its first log.
        seconds: Since it began; None where nothing is logged.
        rows: What was logged, as in ``metrics.jsonl``.
        warnings: What went wrong, as in ``warnings.jsonl``.
    """

    state: State
    step: int
    share: float | None
    begun: int
    seconds: float | None
    rows: Sequence[Mapping[str, Any]]
    warnings: Sequence[Mapping[str, Any]]

    @property
    def left(self) -> float | None:
        """Seconds until the end at the pace of the whole run so far; None where unknown."""
        if self.state != "trains" or not self.share or self.seconds is None:
            return None
        done = self.share * (1 - self.begun / self.step) if self.step > self.begun else 0.0
        return self.seconds * (1 - self.share) / done if done else None


def standing(run: RunDir) -> Standing:
    """Read it.

    Raises:
        RunError: If a file of the folder is damaged.
    """
    rows = run.read_lines(files.METRICS)
    if any("step" not in row for row in rows):
        raise RunError(Problem(str(run.path / files.METRICS), "is damaged: a line has no step"))
    step = max((row.get("step", 0) for row in rows), default=0)
    state: State = "trains" if rows else "begins"
    if run.finished:
        state = "ended"
    elif not _is_held(run):
        state = "stopped"
    timed = [(row["step"], row["session"]["seconds"]) for row in rows
             if "seconds" in row.get("session", {})]  # fmt: skip
    begun = 0
    for (before, last), (_, seconds) in itertools.pairwise(timed):
        begun = before if seconds < last else begun  # the clock began anew
    return Standing(
        state,
        step,
        1.0 if state == "ended" else _share(run, rows, step),
        begun,
        timed[-1][1] if timed else None,
        rows,
        run.read_lines(files.WARNINGS),
    )


def _share(run: RunDir, rows: Sequence[Mapping[str, Any]], step: int) -> float | None:
    config = run.read_json(files.CONFIG) or {}
    most = config.get("max_steps") or 0
    if most > 0:
        return min(step / most, 1.0)
    epochs = config.get("num_train_epochs")
    epoch = max((row.get("epoch") or 0 for row in rows), default=0)
    return min(epoch / epochs, 1.0) if epochs else None


def _is_held(run: RunDir) -> bool:
    """Whether a process trains there; of another machine's process its mark alone tells."""
    owner = run.read_json(files.OWNER)
    if owner is None:
        return False
    if owner.get("host") != platform.node() or os.name == "nt":
        return True
    try:
        os.kill(int(owner["pid"]), 0)
    except ProcessLookupError:
        return False
    except (KeyError, TypeError, ValueError, PermissionError):
        return True
    return True


def runs_below(folder: Path) -> list[Path]:
    """The folders of runs below a folder, and itself if it is one; the newest last."""
    found = folder.rglob(files.CHOICES)
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime)]
