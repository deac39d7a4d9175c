"""What "Train on these" does: a dpo run on the votes so far, and then old answers against new."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from modelforge.common.console import say, warn
from modelforge.common.files import write_whole
from modelforge.errors import UserError
from modelforge.feedback.answering import answered
from modelforge.feedback.collected import Collected
from modelforge.feedback.dealing import Dealer
from modelforge.feedback.export import export
from modelforge.inference.answers import Sampling
from modelforge.runs.folder import RunDir
from modelforge.runs.standing import standing


class TrainOnThese:
    """Trains a model on the votes of a store, round by round.

    Args:
        store: The votes.
        dealer: Is told of the new answers.
        base: The model that the first round trains: a run, a folder or a hub id.
        folder: Where rows, configs, runs and answers are kept.
        sampling: How the answers before and after are drawn.
        overrides: ``KEY=VALUE`` for each run, as with `modelforge train --set`.
    """

    def __init__(
        self,
        store: Collected,
        dealer: Dealer,
        *,
        base: tuple[str, str],
        folder: Path,
        sampling: Sampling,
        overrides: Sequence[str] = (),
    ) -> None:
        self.store, self.dealer, self.folder = store, dealer, folder
        self.sampling, self.overrides = sampling, list(overrides)
        self._lock, self._state = threading.Lock(), ""
        self._work: threading.Thread | None = None
        self.base = base
        self.round = 1
        answered = {name for *_, names in store.texts().values() for name in names}
        while self._is_trained(self.round) and f"round-{self.round}" in answered:  # of before
            self.base = (f"round-{self.round}", str(self._run(self.round)))
            self.round += 1

    def _run(self, number: int) -> Path:
        return self.folder / "runs" / f"round-{number}"

    def _is_trained(self, number: int) -> bool:
        return (self._run(number) / "model").is_dir()

    def start(self) -> str:
        """Start the next round, and say so."""
        with self._lock:
            if self._work is not None and self._work.is_alive():
                return "A round is going on."
            try:
                rows = export(self.store.path, "preference").rows
            except UserError as error:
                return str(error)
            if not rows:
                return "The votes tell no two answers apart yet."
            self._state = f"Round {self.round}: {len(rows)} pairs; training begins."
            self._work = threading.Thread(target=self._go, args=(rows,), daemon=True)
            self._work.start()
            return self._state

    def told(self) -> tuple[str, bool, bool]:
        """Where it stands, whether it goes on, and whether one may be started."""
        going = self._work is not None and self._work.is_alive()
        line = self._state or f"{self.base[0]} would be trained by dpo."
        run = self._run(self.round)
        if going and run.is_dir():
            now = standing(RunDir(run))
            share = "" if now.share is None else f", {now.share:.0%}"
            line = f"{line} Step {now.step}{share}."
        return line, going, not going

    def _go(self, rows: Sequence[dict[str, object]]) -> None:
        """One round, in a thread."""
        try:
            self._state = self._round(rows)
        except (UserError, OSError) as error:
            self._state = f"Round {self.round} failed: {error}"
        except BaseException as error:  # a fault of ours: the terminal shows where
            self._state = f"Round {self.round} failed: {type(error).__name__} {error}"
            raise
        say(self._state)

    def _round(self, rows: Sequence[dict[str, object]]) -> str:
        number, run = self.round, self._run(self.round)
        if not self._is_trained(number) and (failed := self._trained(number, run, rows)):
            return failed
        self._state = f"Round {number} is trained; old and new answer."
        new = (run.name, str(run))
        prompts = self.store.prompts()
        found = answered(dict((self.base, new)), prompts, self.folder / "answers", self.sampling)
        added = self.store.add(found)
        self.base, self.round = new, number + 1
        self.dealer.choose()
        return f"Round {number} is trained: {run}. {added} new pairs of old against new are dealt."

    def _trained(self, number: int, run: Path, rows: Sequence[dict[str, object]]) -> str:
        """Train, in a process of its own; what went wrong, or nothing."""
        data, config = (self.folder / f"round-{number}.{end}" for end in ("jsonl", "json"))
        write_whole(data, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        asked = {"strategy": "dpo", "model_name": str(Path(self.base[1]).absolute())
                 if Path(self.base[1]).exists() else self.base[1], "dataset": str(data.absolute()),
                 "output_dir": str(run.parent.absolute()), "run_name": run.name}  # fmt: skip
        write_whole(config, json.dumps(asked, indent=2) + "\n")
        command = [sys.executable, "-m", "modelforge", "train", str(config)]
        command += [part for each in self.overrides for part in ("--set", each)]
        log = self.folder / f"round-{number}.log"
        with log.open("w", encoding="utf-8") as file:
            code = subprocess.run(command, stdout=file, stderr=file, check=False).returncode
        if code:
            last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            warn(f"round {number} ended with code {code}; {log} says why")
            return f"Round {number} failed: {' '.join(last)} ({log})"
        return ""
