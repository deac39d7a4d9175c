"""The run's folder: what is written there, and when. Files are written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from modelforge.checkpointing.checkpoints import is_checkpoint, latest_intact, why_damaged
from modelforge.common.console import warn
from modelforge.common.files import (
    digest,
    forget_after,
    missing_folders,
    open_folder,
    refuse_replaced,
    remove_empty,
    write_whole,
)
from modelforge.common.paths import find_path
from modelforge.common.processes import agreed, is_main, wait_for_everyone
from modelforge.config import Config
from modelforge.errors import Problem, RunError
from modelforge.runs import files

# Keys that say where and whether, not what is trained.
_NOT_THE_RUN = {"resume", "output_dir", "run_name"}
# Keys that say how long a run is: with one of them alone raised, a run trains on in its folder.
_LENGTHS = ("max_steps", "num_train_epochs")
_LONGER = "; more max_steps (or more num_train_epochs) than before train on here"


def of_a_run(folder: Path) -> Path:
    """The folder of the run whose model a folder stands for: of a run in stages the last one's.

    Itself where it is no run in stages, or where one that is not finished.
    """
    if not (folder / files.STAGES).is_file():
        return folder
    model = (RunDir(folder).read_json(files.RESULTS) or {}).get("model")
    return (folder / model).parent if model else folder


class RunDir:
    """The folder of one run; `modelforge.runs.files` names what lies there.

    Of several processes the main one writes; all may read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Whether a step was done here: from then on a failed run leaves what there is.
        self.begun = False
        self._held: int | None = None

    @property
    def checkpoints(self) -> Path:
        """Where the trainer saves its checkpoints."""
        return self.path / files.CHECKPOINTS

    @property
    def model(self) -> Path:
        """Where the trained model ends up."""
        return self.path / files.MODEL

    def begun_revision(self) -> str | None:
        """The commit of the hub model that a run here was begun with."""
        return (self.read_json(files.ENVIRONMENT) or {}).get("origin", {}).get("revision")

    @property
    def finished(self) -> bool:
        """Whether a run ended here."""
        return (self.path / files.RESULTS).is_file()

    def create(self) -> None:
        """Make the folder, and see that it can be written to.

        Raises:
            RunError: If it cannot.
        """
        if not is_main():
            return
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            probe = self.path / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise RunError(
                Problem(str(self.path), f"cannot be written to: {error.strerror}", "set output_dir")
            ) from None

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file whole."""
        self.write_text(name, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")

    def write_lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSON Lines file whole."""
        lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
        self.write_text(name, "".join(lines))

    def write_text(self, name: str, text: str) -> None:
        """Write a file whole."""
        if not is_main():
            return
        refuse_replaced(self.path, self._held)
        write_whole(self.path / name, text)

    def remove(self, name: str) -> None:
        """Remove a file, where it is there."""
        if is_main():
            (self.path / name).unlink(missing_ok=True)

    def read_json(self, name: str) -> Any:
        """A JSON file of this folder, or None where there is none.

        Raises:
            RunError: If it is damaged: what writes it here writes it whole.
        """
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            fix = "put a copy of it there, or train in a new folder (set run_name)"
            raise RunError(Problem(str(path), f"is damaged: {error}", fix)) from None

    def read_lines(self, name: str) -> list[Any]:
        """The rows of a JSON Lines file of this folder; none where there is no such file.

        Raises:
            RunError: If a line is damaged; the last one may be cut short, as a kill leaves it.
        """
        path = self.path / name
        if not path.is_file():
            return []
        # A file's own lines: a text in JSON may hold U+2028, at which str.splitlines would cut.
        # Bytes, since a kill may cut a character too.
        rows = []
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError("it is no JSON object")
                    rows.append(row)
                except ValueError as error:
                    if line.endswith(b"\n"):
                        raise RunError(
                            Problem(f"{path}:{number}", f"is damaged: {error}")
                        ) from None
        return rows

    def last_checkpoint(self) -> Path | None:
        """The newest whole checkpoint, or None; damaged ones are named."""
        whole, damaged = latest_intact(self.checkpoints)
        for checkpoint, wrong in damaged:
            warn(f"{checkpoint} is passed over: {wrong}")
        return whole

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep every other run out of it; freed by the end of the process.

        A run that fails before its first step takes the folder away again, if it made it.

        Raises:
            RunError: If it cannot be written to, or another process trains there.
        """
        if not is_main():
            yield
            return
        made = missing_folders(self.path)
        self.create()
        # A lock of the operating system: whatever ends its owner, kill -9 too, frees it.
        lock = FileLock(self.path / files.LOCK)
        owner = self.path / files.OWNER
        try:
            lock.acquire(blocking=False)
        except Timeout:
            who = json.loads(owner.read_text(encoding="utf-8")) if owner.is_file() else {}
            what = f"another process trains here (process {who.get('pid')} on {who.get('host')})"
            fix = "wait for it, stop it, or set another run_name"
            raise RunError(Problem(str(self.path), what, fix)) from None
        self._held = open_folder(self.path)
        try:
            self.write_json(owner.name, {"pid": os.getpid(), "host": platform.node()})
            yield
        except BaseException:
            if made and not self.begun:
                shutil.rmtree(self.path, ignore_errors=True)
                remove_empty(made)
            raise
        finally:
            owner.unlink(missing_ok=True)
            lock.release()
            if self._held is not None:
                os.close(self._held)
                self._held = None

    @contextmanager
    def saving_model(self) -> Iterator[Path]:
        """A folder to write the trained model to; it becomes ``model/`` when it is whole."""
        aside = self.path / files.UNFINISHED_MODEL
        if is_main():
            shutil.rmtree(aside, ignore_errors=True)
        wait_for_everyone()
        yield aside
        wait_for_everyone()
        if is_main():
            shutil.rmtree(self.model, ignore_errors=True)
            aside.rename(self.model)

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines that a run resumed at this step is going to write again."""
        if is_main():
            forget_after(self.path / files.METRICS, step)


def run_name(config: Config) -> str:
    """The run's folder name: the user's, or one made of what is trained on what.

    The short hash is over what the user said, so that the same config always finds its own
    folder (and is resumed), and another one never does.
    """
    settings = config.settings
    if settings.run_name:
        return settings.run_name
    said = {key: value for key, value in config.said.items() if key not in _NOT_THE_RUN}
    path = Path(settings.model_name)
    name = path.parent.name if path.name == files.MODEL else path.name
    model = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
    return f"{settings.strategy}-{model}-{digest(said)[:6]}"


def run_path(config: Config) -> Path:
    """The folder of a config's run, whether it is there or not."""
    return Path(config.settings.output_dir).expanduser() / run_name(config)


def open_run(config: Config) -> tuple[RunDir, Path | None]:
    """The run's folder and the checkpoint to resume from, if any. Of several processes all
    get the same. Writes nothing.

    Raises:
        RunError: If the folder holds another run, or the checkpoint asked for is not there.
    """
    return agreed(_opened(config), deepspeed=config.settings.distributed.backend.startswith("zero"))


def _opened(config: Config) -> tuple[RunDir, Path | None]:
    settings = config.settings
    path = run_path(config)
    run = RunDir(path)
    if settings.resume == "never":
        number = 1
        while run.path.exists():
            number += 1
            run = RunDir(path.with_name(f"{path.name}-{number}"))
        return run, None
    if settings.resume != "auto":
        return run, _named_checkpoint(settings.resume, config)
    if path.exists() and not path.is_dir():
        raise RunError(Problem(str(path), "is a file", "set another run_name or output_dir"))
    before = run.read_json(files.CHOICES)
    if before is not None and not is_longer(config, before):
        _refuse_other_run(config, before, path)
    return run, run.last_checkpoint()


def finished(run: RunDir, config: Config) -> bool:
    """Whether the run of this config has ended here; one that is to be longer has not."""
    return run.finished and not is_longer(config, run.read_json(files.CHOICES))


def is_longer(config: Config, before: Mapping[str, Any]) -> bool:
    """Whether a config differs from a folder's run in nothing but more steps or epochs.

    Args:
        config: As loaded.
        before: What the folder's choices.json holds.
    """
    changed = _changed(config, before)
    if len(changed) != 1 or changed[0] not in _LENGTHS:
        return False
    key = changed[0]
    then = before["said"].get(key, before["choices"].get(key, {}).get("value"))
    now = config.said.get(key)
    return bool(then and now) and -1 not in (then, now) and now > then


def _named_checkpoint(name: str, config: Config) -> Path:
    where = f"{config.name}: resume"
    checkpoint = find_path(name, config.base_dir, wanted=is_checkpoint)
    if checkpoint is None:
        what = f"'{name}' is not a checkpoint folder"
        fix = "set auto, never, or a folder checkpoints/checkpoint-N of a run"
        raise RunError(Problem(where, what, fix))
    wrong = why_damaged(checkpoint)
    if wrong is not None:
        fix = "set auto for the newest whole one, or name another"
        raise RunError(Problem(where, f"'{name}' is damaged: {wrong}", fix))
    return checkpoint


def _refuse_other_run(config: Config, before: Mapping[str, Any], path: Path) -> None:
    """A folder named by the user may hold a run of another config: never mix the two."""
    then, now = before["said"], config.request()
    changed = _changed(config, before)
    if changed:
        listed = ", ".join(f"{key} {then.get(key)!r} → {now.get(key)!r}" for key in changed[:5])
        raise RunError(
            Problem(
                str(path),
                f"holds a run of another config ({listed})",
                'set another run_name, or "resume": "never" for a new folder beside it'
                + (_LONGER if set(changed) <= set(_LENGTHS) else ""),
            )
        )


def _changed(config: Config, before: Mapping[str, Any]) -> list[str]:
    """The keys that say otherwise than those that a folder's run was begun with."""
    then, now = before["said"], config.request()
    return sorted(
        key
        for key in (set(then) | set(now)) - _NOT_THE_RUN
        if json.dumps(then.get(key), default=str) != json.dumps(now.get(key), default=str)
    )


def refuse_other_data(run: RunDir, fingerprint: str, *, where: str) -> None:
    """Refuse to resume on other rows: the run would see some twice and others never.

    Raises:
        RunError: If they are others.
    """
    before = (run.read_json(files.DATA) or {}).get("fingerprint")
    if before is not None and before != fingerprint:
        what = f"the rows differ from those that {run.path} started with"
        fix = 'restore the data, or set "resume": "never" to start a new run'
        raise RunError(Problem(f"{where}: dataset", what, fix))


def choices_json(config: Config) -> dict[str, Any]:
    """What the user said, and every value that was set with its source and reason."""
    choices = {key: asdict(choice) for key, choice in sorted(config.choices.items())}
    return {"said": config.request(), "choices": choices}
