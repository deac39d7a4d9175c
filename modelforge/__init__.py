"""ModelForge: one JSON file in; one trained, measured, servable model out.

>>> import modelforge
>>> modelforge.train("config.json")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modelforge.config import Config, load_config
from modelforge.errors import (
    ConfigError,
    DataError,
    ModelError,
    ModelForgeError,
    Problem,
    RunError,
    UserError,
)
from modelforge.hardware import (
    Hardware,
    Profile,
    choose_profile,
    detect_hardware,
    list_profiles,
)
from modelforge.registry import get_strategy, list_strategies, register_strategy
from modelforge.strategy import Measure, Parts, Strategy

if TYPE_CHECKING:
    from modelforge.run import Result

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


def __getattr__(name: str) -> Any:
    # `import modelforge` stays light: what trains is imported when it is used.
    if name in ("train", "Result"):
        import importlib

        return getattr(importlib.import_module("modelforge.run"), name)
    raise AttributeError(f"module 'modelforge' has no attribute '{name}'")
