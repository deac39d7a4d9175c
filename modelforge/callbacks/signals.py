"""Ctrl-C and SIGTERM: a run ends after the step it is in, saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.common.console import say
from modelforge.common.processes import anyone


class Stopper(TrainerCallback):
    """Ends a run after the current step when a signal asks; the run is saved and can be resumed."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM; a second SIGINT stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}

        def ask(number: int, frame: FrameType | None) -> None:
            self.asked = True
            signal.signal(signal.SIGINT, signal.default_int_handler)
            say("the run stops after this step and can be resumed (ctrl-C again stops it at once)")

        for number in numbers:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Save and stop, if asked: all processes after the same step."""
        self.asked = anyone(self.asked)
        if self.asked and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
