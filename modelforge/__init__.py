"""ModelForge: one JSON file in; one trained, measured model out.

>>> import modelforge
>>> modelforge.train("config.json")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.configfile.load import load_config
    from modelforge.errors import (
        ConfigError,
        DataError,
        ModelError,
        ModelForgeError,
        Problem,
        RunError,
        UserError,
    )
    from modelforge.evaluation.kept import Evaluation
    from modelforge.machine.hardware import (
        Hardware,
        Profile,
        choose_profile,
        detect_hardware,
        list_profiles,
    )
    from modelforge.registry import get_strategy, list_strategies, register_strategy
    from modelforge.runs.result import Result
    from modelforge.strategy import Measure, Parts, Strategy
    from modelforge.training.rlhf_config import RLHFConfig
    from modelforge.training.stages import RLHFTrainer

__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "Hardware",
    "Measure",
    "ModelError",
    "ModelForgeError",
    "Parts",
    "Problem",
    "Profile",
    "RLHFConfig",
    "RLHFTrainer",
    "Result",
    "RunError",
    "Strategy",
    "UserError",
    "choose_profile",
    "detect_hardware",
    "evaluate",
    "get_strategy",
    "list_profiles",
    "list_strategies",
    "load_config",
    "register_strategy",
    "train",
]


def evaluate(
    model: str | Path, data: str | Path, *, metrics: Iterable[str] | None = None, **options: Any
) -> Evaluation:
    """Score each row of a data set by a model, or read the rows that were scored before.

    Args:
        model: A run's folder, a model's or an adapter's folder, or a hub id.
        data: A file, a folder or a hub id.
        metrics: Names of measures; by default all that come free.
        options: Other fields of `modelforge.evaluation.options.Options`.

    Raises:
        UserError: If model, data or options cannot be used. Nothing is written then.
    """
    from modelforge.common.libraries import libraries_heard
    from modelforge.evaluation.evaluate import evaluate as score
    from modelforge.evaluation.options import options_of

    with libraries_heard():
        return score(str(model), options_of(str(data), metrics, options))


def train(
    config: str | Path | Mapping[str, Any] | Config, *, overrides: Iterable[str] = ()
) -> Result:
    """Train by a config: a file, a mapping, or one already loaded; see `modelforge.training`."""
    # `import modelforge` stays light: what trains is imported when it is used.
    from modelforge.training.train import train

    return train(config, overrides=overrides)


# Where the other public names stand. `modelforge --help` needs none of them.
_HOMES = {
    "config": ("Config",),
    "configfile.load": ("load_config",),
    "errors": (
        *("ConfigError", "DataError", "ModelError", "ModelForgeError"),
        *("Problem", "RunError", "UserError"),
    ),
    "machine.hardware": (
        *("Hardware", "Profile"),
        *("choose_profile", "detect_hardware", "list_profiles"),
    ),
    "registry": ("get_strategy", "list_strategies", "register_strategy"),
    "runs.result": ("Result",),
    "strategy": ("Measure", "Parts", "Strategy"),
    "training.rlhf_config": ("RLHFConfig",),
    "training.stages": ("RLHFTrainer",),
}


def __getattr__(name: str) -> Any:
    import importlib

    for home, names in _HOMES.items():
        if name in names:
            found = getattr(importlib.import_module(f"modelforge.{home}"), name)
            globals()[name] = found
            return found
    if name.startswith("__"):  # what Python itself asks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from modelforge.configfile.classes import in_place_of

    if told := in_place_of(name):
        # `from modelforge import SFTTrainer` would not show the text of an AttributeError.
        raise ImportError(f"modelforge has no {name}: {told}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
