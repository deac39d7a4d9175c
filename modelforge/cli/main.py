"""The command ``modelforge``. Thin: it reads arguments, calls the library, sets the exit code.

Exit codes: 0 done, 2 the user's input, 75 stopped by a signal and resumable, 1 our fault (with a
traceback). Of `compare --gate` 1 means worse, and 3 too few rows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import typer

from modelforge.cli.collect import collect
from modelforge.cli.compare import compare
from modelforge.cli.data import data
from modelforge.cli.demo import demo
from modelforge.cli.dial import dial
from modelforge.cli.doctor import doctor
from modelforge.cli.evaluate import evaluate
from modelforge.cli.export import export, verify
from modelforge.cli.feedback import feedback_export, feedback_import, feedback_stats
from modelforge.cli.judge import audit
from modelforge.cli.lists import init, profiles, schema, strategies
from modelforge.cli.options import print_json
from modelforge.cli.pairs import feedback_pairs
from modelforge.cli.plan import plan
from modelforge.cli.redteam import redteam
from modelforge.cli.report import report, runs
from modelforge.cli.rewards import play, replay, validate
from modelforge.cli.row import row
from modelforge.cli.serve import serve
from modelforge.cli.sweep import sweep
from modelforge.cli.train import check, train
from modelforge.cli.tune import tune
from modelforge.cli.use import chat, generate
from modelforge.cli.watch import board, watch
from modelforge.common.console import say, show_error
from modelforge.common.processes import is_main
from modelforge.errors import Interrupted, UserError
from modelforge.machine.environment import prepare_environment
from modelforge.machine.launch import leave_exit_code

app = typer.Typer(
    name="modelforge",
    help="One JSON file in; one trained, measured model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _answering(command: Callable[..., None]) -> Callable[..., None]:
    """The command; a user's mistake is one clear message, or JSON where that was asked for."""

    @functools.wraps(command)
    def answering(**options: Any) -> None:
        try:
            command(**options)
        except UserError as error:
            leave_exit_code(2)
            if is_main():  # it speaks for all processes
                if options.get("as_json"):
                    print_json({"problems": [vars(problem) for problem in error.problems]})
                else:
                    show_error(error)
            sys.exit(2)
        except Interrupted as stopped:
            leave_exit_code(stopped.exit_code)
            if options.get("as_json") and is_main():
                print_json({"interrupted": {"run_dir": str(stopped.run_dir), "step": stopped.step}})
            say(str(stopped))
            sys.exit(stopped.exit_code)

    return answering


_COMMANDS: tuple[Callable[..., None], ...] = (
    *(train, tune, sweep, check, plan, data, dial, generate, chat, export, verify, serve),
    *(evaluate, compare, report, runs, row, watch, board, collect, redteam),
    *(validate, play, replay),
    *(init, strategies, profiles, schema, doctor, demo),
)
for _command in _COMMANDS:
    app.command()(_answering(_command))
_judge = typer.Typer(help="Judges of answers.", no_args_is_help=True)
_judge.command()(_answering(audit))
app.add_typer(_judge, name="judge")
_feedback = typer.Typer(help="What people say of answers.", no_args_is_help=True)
for _name, _command in (
    ("stats", feedback_stats),
    ("export", feedback_export),
    ("import", feedback_import),
    ("pairs", feedback_pairs),
):
    _feedback.command(name=_name)(_answering(_command))
app.add_typer(_feedback, name="feedback")


@_judge.callback()
def _of_judge() -> None:
    """Whether a judge of answers can be trusted."""


@_feedback.callback()
def _of_feedback() -> None:
    """What people say of answers, kept by `modelforge collect` and `modelforge serve`."""


def main() -> None:
    """Entry point."""
    prepare_environment()
    app()


if __name__ == "__main__":
    main()
