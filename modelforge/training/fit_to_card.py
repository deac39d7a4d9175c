"""A run and its card: the config fitted before it starts, the plan compared with what was used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelforge.common.console import headline, say, warn
from modelforge.config import Choice, Config
from modelforge.machine.hardware import Hardware
from modelforge.machine.launch import processes_of
from modelforge.plan import NotPlanned, Plan, fit
from modelforge.plan.calibration import learn, recall
from modelforge.runs import files
from modelforge.runs.folder import RunDir

# A resumed run keeps these choices, even where others would be made now.
_KEPT = ("plan", "memory")


def within_budget(
    config: Config, hardware: Hardware, *, longest_row: int | None, run: RunDir, resumed: bool
) -> tuple[Config, Plan | None]:
    """The config fitted to the card, or to ``memory_budget_gb``; a resumed run keeps its own.

    A strategy that cannot be planned trains all the same, as configured, with a warning.

    Args:
        config: With every value filled in.
        hardware: The machine.
        longest_row: Tokens of the longest row; None where the data do not tell.
        run: The run's folder.
        resumed: Whether the run resumes from a checkpoint there.

    Raises:
        RunError: If nothing fits, with the smallest budget that does.
    """
    if resumed:
        recorded = (run.read_json(files.CHOICES) or {}).get("choices", {})
        kept = {k: Choice(**c) for k, c in recorded.items() if c["source"] in _KEPT}
        planned = run.read_json(files.PLAN)
        return config.with_choices(kept), planned and Plan.from_dict(planned["predicted"])
    budget = config.settings.memory_budget_gb or hardware.vram_gb or None
    if budget is None:
        return config, None  # a CPU without a budget swaps where a card would stop
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
    except NotPlanned as error:
        warn(str(error.problems[0]))
        warn(f"it trains as configured, whether or not that fits in {budget:g} GiB")
        return config, None
    for line in planned.lines():
        say(line)
    length = config.choices.get("max_seq_length")
    if length is not None and length.source == "plan" and "does not fit" in length.reason:
        warn(
            f"max_seq_length is {length.value} on this card ({length.reason} in {budget:g} GiB): "
            "what is longer is cut, and a larger card would learn from more of it"
        )
    return config, planned


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
