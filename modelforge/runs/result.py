"""What a run left, for a program that goes on with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
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
    def metrics(self) -> Mapping[str, float]:
        """The held-out figures of the trained model: the same as ``after``."""
        return self.after

    def _repr_html_(self) -> str | None:
        """In a notebook: the run's report, in a frame of its own that runs no script."""
        page = self.run_dir / files.REPORT
        if not page.is_file():
            return None
        text, title = (escape(t) for t in (page.read_text(encoding="utf-8"), self.run_dir.name))
        style = "width: 100%; height: 42rem; border: 0"
        return f'<iframe title="{title}" sandbox srcdoc="{text}" style="{style}"></iframe>'

    @property
    def history(self) -> list[dict[str, Any]]:
        """What the trainer logged, in order: each row has ``step``, and figures by name."""
        return RunDir(self.run_dir).read_lines(files.METRICS)

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        assert self.load is not None, "a run that ended gave it"
        return self.load(self.run_dir)
