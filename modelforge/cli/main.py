"""The command ``modelforge``. Thin: it reads arguments, calls the library, sets the exit code.

Exit codes: 0 done, 2 the user's input, 75 stopped by a signal and resumable, 1 our fault (with a
traceback). Of `compare --gate` 1 means worse, and 3 too few rows.
"""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from modelforge.cli.benchmark import benchmark
from modelforge.cli.collect import collect
from modelforge.cli.compare import compare
from modelforge.cli.data import data
from modelforge.cli.demo import demo
from modelforge.cli.dial import dial
from modelforge.cli.docs import docs
from modelforge.cli.doctor import doctor
from modelforge.cli.evaluate import evaluate
from modelforge.cli.export import export, verify
from modelforge.cli.feedback import feedback_export, feedback_import, feedback_stats
from modelforge.cli.init import init
from modelforge.cli.judge import audit
from modelforge.cli.lists import profiles, schema, strategies
from modelforge.cli.options import Quiet, Verbose, print_json
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
from modelforge.common.console import say, show_error, speaking
from modelforge.common.garbage import no_last_look
from modelforge.common.processes import is_main
from modelforge.errors import ConfigError, Interrupted, Problem, RunError, UserError
from modelforge.machine.environment import prepare_environment

app = typer.Typer(
    name="modelforge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes take half of the time of `--help`
)


def _answering(command: Callable[..., None]) -> Callable[..., None]:
    """The command; a user's mistake is one clear message, or JSON where that was asked for."""

    @functools.wraps(command)
    def answering(*, quiet: bool, verbose: bool, **options: Any) -> None:
        try:
            with speaking(quiet=quiet, verbose=verbose):
                command(**options)
        except UserError as error:
            _leave(2)
            if is_main():  # it speaks for all processes
                if options.get("as_json"):
                    print_json({"problems": [vars(problem) for problem in error.problems]})
                else:
                    show_error(error)
            sys.exit(2)
        except Interrupted as stopped:
            _leave(stopped.exit_code)
            if options.get("as_json") and is_main():
                print_json({"interrupted": {"run_dir": str(stopped.run_dir), "step": stopped.step}})
            say(str(stopped))
            sys.exit(stopped.exit_code)

    own = inspect.signature(command, eval_str=True)
    both = (
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=option)
        for name, option in (("quiet", Quiet), ("verbose", Verbose))
    )
    # typer reads it in place of the parameters of `answering`.
    cast(Any, answering).__signature__ = own.replace(parameters=[*own.parameters.values(), *both])
    return answering


def _leave(code: int) -> None:
    from modelforge.machine.launch import leave_exit_code

    leave_exit_code(code)


_COMMANDS: tuple[Callable[..., None], ...] = (
    *(train, tune, sweep, check, plan, data, dial, generate, chat, export, verify, serve),
    *(evaluate, compare, benchmark, report, runs, row, watch, board, collect, redteam),
    *(validate, play, replay),
    *(init, strategies, profiles, schema, docs, doctor, demo),
)
for _command in _COMMANDS:
    # A first sentence that is given is wrapped in the list, and not cut off.
    _first = (inspect.getdoc(_command) or "").partition("\n\n")[0].replace("\n", " ")
    app.command(short_help=_first.partition(". ")[0].rstrip("."))(_answering(_command))
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


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"modelforge {version('modelforge-trl')}")
        raise typer.Exit


@app.callback()
def _of_all(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """One JSON file in; one trained, measured model out."""


@_judge.callback()
def _of_judge() -> None:
    """Whether a judge of answers can be trusted."""


@_feedback.callback()
def _of_feedback() -> None:
    """What people say of answers, kept by `modelforge collect` and `modelforge serve`."""


def main() -> None:
    """Entry point."""
    prepare_environment()
    code: Any = 0
    try:
        app(_words(sys.argv[1:]), prog_name="modelforge")
    except SystemExit as end:
        code = end.code
    except OSError:
        # It may be of any file; stdout is at fault if it takes no line break either.
        if (refused := _refused("\n")) is None:
            raise
        code = _unprinted(refused)
    if (refused := _refused()) is not None:
        code = _unprinted(refused)
    no_last_look()
    sys.exit(code)


def _refused(more: str = "") -> OSError | None:
    """Why stdout does not take what was printed, and this behind it; None if it does."""
    if sys.stdout is None:  # it was closed before the command began
        return None
    try:
        sys.stdout.write(more)
        sys.stdout.flush()
    except OSError as error:
        # Python flushes it once more when it ends, which would print a traceback.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        return error
    return None


def _unprinted(error: OSError) -> int:
    """Say that what was printed was not written; the code to end with.

    Whoever closes a pipe, as `head` does, has all that was wanted, and is told nothing.
    """
    if error.errno == errno.EPIPE:
        return 1
    what = f"cannot be written to: {error.strerror}"
    show_error(RunError(Problem("stdout", what, "free some space, or write to another place")))
    return 2


def _words(said: Sequence[str]) -> list[str]:
    """The command line in our words; what other tools write before a config is left out.

    `train --config c.yaml` means `train c.yaml`. A strategy is no command; the answer names one.
    """
    words = [word.removeprefix("--config=") for word in said if word != "--config"]
    name = next((word for word in words if not word.startswith("-")), "")
    known = {getattr(c.callback, "__name__", "") for c in app.registered_commands}
    if name and name not in known | {group.name for group in app.registered_groups}:
        from modelforge.configfile.classes import strategy_named

        if strategy := strategy_named(name):
            fix = f'`modelforge train CONFIG` with "strategy": "{strategy}" in it'
            fix += f"; `modelforge init {strategy}` writes one"
            show_error(ConfigError(Problem(f"modelforge {name}", "is no command", fix)))
            sys.exit(2)
    return words


if __name__ == "__main__":
    main()
