"""What is shown at each log of the trainer: a bar, or plain lines."""

from __future__ import annotations

import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.callbacks.metrics import Meter
from modelforge.common.console import say

# The figures a reader wants in the progress bar, under the names TRL's trainers give them.
_SHOWN = ("loss", "reward", "accuracy", "rewards/accuracies", "kl")


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


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
