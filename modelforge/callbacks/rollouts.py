"""What is kept of the answers that a run learns from: a few of each rollout."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modelforge.common.files import forget_after
from modelforge.runs import files

ROWS = 4  # completions kept of each rollout
# What TRL gives a reward besides the columns of the data.
NOT_COLUMNS = frozenset(
    ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
) | {"environments"}


def _told(values: Any) -> bool:
    """Whether it is a column of plain values, which JSON can hold."""
    return isinstance(values, list) and isinstance(
        values[0] if values else None, str | int | float | list | dict
    )


class Rollouts(TrainerCallback):
    """Writes a few completions of each rollout that is logged to ``rollouts.jsonl``, once."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / files.ROLLOUTS
        self.model: Any = None
        self.latest: dict[str, list[Any]] = {}
        self.columns: dict[str, Any] = {}  # of the data
        self.scores: dict[str, list[Any]] = {}

    def recording(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The reward function, each of whose calls in training is kept until the next."""
        name: str = function.__name__

        def keep(asked: dict[str, Any], scores: Any) -> Any:
            if self.model is not None and self.model.training:
                self.latest = {"prompt": asked["prompts"], "completion": asked["completions"]}
                self.columns = {key: asked[key] for key in asked.keys() - NOT_COLUMNS}
                self.scores[name] = list(scores)
            return scores

        async def recorded_later(**kwargs: Any) -> Any:
            return keep(kwargs, await function(**kwargs))

        def recorded(**kwargs: Any) -> Any:
            return keep(kwargs, function(**kwargs))

        found = recorded_later if inspect.iscoroutinefunction(function) else recorded
        found.__name__ = name
        return found

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Drop what a resumed run is going to write again."""
        self.model = kwargs["model"]
        if state.is_world_process_zero:
            forget_after(self.path, state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the rows."""
        if not state.is_world_process_zero or "loss" not in (logs or {}) or not self.latest:
            return
        with self.path.open("a", encoding="utf-8") as file:
            for i in range(min(ROWS, len(self.latest["prompt"]))):
                row: dict[str, Any] = {"step": state.global_step}
                row |= {key: values[i] for key, values in self.latest.items()}
                row["columns"] = {
                    key: values[i] for key, values in self.columns.items() if _told(values)
                }
                row["rewards"] = {name: scores[i] for name, scores in self.scores.items()}
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        self.latest = {}  # a rollout serves several updates
