"""What a run says while it runs. Goes to stderr, so that ``--json`` owns stdout."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleRenderable
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from modelforge.common.processes import is_main
from modelforge.errors import ConfigError, Problem, UserError
from modelforge.redact import redact

# Of several processes one speaks.
console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=not is_main())


class PlainLines(RichHandler):
    """Shows a message alone, without time or level; or what it looks like on a terminal."""

    def render(
        self, *, message_renderable: ConsoleRenderable, record: logging.LogRecord, **kwargs: object
    ) -> ConsoleRenderable:
        """The record's ``look``, where it has one."""
        look: ConsoleRenderable = getattr(record, "look", message_renderable)
        return look


def _logger() -> logging.Logger:
    """Where all is said: below the logger ``modelforge``, which a program sets as it likes."""
    house = logging.getLogger("modelforge")
    house.addHandler(PlainLines(console=console, highlighter=NullHighlighter(), keywords=[]))
    house.propagate = False
    if house.level == logging.NOTSET:
        house.setLevel(logging.INFO)
    logger = logging.getLogger(__name__)
    # Where a program took the handler away, logging would print warnings by itself but for this.
    logger.addHandler(logging.NullHandler())
    logger.addFilter(lambda record: is_main())
    return logger


_log = _logger()
_KEY = 30  # letters of the longest key of a config, or so


def quieten() -> None:
    """Silence the bars and advice of the libraries below: the command says what matters itself.

    On a terminal the hub's bars stay, since a download can take minutes.

    For the command only, before they are imported: they read these variables then. A program
    that uses the library decides for itself what it hears.
    """
    import os
    import warnings

    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


@contextmanager
def speaking(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """Within it a command says what it was asked to: warnings alone, or details too.

    Raises:
        ConfigError: If it was asked for both.
    """
    if quiet and verbose:
        raise ConfigError(Problem("--quiet", "contradicts --verbose", "leave one of them out"))
    house = logging.getLogger("modelforge")
    before = house.level
    if quiet or verbose:
        house.setLevel(logging.WARNING if quiet else logging.DEBUG)
    try:
        yield
    finally:
        house.setLevel(before)


def are_heard() -> bool:
    """Whether notes are shown here: by the main process, and not silenced or taken elsewhere."""
    house = logging.getLogger("modelforge")
    ours = any(isinstance(handler, PlainLines) for handler in house.handlers)
    return ours and is_main() and _log.isEnabledFor(logging.INFO)


def is_verbose() -> bool:
    """Whether details are shown: ``--verbose``, or a program's level DEBUG."""
    return _log.isEnabledFor(logging.DEBUG)


def relay(level: int, text: str) -> None:
    """A line of another library, at the level it has there."""
    _log.log(level, "%s", redact(text))


def say(text: str) -> None:
    """One line, as it is but for secrets."""
    _log.info("%s", redact(text))


def warn(text: str, *, step: int | None = None) -> None:
    """One line of what may be wrong, and at which step of the training."""
    at = "" if step is None else f", step {step}"
    _log.warning("%s", redact(f"warning{at}: {text}"))


def headline(text: str) -> None:
    """The start of a new part of the run."""
    text = redact(text)
    _log.info("%s", text, extra={"look": Text.assemble("\n", (text, "bold"))})


def show_line(line: Text) -> None:
    """A line in colours; a long one is folded."""
    line.no_wrap, line.overflow = False, "fold"
    _log.info("%s", line.plain, extra={"look": line})


def show_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows in columns; long cells are folded, and a key in the first one is not."""
    table = Table(box=None, pad_edge=False)
    cells = [[redact(str(cell)) for cell in row] for row in rows]
    longest = max((len(row[0]) for row in cells), default=0)
    for column, title in enumerate(titles):
        table.add_column(
            title, overflow="fold", min_width=min(longest, _KEY) if not column else None
        )
    for row in cells:
        table.add_row(*map(escape, row))
    plain = "\n".join("  ".join(row) for row in (titles, *cells))
    _log.info("%s", plain, extra={"look": table})


def show_error(error: UserError) -> None:
    """Every problem, each with its place and what to set instead."""
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count > 1 else ''}[/bold red]")
    for problem in error.problems:
        line = f"  [bold]{escape(problem.where)}[/bold]: {escape(problem.what)}"
        if problem.fix:
            line += f"\n    → {escape(problem.fix)}"
        console.print(line)
