"""What a run says while it runs. Goes to stderr, so that ``--json`` owns stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from modelforge.common.processes import is_main
from modelforge.errors import UserError
from modelforge.redact import redact

# Of several processes one speaks.
console = Console(stderr=True, highlight=False, quiet=not is_main())


def quieten() -> None:
    """Silence the bars and advice of the libraries below: the command says what matters itself.

    For the command only, before they are imported: they read these variables then. A program
    that uses the library decides for itself what it hears.
    """
    import logging
    import os
    import warnings

    for name in ("HF_DATASETS_DISABLE_PROGRESS_BARS", "HF_HUB_DISABLE_PROGRESS_BARS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module="torch")


def say(text: str) -> None:
    """One line, as it is but for secrets."""
    console.print(escape(redact(text)), soft_wrap=True)


def headline(text: str) -> None:
    """The start of a new part of the run."""
    console.print(f"\n[bold]{escape(text)}[/bold]", soft_wrap=True)


def show_table(titles: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows in columns; long cells are folded."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)


def show_error(error: UserError) -> None:
    """Every problem, each with its place and what to set instead."""
    count = len(error.problems)
    console.print(f"[bold red]{count} problem{'s' if count > 1 else ''}[/bold red]")
    for problem in error.problems:
        line = f"  [bold]{escape(problem.where)}[/bold]: {escape(problem.what)}"
        if problem.fix:
            line += f"\n    → {escape(problem.fix)}"
        console.print(line, soft_wrap=True)
