"""What is shown of a trainer's work: steps, evaluations, and their figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.callbacks.metrics import Meter
from modelforge.common.console import say
from modelforge.common.progress import Task, clock, close_bars

# The figures that a reader wants to see, under the names of TRL's trainers, and what they are.
_SHOWN = {
    "loss": "loss",
    "reward": "reward",
    "reward_greedy": "greedy",
    "accuracy": "accuracy",
    "rewards/accuracies": "accuracy",
    "kl": "KL",
    "kl/reference": "KL",
}
_HELD_OUT = "eval_"
# Seconds after which a look at the held-out rows is shown. Most take less.
_PATIENCE = 5.0


class Progress(TrainerCallback):
    """Shows loss, reward, KL, tokens per second and the time left, and every evaluation.

    A terminal has a bar for the steps, and lines for the evaluations. Elsewhere all are lines.

    Args:
        measure: The figure that the strategy is judged by, as `Measure.key` names it. Evaluations
            show it whatever its name is.
    """

    def __init__(self, measure: str = "") -> None:
        self.measure = measure.removeprefix(_HELD_OUT)
        self.meter: Meter | None = None
        self.steps: Task | None = None
        self.batches: Task | None = None
        self.last = ""
        #: What an evaluation is of, where nothing was trained.
        self.untrained = "before training"

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the bar where the run starts or resumes."""
        close_bars()  # those of a trainer that ran out of memory
        self.meter = Meter(state)
        if state.is_world_process_zero:
            self.steps = Task(
                "training",
                state.max_steps,
                unit="steps",
                done=state.global_step,
                wait=0,
                lines=False,
            )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """One step further."""
        if self.steps is not None:
            self.steps.advance(state.global_step - self.steps.done)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        """One batch of held-out rows further."""
        if not state.is_world_process_zero:
            return
        if self.batches is None:
            total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
            self.batches = Task("held-out rows", total, unit="batches", wait=_PATIENCE)
        self.batches.advance()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """All held-out rows are done."""
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the figures."""
        logs = logs or {}
        if not state.is_world_process_zero:
            return
        if any(key.startswith(_HELD_OUT) for key in logs):
            self._show_evaluation(logs, state)
        elif self.meter is not None:
            self._show_step(logs, state, self.meter)

    def _show_evaluation(self, logs: Mapping[str, Any], state: TrainerState) -> None:
        texts = _figures(logs, {**_SHOWN, self.measure: self.measure}, _HELD_OUT)
        if not texts:
            return
        when = f"step {state.global_step}/{state.max_steps}"
        if self.meter is None:
            when = "after training" if state.global_step else self.untrained
        say(f"{when}  held-out " + " · ".join(texts))

    def _show_step(self, logs: Mapping[str, Any], state: TrainerState, meter: Meter) -> None:
        texts = _figures(logs, _SHOWN)
        if not texts:
            return
        timing = meter.read(logs)
        if "tokens_per_second" in timing:
            texts.append(f"{timing['tokens_per_second']:,.0f} tok/s")
        ended = state.global_step >= state.max_steps
        if not ended:
            texts.append(f"{clock(meter.left(state))} left")
        self.last = f"step {state.global_step}/{state.max_steps}  " + " · ".join(texts)
        if self.steps is not None and self.steps.bar is not None:
            self.steps.tell(" · ".join(texts))
        else:
            say(self.last)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the bar away, and leave its last figures."""
        if self.steps is not None and self.steps.bar is not None:
            self.steps.close()
            if self.last:
                say(self.last)
        self.meter = self.steps = None


def _figures(logs: Mapping[str, Any], shown: Mapping[str, str], prefix: str = "") -> list[str]:
    """The figures among the logs that are shown, each with its name and its standard error."""
    found: dict[str, str] = {}
    for key, name in shown.items():
        value = logs.get(prefix + key)
        if isinstance(value, int | float):
            error = logs.get(f"{prefix}{key}_stderr")
            sure = f" ± {error:.2g}" if isinstance(error, int | float) else ""
            found.setdefault(name, f"{name} {value:.4g}{sure}")
    return list(found.values())
