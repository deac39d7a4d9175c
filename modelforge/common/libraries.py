"""What the libraries below say: each thing once, through the logger ``modelforge``."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from modelforge.common.console import relay
from modelforge.common.progress import close_bars, hand_over, on_terminal

_LOGGERS = (
    "accelerate",
    "bitsandbytes",
    "datasets",
    "huggingface_hub",
    "peft",
    "transformers",
    "trl",
)

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# A row of transformers' table of what a checkpoint does not hold as the model does.
_ROW = re.compile(r"^(\S+) +\| +(\w+)", re.MULTILINE)
_NEW_HEAD = ("score.weight", "MISSING")
_EXPECTED = {_NEW_HEAD, ("lm_head.weight", "UNEXPECTED"), ("Key", "Status")}

_said: set[str] = set()
_undo: list[Callable[[], None]] = []
_inside = False


@contextmanager
def libraries_heard() -> Iterator[None]:
    """Within it, warnings and log lines of libraries are said once, and their bars are not doubled.

    All is as it was afterwards. It can stand within itself.
    """
    global _inside
    if _inside:
        take_over()
        yield
        return
    before = warnings.showwarning
    warnings.showwarning = _warned
    _inside = True
    try:
        take_over()
        yield
    finally:
        _inside = False
        warnings.showwarning = before
        while _undo:
            _undo.pop()()
        _said.clear()
        close_bars()


def take_over() -> None:
    """Take the place of the handlers that write to stderr, and put away bars.

    A library makes its handler when it is imported, so this is called again after imports. Outside
    of `libraries_heard` it does nothing.
    """
    if not _inside:
        return
    for name in _LOGGERS:
        _take_handlers(logging.getLogger(name))
    if "datasets" in sys.modules:
        import datasets

        if datasets.are_progress_bars_disabled() is False:
            datasets.disable_progress_bars()
            _undo.append(datasets.enable_progress_bars)
    if "transformers" not in sys.modules:
        return
    # A download is worth a bar, where there is a terminal for it.
    if on_terminal():
        hand_over()
    else:
        from transformers.utils import logging as theirs

        if theirs.is_progress_bar_enabled():
            theirs.disable_progress_bar()
            _undo.append(theirs.enable_progress_bar)


def _take_handlers(logger: logging.Logger) -> None:
    if not any(isinstance(handler, _Relay) for handler in logger.handlers):
        relaying = _Relay()
        logger.addHandler(relaying)
        _undo.append(partial(logger.removeHandler, relaying))
    for handler in list(logger.handlers):
        # Their own, and no program's that writes to a file.
        if type(handler) is logging.StreamHandler and _is_stderr(handler.stream):
            logger.removeHandler(handler)
            _undo.append(partial(logger.addHandler, handler))


def _is_stderr(stream: Any) -> bool:
    return stream in (sys.stderr, sys.__stderr__) or getattr(stream, "name", "") == "<stderr>"


class _Relay(logging.Handler):
    """Says another library's line through our logger."""

    def emit(self, record: logging.LogRecord) -> None:
        library = record.name.partition(".")[0]
        level, text = record.levelno, _COLOURS.sub("", record.getMessage()).strip()
        rows = set(_ROW.findall(text))
        if _NEW_HEAD in rows and rows <= _EXPECTED:
            level, text = logging.INFO, "the base has no score head: a new one starts at random"
        if _is_new(f"{library}: {text}"):
            mark = "warning: " if level >= logging.WARNING else ""
            relay(level, f"{mark}{library}: {text}")


def _warned(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """In place of `warnings.showwarning`."""
    text = " ".join(str(message).split())
    if _is_new(f"{category.__name__}: {text}"):
        relay(logging.WARNING, f"warning: {text} ({category.__name__})")


def _is_new(text: str) -> bool:
    """Whether it was not said yet; lines that differ in numbers alone are the same."""
    key = re.sub(r"\d+", "", text)
    if key in _said:
        return False
    _said.add(key)
    return True
