"""What `modelforge plan` shows: one plan with its time and what else fits, or a table of many.

Beside `modelforge.cli.plan`, so that the options of every command are known without what plans.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from modelforge.common.console import headline, say, show_table
from modelforge.config import Config
from modelforge.errors import ConfigError, Problem, UserError
from modelforge.machine.cards import card_named
from modelforge.machine.hardware import Hardware, detect_hardware
from modelforge.machine.launch import processes_of
from modelforge.plan import Plan
from modelforge.plan import plan as plan_run
from modelforge.plan.calibration import recall
from modelforge.plan.frontier import frontier, lines
from modelforge.plan.planner import card
from modelforge.plan.result import GIB
from modelforge.runs.folder import choices_json
from modelforge.training.fit import fit
from modelforge.training.many_plans import Outcome, over_cards, over_strategies
from modelforge.training.prepare import show_choices
from modelforge.training.read import Read, read
from modelforge.training.resolve import Resolved, resolve


def machine_of(vram: float | None, gpu: str | None) -> Hardware | None:
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


def plans(
    config: Config,
    machine: Hardware | None,
    *,
    cards: bool,
    every: bool,
    as_it_is: bool,
    price: float | None,
) -> Any:
    """Show one plan, or a table of ``cards`` or of ``every`` strategy; the same for ``--json``."""
    if cards or every:
        return [outcome.to_dict() for outcome in show_many(config, machine, cards=cards)]
    planned, filled, beside = show_plan(config, machine=machine, as_it_is=as_it_is, price=price)
    return planned.to_dict() | beside | {"choices": choices_json(filled)["choices"]}


def show_plan(
    config: Config,
    *,
    machine: Hardware | None = None,
    as_it_is: bool = False,
    price: float | None = None,
) -> tuple[Plan, Config, dict[str, Any]]:
    """Plan a run; with a budget, fit what the user left open to it.

    Args:
        config: As loaded; no weights are needed. Where the data cannot be read, rows of the full
            length take their place.
        machine: Plan for this one in place of the one that this runs on.
        as_it_is: Only say what the config needs, and change nothing.
        price: Of the card, for an hour.

    Returns:
        The plan, the config with every value filled in, and what stands beside the plan: the
        ``frontier``, and where they are known ``hours`` and ``cost``.

    Raises:
        UserError: If nothing fits the budget, or the model's shape cannot be found.
    """
    resolved = resolve(config, planned_for=machine, planning=True)
    rows = _rows(resolved)
    fitted = fit(resolved, rows, as_it_is=as_it_is)
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
    beside = hours(
        planned, config, rows=None if rows is None else len(rows.data.train), price=price
    )
    if "hours" in beside:
        cost = f", {beside['cost']:.2f} at {price:g} an hour" if "cost" in beside else ""
        say(f"{beside['steps']} steps, about {beside['hours']:.1f} hours{cost}")
    places = () if as_it_is else frontier(config, planned, hardware)
    for line in lines(places):
        say(line)
    show_choices(config)
    return planned, config, beside | {"frontier": [asdict(place) for place in places]}


def hours(
    planned: Plan, config: Config, *, rows: int | None, price: float | None
) -> dict[str, float]:
    """Steps, hours and cost of a whole run; what is not known is left out."""
    said = config.get("max_steps") or -1
    steps = said if said > 0 else 0
    if not steps and rows is not None:
        each = config.micro_batch * (config.get("gradient_accumulation_steps") or 1)
        per_epoch = -(-rows // (each * processes_of(config)))
        steps = round(per_epoch * (config.get("num_train_epochs") or 1))
    untold = "generation" in planned.phases and planned.seconds_between is None
    if not steps or planned.seconds_per_step is None or untold:
        return {}
    took = steps * planned.seconds_per_step / 3600
    return {"steps": steps, "hours": took} | ({} if price is None else {"cost": took * price})


def show_many(config: Config, machine: Hardware | None, *, cards: bool) -> list[Outcome]:
    """One config over all cards, or all strategies of its model on one card, as a table."""
    if cards:
        headline(f"{config.settings.strategy} of {config.settings.model_name}, on each card")
        outcomes = over_cards(config)
    else:
        hardware = machine or detect_hardware()
        budget = config.settings.memory_budget_gb or hardware.usable_gb
        if not budget:
            fix = "name a card: --gpu rtx-4090 or --vram 24"
            raise ConfigError(Problem("--all", "this machine has no CUDA card", fix))
        headline(f"{config.settings.model_name} on {hardware.device_name} ({budget:g} GiB)")
        outcomes = over_strategies(config, hardware, budget)
    titles = ("card" if cards else "strategy", "GiB", "takes", "length", "rows", "weights", "")
    show_table(titles, map(_row, outcomes))
    say("estimates by short models; `modelforge plan --gpu NAME` simulates the whole one")
    return outcomes


def _row(outcome: Outcome) -> tuple[str, ...]:
    if outcome.config is None:
        return outcome.name, f"{outcome.budget_gb:g}", "-", "", "", "", outcome.why
    fitted = outcome.config
    rows = f"{fitted.micro_batch} × {fitted.get('gradient_accumulation_steps') or 1}"
    bits = "4-bit" if fitted.get("use_4bit") else "8-bit" if fitted.get("use_8bit") else "16-bit"
    more = ["checkpointing"] if fitted.get("gradient_checkpointing") else []
    more += ["paged states"] if str(fitted.get("optim")).startswith("paged") else []
    length = fitted.choices.get("max_seq_length")
    more += ["shorter than wanted"] if length and "does not fit" in length.reason else []
    return (outcome.name, f"{outcome.budget_gb:g}", f"{outcome.total / GIB:.1f}",
            str(fitted.settings.max_seq_length), rows, bits, ", ".join(more))  # fmt: skip


def _rows(resolved: Resolved) -> Read | None:
    """The rows, where model and data are here to be read."""
    try:
        return read(resolved)
    except UserError as error:
        problem = error.problems[0]
        say(f"note: no row can be read, so each is taken to have max_seq_length tokens. {problem}")
        return None
