"""A run and its card: the config fitted before it starts, the plan compared with what was used."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelforge.common.console import headline, say, warn
from modelforge.config import Choice, Config
from modelforge.errors import UserError
from modelforge.machine.hardware import Hardware
from modelforge.machine.launch import processes_of
from modelforge.plan import NotPlanned, Plan, fit
from modelforge.plan.architectures import UnknownShape
from modelforge.plan.calibration import learn, recall
from modelforge.runs import files
from modelforge.runs.folder import RunDir

# A resumed run keeps these choices, even where others would be made now.
_KEPT = ("plan", "memory")


def within_budget(
    config: Config,
    hardware: Hardware,
    *,
    longest_row: int | None,
    run: RunDir,
    resumed: bool,
    planning: bool = False,
) -> tuple[Config, Plan | None, str]:
    """The config fitted to the card, or to ``memory_budget_gb``; a resumed run keeps its own.

    What cannot be planned trains all the same, as configured, with a warning: a failure of the
    planner is never in the way of a run. A mistake in the config is.

    Args:
        config: With every value filled in.
        hardware: The machine.
        longest_row: Tokens of the longest row; None where the data do not tell.
        run: The run's folder.
        resumed: Whether the run resumes from a checkpoint there.
        planning: Whether the plan is what was asked for: then what goes wrong with it is raised.

    Returns:
        The config, its plan, and why there is none although there is a budget; else "".

    Raises:
        UserError: If the config cannot be used, or nothing fits: then with the smallest budget
            that does.
    """
    if resumed:
        recorded = (run.read_json(files.CHOICES) or {}).get("choices", {})
        kept = {k: Choice(**c) for k, c in recorded.items() if c["source"] in _KEPT}
        return config.with_choices(kept), _recorded(run), ""
    budget = config.settings.memory_budget_gb or hardware.usable_gb or None
    if budget is None:
        return config, None, ""  # a CPU without a budget swaps where a card would stop
    headline(f"Plan: {config.settings.strategy} of {config.settings.model_name}")
    try:
        config, planned = fit(
            config,
            budget_gb=budget,
            hardware=hardware,
            num_processes=processes_of(config),
            calibration=recall(hardware),
            longest_row=longest_row,
        )
    except Exception as error:
        return config, None, _unplanned(error, hardware, budget, planning=planning)
    for line in planned.lines():
        say(line)
    length = config.choices.get("max_seq_length")
    if length is not None and length.source == "plan" and "does not fit" in length.reason:
        warn(
            f"max_seq_length is {length.value} on this card ({length.reason} in {budget:g} GiB): "
            "what is longer is cut, and a larger card would learn from more of it"
        )
    return config, planned, ""


def _unplanned(error: Exception, hardware: Hardware, budget: float, *, planning: bool) -> str:
    """Warn of a run without a plan; why it has none.

    Raises:
        Exception: The error itself, where it is the user's, or the plan is what was asked for.
    """
    # The run itself reads a shape that needs the model's own code.
    unknown = isinstance(error, NotPlanned) or (isinstance(error, UnknownShape) and not planning)
    if not unknown and (planning or isinstance(error, UserError)):
        raise error
    why = str(error.problems[0]) if isinstance(error, UserError) else f"no plan: {said(error)}"
    warn(why)
    first = "; its longest batch goes first" if hardware.device == "cuda" else ""
    warn(f"it trains as configured, whether or not that fits in {budget:g} GiB{first}")
    return why


def said(error: Exception) -> str:
    """An error that is nobody's to mend but ours: what it is and where it was raised, in a line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    what = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {what} ({Path(last.filename).name}, line {last.lineno})"


def _recorded(run: RunDir) -> Plan | None:
    """The plan that a run began with; None without one, or where another version wrote it."""
    try:
        return Plan.from_dict((run.read_json(files.PLAN) or {})["predicted"])
    except (KeyError, TypeError):
        return None


def compare(
    planned: Plan | None,
    measured: Mapping[str, Any],
    *,
    config: Config,
    hardware: Hardware,
    run: RunDir,
) -> None:
    """Put what was measured beside what was planned, and remember it for the next plan.

    Args:
        planned: As `within_budget` gave it; None where nothing was.
        measured: As `Usage.figures` gives it.
        config: As it trained.
        hardware: The machine.
        run: The run's folder.
    """
    if planned is None or not measured:
        return
    row: dict[str, Any] = {"predicted": planned.to_dict(), "measured": dict(measured)}
    peak = measured.get("peak_reserved")
    if peak:
        row["error"] = planned.peak_reserved / peak - 1
        say(
            f"memory: {peak / 2**30:.2f} GiB reserved at the peak, "
            f"{planned.peak_reserved / 2**30:.2f} GiB planned ({row['error']:+.1%})"
        )
    run.write_json(files.PLAN, row)
    if any(choice.source == "memory" for choice in config.choices.values()):
        return  # it ran otherwise than planned
    seconds = measured["seconds_per_step"]
    learn(
        hardware,
        planned,
        reserved=peak,
        context=measured.get("context"),
        seconds=seconds if planned.phases.get("generation") is None else 0.0,
    )
