"""What is written and shown at each log of the trainer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.runs import files
from modelforge.runs.folder import RunDir

# Ends of the names of figures that speak of this session and not of the run: times, and
# transformers' mean loss, which starts anew at a resume.
SESSION = ("_runtime", "_per_second", "_preparation_time", "step_time", "train_loss")


class MetricsFile(TrainerCallback):
    """Appends each log to ``metrics.jsonl``; what a resume may change stands in ``session``."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.path = run, run.path / files.METRICS

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock of tokens per second."""
        self.meter = Meter(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the folder if the run fails from now on; have the last step logged too."""
        self.run.begun = True
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write one line."""
        if not state.is_world_process_zero or not logs:
            return
        if "train_runtime" in logs and state.global_step < state.max_steps:
            return  # the sum of a run that was stopped, and will be resumed
        session = {k: v for k, v in logs.items() if k.endswith(SESSION)}
        row: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch}
        row |= {k: v for k, v in logs.items() if k not in session and k != "epoch"}
        if hasattr(self, "meter"):
            session |= self.meter.read(logs)
        row["session"] = session
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=float) + "\n")


class Meter:
    """Seconds, tokens per second, time left; from the logs' own ``num_tokens``."""

    def __init__(self, state: TrainerState) -> None:
        self.start = self.last = time.perf_counter()
        self.first_step = state.global_step
        # Of a resumed run only the first log tells how many there were before.
        self.tokens: float | None = None if state.global_step else 0.0
        self.rate: float | None = None

    def read(self, logs: Mapping[str, Any]) -> dict[str, float]:
        """Seconds since the start, and tokens per second since their number last grew.

        Several updates learn from one rollout, and only the first of them brings new tokens. The
        rate is then that of the whole cycle, sampling and updates.
        """
        now = time.perf_counter()
        timing = {"seconds": round(now - self.start, 3)}
        tokens = logs.get("num_tokens")
        if tokens is not None and tokens != self.tokens:
            if self.tokens is not None and now > self.last:
                self.rate = round((tokens - self.tokens) / (now - self.last), 1)
            self.tokens, self.last = tokens, now
        if self.rate is not None:
            timing["tokens_per_second"] = self.rate
        return timing

    def left(self, state: TrainerState) -> float:
        """Seconds until the last step, at the pace so far."""
        done = max(state.global_step - self.first_step, 1)
        pace = (time.perf_counter() - self.start) / done
        return pace * (state.max_steps - state.global_step)
