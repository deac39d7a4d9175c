"""What is written and shown at each log of the trainer."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.console import say
from modelforge.rundir import RunDir

# Ends of the names of figures that speak of this session and not of the run: times, and
# transformers' mean loss, which starts anew at a resume.
SESSION = ("_runtime", "_per_second", "_preparation_time", "step_time", "train_loss")
# The figures a reader wants in the progress bar, under the names TRL's trainers give them.
_SHOWN = ("loss", "reward", "accuracy", "rewards/accuracies", "kl")


class MetricsFile(TrainerCallback):
    """Appends each log to ``metrics.jsonl``; what a resume may change stands in ``session``."""

    def __init__(self, run: RunDir) -> None:
        self.path = run.path / "metrics.jsonl"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock of tokens per second."""
        self.meter = Meter(state)

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
            return  # the sum of a run that was stopped, and goes on another time
        session = {k: v for k, v in logs.items() if k.endswith(SESSION)}
        row: dict[str, Any] = {"step": state.global_step, "epoch": state.epoch}
        row |= {k: v for k, v in logs.items() if k not in session and k != "epoch"}
        if hasattr(self, "meter"):
            session |= self.meter.read(logs)
        row["session"] = session
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, default=float) + "\n")


class Progress(TrainerCallback):
    """A progress bar with loss, reward, tokens/s and the time left; plain lines without a
    terminal."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run starts, or goes on."""
        self.meter = Meter(state)
        self.bar = None
        if sys.stderr.isatty() and state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps, initial=state.global_step, unit="step", dynamic_ncols=True
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One step further."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the figures."""
        shown = {k: logs[k] for k in _SHOWN if logs and isinstance(logs.get(k), int | float)}
        if not shown or not state.is_world_process_zero or not hasattr(self, "meter"):
            return
        texts = [f"{key} {value:.4g}" for key, value in shown.items()]
        timing = self.meter.read(logs or {})
        if "tokens_per_second" in timing:
            texts.append(f"{timing['tokens_per_second']:,.0f} tok/s")
        if self.bar is not None:
            self.bar.set_postfix_str(" · ".join(texts))
        else:
            texts.append(f"{_clock(self.meter.left(state))} left")
            say(f"step {state.global_step}/{state.max_steps}  " + " · ".join(texts))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()


class Meter:
    """Seconds, tokens per second, time left; from the logs' own ``num_tokens``."""

    def __init__(self, state: TrainerState) -> None:
        self.start = self.last = time.perf_counter()
        self.first_step = state.global_step
        self.tokens: float | None = None

    def read(self, logs: dict[str, Any]) -> dict[str, float]:
        """Seconds since the start, and tokens per second since the log before."""
        now = time.perf_counter()
        timing = {"seconds": round(now - self.start, 3)}
        tokens = logs.get("num_tokens")
        if tokens is not None:
            if self.tokens is not None and now > self.last:
                timing["tokens_per_second"] = round((tokens - self.tokens) / (now - self.last), 1)
            self.tokens, self.last = tokens, now
        return timing

    def left(self, state: TrainerState) -> float:
        """Seconds until the last step, at the pace so far."""
        done = max(state.global_step - self.first_step, 1)
        pace = (time.perf_counter() - self.start) / done
        return pace * (state.max_steps - state.global_step)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
