"""What a run left, for a program that goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from modelforge.runs import files
from modelforge.runs.folder import RunDir


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        run_dir: The run's folder.
        model_dir: The trained adapter (or model) with its tokenizer.
        before: Held-out figures of the model the run began with.
        after: The same of the trained model.
        resumed_from: The checkpoint that the run resumed from, or None.
        load: Reads model and tokenizer of a run's folder, as `model` and `tokenizer` give them.
    """

    run_dir: Path
    model_dir: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    resumed_from: Path | None = None
    load: Callable[[Path], tuple[Any, Any]] | None = field(default=None, repr=False, compare=False)

    @property
    def model(self) -> Any:
        """The trained model as it was saved, in evaluation mode; loaded when first asked for."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer, with its chat template."""
        return self._loaded[1]

    @property
    def history(self) -> list[dict[str, Any]]:
        """What the trainer logged, in order: each row has ``step``, and figures by name."""
        return RunDir(self.run_dir).read_lines(files.METRICS)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        assert self.load is not None, "a run that ended gave it"
        return self.load(self.run_dir)
