"""Who loads the model, and why: chosen before anything heavy is imported.

Unsloth has to be imported before transformers and TRL. So the choice rests on the config, on what
the machine has, and on the model's config.json, which is read without transformers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from modelforge.common.console import say
from modelforge.config import Choice, Config
from modelforge.errors import RunError
from modelforge.models.providers import get_provider
from modelforge.models.providers.base import Provider
from modelforge.models.providers.unsloth import Unsloth, model_type
from modelforge.models.source import ModelSource

if TYPE_CHECKING:
    from modelforge.machine.hardware import Hardware
    from modelforge.strategy import Strategy


def choose_provider(
    config: Config, strategy: Strategy, source: ModelSource, hardware: Hardware
) -> tuple[Provider, Choice]:
    """Who loads the model, and why; it is not started yet.

    Args:
        config: Before TRL's fields are known, so without a profile's defaults.
        strategy: Whose defaults are looked at too.
        source: The model.
        hardware: The machine.

    Raises:
        RunError: If the provider asked for cannot serve this run, with every reason.
    """
    defaults = strategy.defaults.items()
    config = config.with_defaults({k: Choice(v, "strategy", why) for k, (v, why) in defaults})
    name = config.settings.provider
    choice = Choice(name, "config") if name != "auto" else _automatic(config, source, hardware)
    provider = get_provider(choice.value)()
    problems = list(provider.problems(config, source, hardware))
    if problems:
        raise RunError(*problems)
    return provider, choice


def planned_provider(
    config: Config, strategy: Strategy, source: ModelSource, hardware: Hardware
) -> tuple[Provider, Choice]:
    """As `choose_provider`, for a run that is only planned: what stands against it is said."""
    try:
        return choose_provider(config, strategy, source, hardware)
    except RunError as error:
        for problem in error.problems:
            say(f"note: it could not run here. {problem}")
        # The shape of a model is the same whoever loads it.
        return get_provider("huggingface")(), Choice(config.settings.provider, "config")


def _automatic(config: Config, source: ModelSource, hardware: Hardware) -> Choice:
    """Unsloth where all that it needs is there."""
    against = next(Unsloth().problems(config, source, hardware), None)
    if against is not None:
        return Choice("huggingface", "machine", against.what)
    try:
        found = f"Unsloth {version('unsloth')}"
    except PackageNotFoundError:
        found = "Unsloth"
    why = f"{found} has kernels for {model_type(source)} on {hardware.device_name}"
    return Choice("unsloth", "machine", why)
