"""What takes long is seen to proceed: as a bar on a terminal, as a line now and then elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.progress import BarColumn, Progress, TaskID, TextColumn

from modelforge.common.console import are_heard, console, say

Item = TypeVar("Item")

WAIT = 1.0  # seconds after which work is shown that says nothing else
_LONGEST = 30.0  # seconds between two lines, at most
_REDRAWN = 0.1  # seconds between two looks at a bar, at least
_BEAT = 0.25  # seconds between two looks at work that counts nothing

_bars: Progress | None = None
_lock = threading.RLock()  # of the bars: those of `doing` are drawn by another thread
_moving: TaskID | None = None  # the bar of `doing`
_doing: list[str] = []  # what is under way and counts nothing; the last one is shown


def on_terminal() -> bool:
    """Whether bars can be drawn: on a terminal, and where a program has not silenced notes."""
    return sys.stderr.isatty() and not console.is_dumb_terminal and are_heard()


class Task:
    """Work whose progress is shown until `close`.

    Args:
        title: What is done: ``reading rows.jsonl``.
        total: How many units there are; None where nobody knows.
        unit: What is counted, in the plural.
        done: How many are done already.
        wait: Seconds after which it is shown; shorter work is never seen. By default `WAIT`.
        lines: Whether lines are said where there is no terminal.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        *,
        unit: str = "rows",
        done: int = 0,
        wait: float | None = None,
        lines: bool = True,
    ) -> None:
        self.title, self.total, self.unit, self.done = title, total, unit, done
        self.lines = lines
        self.begin = time.monotonic()
        self.first = done
        self.next = (
            WAIT if wait is None else wait
        )  # seconds after the beginning at which it is looked at again
        self.bar: TaskID | None = None
        if wait == 0:
            self.advance(0)

    def advance(self, count: int = 1) -> None:
        """Count what was done, and show it if it is time."""
        self.done += count
        seconds = time.monotonic() - self.begin
        if seconds < self.next:
            return
        if on_terminal():
            self.next = seconds + _REDRAWN
            self._draw()
        elif self.lines:
            # After 1 second, then after 2, 4, 8, …
            self.next = seconds + min(max(seconds, 1.0), _LONGEST)
            say(self._line(seconds))

    def tell(self, text: str) -> None:
        """Show figures beside the bar, where there is one."""
        with _lock:
            if self.bar is not None and _bars is not None:
                _bars.update(self.bar, text=text)

    def close(self) -> None:
        """Take the bar away."""
        with _lock:
            if self.bar is not None and _bars is not None:
                _remove(self.bar)
                self.bar = None

    def _draw(self) -> None:
        with _lock:
            if self.bar is None:
                _still()
                self.bar = _shown().add_task(self.title, total=self.total, count="", text=self.unit)
            bars = _shown()
            count = f"{self.done}/{'?' if self.total is None else self.total}"
            bars.update(self.bar, completed=self.done, count=count)

    def _line(self, seconds: float) -> str:
        if self.total is None:
            return f"{self.title}: {self.done:,} {self.unit}"
        line = f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"
        made = self.done - self.first
        if made * 100 < self.total:  # the first ones tell little: they come after a warm-up
            return line
        return f"{line}, {clock(seconds / made * (self.total - self.done))} left"


def track(
    items: Iterable[Item], title: str, total: int | None, *, unit: str = "rows"
) -> Iterator[Item]:
    """The items, with the progress shown that their user makes with them.

    Args:
        items: Anything that can be iterated over.
        title: What is done with them.
        total: How many there are; None where nobody knows.
        unit: What they are, in the plural.
    """
    task = Task(title, total, unit=unit)
    try:
        for item in items:
            yield item
            task.advance()
    finally:
        task.close()


@contextmanager
def doing(title: str) -> Iterator[None]:
    """Within it a terminal has a moving bar, whenever no bar that counts is there.

    For work of which nobody knows how far it is, such as imports or a plan. It can stand within
    itself; the inner title is shown.
    """
    first = not _doing and on_terminal()
    _doing.append(title)
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(ended,), daemon=True)
    if first:
        beat.start()
    try:
        yield
    finally:
        if first:
            ended.set()
            beat.join()
        _doing.pop()


def hand_over() -> None:
    """From now on libraries draw bars of their own: the outermost `doing` shows nothing more."""
    if _doing:
        _doing[0] = ""


def _beat(ended: threading.Event) -> None:
    global _moving
    title, since = "", time.monotonic()
    while not ended.wait(_BEAT):
        now = time.monotonic()
        with _lock:
            others = _bars is not None and any(task.id != _moving for task in _bars.tasks)
            if others or title != _doing[-1] or not title:
                _still()
                title, since = _doing[-1], now
            elif now - since >= WAIT:
                bars = _shown()
                if _moving is None:
                    _moving = bars.add_task(title, total=None, count="", text="")
                bars.update(_moving, text=clock(now - since))
    with _lock:
        _still()


def _still() -> None:
    """Take the bar of `doing` away. The lock is held."""
    global _moving
    if _moving is not None:
        _remove(_moving)
        _moving = None


def _shown() -> Progress:
    """The bars, shown from now on. The lock is held."""
    global _bars
    if _bars is None:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[text]}"),
        )
        # A library's line on stdout must not end up on stderr: only a terminal is shared.
        _bars = Progress(
            *columns,
            console=console,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=sys.stdout.isatty(),
        )
        _bars.start()
    return _bars


def _remove(bar: TaskID) -> None:
    """Take one bar away, and with the last one all that draws. The lock is held."""
    global _bars
    if _bars is not None:
        if bar in _bars.task_ids:
            _bars.remove_task(bar)
        if not _bars.tasks:
            _bars.stop()
            _bars = None


def close_bars() -> None:
    """Take away every bar that an error has left."""
    global _bars, _moving
    with _lock:
        if _bars is not None:
            _bars.stop()
            _bars = _moving = None


def clock(seconds: float) -> str:
    """Seconds as a reader takes them in: ``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
