"""`modelforge plan`: what a run would need of a card, on any machine, before it runs."""

from __future__ import annotations

from modelforge import registry
from modelforge.common.console import headline, say
from modelforge.config import Choice, Config
from modelforge.machine.hardware import Hardware, detect_hardware, device_arguments
from modelforge.machine.launch import distributed_choices
from modelforge.plan import Plan, fit, plan
from modelforge.plan.calibration import recall
from modelforge.plan.planner import card
from modelforge.training.prepare import fill_defaults
from modelforge.training.prepared import show_choices


def show_plan(
    config: Config, *, vram_gb: float | None, profile: str | None, as_it_is: bool = False
) -> Plan:
    """Plan a run; with a budget, fit what the user left open to it.

    Args:
        config: As loaded; no weights are needed, and no data.
        vram_gb: Plan for a card of this size in place of this machine.
        profile: Plan with this profile's defaults.
        as_it_is: Only say what the config needs, and change nothing.

    Raises:
        UserError: If nothing fits the budget, or the model's shape is not to be had.
    """
    strategy = registry.get_strategy(config.settings.strategy)()
    hardware = _machine(vram_gb)
    if profile:
        config = config.with_choices({"hardware_profile": Choice(profile, "--profile")})
    config = fill_defaults(config, strategy, hardware)
    device = device_arguments(hardware, config.said)
    config = config.with_choices({k: v for k, v in device.items() if k != "use_cpu"})
    config = config.with_choices(distributed_choices(config))
    processes = config.settings.distributed.num_processes
    budget = vram_gb or config.settings.memory_budget_gb or hardware.vram_gb or None
    if budget is None or as_it_is:
        planned = plan(
            config,
            budget_gb=budget,
            hardware=hardware,
            num_processes=processes,
            calibration=recall(hardware),
        )
    else:
        config, planned = fit(
            config,
            budget_gb=budget,
            hardware=hardware,
            num_processes=processes,
            calibration=recall(hardware),
        )
    show_choices(config.choices)
    headline(f"Plan: {planned.strategy} of {planned.model}")
    for line in planned.lines():
        say(line)
    return planned


def _machine(vram_gb: float | None) -> Hardware:
    return detect_hardware() if vram_gb is None else card(vram_gb)
