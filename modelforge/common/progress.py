"""What takes long is seen to proceed: as a bar on a terminal, as a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from modelforge.common.console import are_heard, console, say

Item = TypeVar("Item")

WAIT = 1.0  # seconds after which work is shown that says nothing else
_LONGEST = 30.0  # seconds between two lines, at most
_REDRAWN = 0.1  # seconds between two looks at a bar, at least

_bars: Progress | None = None


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
        if self.bar is not None and _bars is not None:
            _bars.update(self.bar, text=text)

    def close(self) -> None:
        """Take the bar away."""
        global _bars
        if self.bar is None or _bars is None:
            return
        _bars.remove_task(self.bar)
        self.bar = None
        if not _bars.tasks:
            _bars.stop()
            _bars = None

    def _draw(self) -> None:
        global _bars
        if _bars is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
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
        if self.bar is None:
            self.bar = _bars.add_task(self.title, total=self.total, text=self.unit)
        _bars.update(self.bar, completed=self.done)

    def _line(self, seconds: float) -> str:
        if self.total is None:
            return f"{self.title}: {self.done:,} {self.unit}"
        line = f"{self.title}: {self.done:,} of {self.total:,} {self.unit}"
        made = self.done - self.first
        if not made:
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


def close_bars() -> None:
    """Take away every bar that an error has left."""
    global _bars
    if _bars is not None:
        _bars.stop()
        _bars = None


def clock(seconds: float) -> str:
    """Seconds as a reader takes them in: ``1:02:03`` or ``2:03``."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
