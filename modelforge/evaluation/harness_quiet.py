"""What lm-eval says while it runs: its errors, and that a prompt was cut; its bars are ours."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modelforge.common.libraries import take_over
from modelforge.common.progress import Task


class Heard(logging.Handler):
    """Passes on lm-eval's errors, and counts its warnings that a prompt was cut.

    Its other warnings are about how it is called, which is not the user's doing.
    """

    cuts = 0

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            logging.getLogger().handle(record)
        elif "runcat" in record.getMessage():
            self.cuts += 1


@contextmanager
def quiet() -> Iterator[Heard]:
    """Within it, lm-eval reports errors alone, and its bars are ours."""
    from lm_eval import evaluator
    from lm_eval.api import model, task
    from lm_eval.models import huggingface

    logger = logging.getLogger("lm_eval")
    level, propagates, heard = logger.level, logger.propagate, Heard()
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    logger.addHandler(heard)
    ours: dict[tuple[Any, str], Any] = {(m, "tqdm"): Bar for m in (model, task, huggingface)}
    # It asks git about the folder that the user stands in, whose error would be shown.
    ours[evaluator, "get_git_commit_hash"] = lambda: None
    theirs = {(module, name): vars(module).get(name) for module, name in ours}
    _put(ours)
    take_over()  # what was just imported would draw bars
    try:
        yield heard
    finally:
        logger.removeHandler(heard)
        logger.propagate = propagates
        logger.setLevel(level)
        _put(theirs)


def _put(values: Mapping[tuple[Any, str], Any]) -> None:
    for (module, name), value in values.items():
        vars(module)[name] = value


class Bar:
    """What lm-eval uses of tqdm."""

    def __init__(
        self, items: Sequence[Any] = (), total: int | None = None, desc: str = "", **_: Any
    ) -> None:
        self.items = items
        title = desc.removeprefix("Running ") or "preparing"
        self.task = Task(title, total if total is not None else len(items), unit="requests")

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            yield item
            self.update()
        self.close()

    def update(self, count: int = 1) -> None:
        self.task.advance(count)

    def close(self) -> None:
        self.task.close()
