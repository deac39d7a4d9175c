"""`modelforge doctor`: what is installed here, and what can run."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import typer

from modelforge.cli.options import AsJson, print_json, working

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what this machine has, and what can run here."""
    with working(as_json=as_json):
        report = examine()
    if as_json:
        print_json(report)
        return
    for part, value in report.items():
        typer.echo(f"{part}:")
        items = value.items() if isinstance(value, dict) else [("", value)]
        for key, inner in items:
            typer.echo(f"  {key + ': ' if key else ''}{inner}")


def examine() -> dict[str, Any]:
    """Versions, devices, the profile, and which provider and strategy can run here and why not.

    Imports torch and TRL, so it sees what a run would see.
    """
    from modelforge import registry
    from modelforge.machine.hardware import choose_profile, detect_hardware
    from modelforge.machine.versions import versions

    hardware = detect_hardware()
    unsloth = _unsloth(hardware)  # before TRL is imported, as a run would see it
    profile, choice = choose_profile(hardware)
    strategies, on_unsloth = {}, {}
    for name in registry.list_strategies():
        try:
            strategy = registry.get_strategy(name)
            can, why = strategy.unsloth
            on_unsloth[name] = f"{'yes' if can else 'no'}: {why}"
            strategy.trl_trainer_class()
            strategies[name] = "can run"
        except (ImportError, RuntimeError, AttributeError) as error:
            strategies[name] = f"cannot run: {error}"
    return {
        "versions": versions(),
        "hardware": hardware.to_dict(),
        "profile": {"name": profile.name, "reason": choice.reason},
        "providers": {"huggingface": "can run", "unsloth": unsloth},
        "unsloth runs": on_unsloth,
        "strategies": strategies,
        "4-bit": _four_bit(hardware.device),
    }


def _unsloth(hardware: Hardware) -> str:
    from modelforge.models.providers.unsloth import ARCHITECTURES, machine_problems

    problems = list(machine_problems(hardware, where="provider"))
    if not problems:
        return f"can run, for {', '.join(ARCHITECTURES)}"
    return "cannot run: " + "; ".join(f"{p.what} ({p.fix})" for p in problems)


def _four_bit(device: str) -> str:
    if find_spec("bitsandbytes") is None:
        return "cannot be used: bitsandbytes is not installed"
    if device == "cpu":
        return "can be used, and is exact, but is not faster than 16-bit without CUDA"
    return "can be used"
