"""ModelForge: one JSON file in; one trained, measured model out.

>>> import modelforge
>>> modelforge.train("config.json")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
from modelforge.machine.hardware import (
    Hardware,
    Profile,
    choose_profile,
    detect_hardware,
    list_profiles,
)
from modelforge.registry import get_strategy, list_strategies, register_strategy
from modelforge.strategy import Measure, Parts, Result, Strategy
from modelforge.training.stages import RLHFConfig, RLHFTrainer

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
    "get_strategy",
    "list_profiles",
    "list_strategies",
    "load_config",
    "register_strategy",
    "train",
]


def train(
    config: str | Path | Mapping[str, Any] | Config, *, overrides: Iterable[str] = ()
) -> Result:
    """Train by a config: a file, a mapping, or one already loaded; see `modelforge.training`."""
    # `import modelforge` stays light: what trains is imported when it is used.
    from modelforge.training.train import train

    return train(config, overrides=overrides)
