"""`modelforge plan`: what a run would need of a card, on any machine, before it runs."""

from __future__ import annotations

import gc
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import typer

from modelforge.cli.options import (
    AsJson,
    ConfigFile,
    NumProcesses,
    Overrides,
    TrustRemoteCode,
    print_json,
    with_processes,
    working,
)
from modelforge.errors import ConfigError, Problem, RunError, UserError

# PyTorch's own: functions that are given to the compiler stay as they are.
_NO_COMPILER = "TORCHDYNAMO_DISABLE"
_OBJECTS = 50_000


def plan(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    vram: Annotated[
        float | None, typer.Option("--vram", help="Plan for a card of this many GiB.", min=0.5)
    ] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="Plan for this card: rtx-4090, t4, a100-80gb.")
    ] = None,
    num_processes: NumProcesses = None,
    profile: Annotated[str | None, typer.Option("--profile", help="With its defaults.")] = None,
    as_it_is: Annotated[
        bool, typer.Option("--as-it-is", help="Change nothing to make it fit.")
    ] = False,
    cards: Annotated[
        bool, typer.Option("--cards", help="Of this config, what fits each card of the table.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Of this model, what of each strategy fits the card.")
    ] = False,
    price: Annotated[
        float | None, typer.Option("--price", help="Of the card for an hour: says the cost.", min=0)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what memory a run needs, part by part, and fit the config to a card."""
    overrides = with_processes(set_, num_processes)
    overrides += [] if profile is None else [f"hardware_profile={profile}"]
    # The card that is asked about takes the place of the budget for this machine's.
    overrides += [] if vram is None and gpu is None else ["memory_budget_gb=null"]
    with working(as_json=as_json), _in_a_hurry():
        _refuse_without_effect(
            "--cards" if cards else "--all" if every else "",
            {"--all": cards and every, "--as-it-is": as_it_is, "--price": price is not None,
             "--gpu": cards and gpu is not None, "--vram": cards and vram is not None},
        )  # fmt: skip
        from modelforge.cli.plan_shown import machine_of, plans
        from modelforge.configfile.load import load_config
        from modelforge.training.fit_to_card import said

        machine = machine_of(vram, gpu)
        loaded = load_config(config, overrides=overrides, trust_remote_code=trust_remote_code)
        try:
            shown = plans(loaded, machine, cards=cards, every=every, as_it_is=as_it_is, price=price)
        except UserError:
            raise
        except Exception as error:
            traceback.print_exc()  # ours to mend: what was asked for is the plan
            what = f"no plan can be made: {said(error)}"
            fix = "train without it (train only warns of it), and report the lines above"
            raise RunError(Problem(loaded.name, what, fix)) from error
    if as_json:
        print_json(shown)


@contextmanager
def _in_a_hurry() -> Iterator[None]:
    """Leave out what takes time and serves no plan.

    bitsandbytes asks for compiled functions when it is imported, and that imports torch's compiler.
    Python looks for garbage after every 700 objects, while the libraries make millions that stay.
    """
    compiles, thresholds = os.environ.get(_NO_COMPILER), gc.get_threshold()
    os.environ[_NO_COMPILER] = compiles or "1"
    gc.set_threshold(_OBJECTS, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        if compiles is None:
            del os.environ[_NO_COMPILER]


def _refuse_without_effect(table: str, others: Mapping[str, bool]) -> None:
    """See that no option stands beside a table that does not heed it.

    Raises:
        ConfigError: If one does.
    """
    problems = [
        Problem(option, f"has no effect with {table}", "leave one of them out")
        for option, given in others.items()
        if table and given
    ]
    if problems:
        raise ConfigError(*problems)
