"""`modelforge plan`: what a run would need of a card, on any machine, before it runs."""

from __future__ import annotations

import traceback
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
from modelforge.common.console import headline, say
from modelforge.config import Config
from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError, Problem, RunError, UserError
from modelforge.machine.cards import card_named
from modelforge.machine.hardware import Hardware
from modelforge.machine.launch import processes_of
from modelforge.plan import Plan
from modelforge.plan import plan as plan_run
from modelforge.plan.calibration import recall
from modelforge.plan.planner import card
from modelforge.runs.folder import choices_json
from modelforge.training.fit import fit
from modelforge.training.fit_to_card import said
from modelforge.training.prepare import show_choices
from modelforge.training.read import Read, read
from modelforge.training.resolve import Resolved, resolve


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
    as_json: AsJson = False,
) -> None:
    """Say what memory a run needs, part by part, and fit the config to a card."""
    overrides = with_processes(set_, num_processes)
    overrides += [] if profile is None else [f"hardware_profile={profile}"]
    # The card that is asked about takes the place of the budget for this machine's.
    overrides += [] if vram is None and gpu is None else ["memory_budget_gb=null"]
    with working(as_json=as_json):
        machine = _machine(vram, gpu)
        loaded = load_config(config, overrides=overrides, trust_remote_code=trust_remote_code)
        try:
            planned, filled = show_plan(loaded, machine=machine, as_it_is=as_it_is)
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            traceback.print_exc()  # ours to mend: what was asked for is the plan
            what = f"no plan can be made: {said(error)}"
            fix = "train without it (train only warns of it), and report the lines above"
            raise RunError(Problem(loaded.name, what, fix)) from error
    if as_json:
        print_json(planned.to_dict() | {"choices": choices_json(filled)["choices"]})


def _machine(vram: float | None, gpu: str | None) -> Hardware | None:
    """The machine that is asked about; None for this one.

    Raises:
        ConfigError: If both are given, or no card has that name.
    """
    if gpu is None:
        return None if vram is None else card(vram)
    if vram is not None:
        what = "--vram and --gpu both say which card to plan for"
        raise ConfigError(Problem("--gpu", what, "give one of them"))
    return card_named(gpu).hardware


def show_plan(
    config: Config, *, machine: Hardware | None = None, as_it_is: bool = False
) -> tuple[Plan, Config]:
    """Plan a run; with a budget, fit what the user left open to it.

    Args:
        config: As loaded; no weights are needed. Where the data cannot be read, rows of the full
            length take their place.
        machine: Plan for this one in place of the one that this runs on.
        as_it_is: Only say what the config needs, and change nothing.

    Returns:
        The plan, and the config with every value filled in.

    Raises:
        UserError: If nothing fits the budget, or the model's shape cannot be found.
    """
    resolved = resolve(config, planned_for=machine, planning=True)
    fitted = fit(resolved, _rows(resolved), as_it_is=as_it_is)
    planned, config, hardware = fitted.plan, fitted.config, resolved.hardware
    if planned is None:  # no budget to keep
        planned = plan_run(
            config,
            budget_gb=config.settings.memory_budget_gb or hardware.usable_gb or None,
            hardware=hardware,
            num_processes=processes_of(config),
            calibration=recall(hardware),
        )
        headline(f"Plan: {planned.strategy} of {planned.model}")
        for line in planned.lines():
            say(line)
    show_choices(config.choices)
    return planned, config


def _rows(resolved: Resolved) -> Read | None:
    """The rows, where model and data are here to be read."""
    try:
        return read(resolved)
    except UserError as error:
        problem = error.problems[0]
        say(f"note: no row can be read, so each is taken to have max_seq_length tokens. {problem}")
        return None
