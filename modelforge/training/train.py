"""`modelforge train`: a config's one run, or its stages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.config import Config
from modelforge.configfile.load import load_config
from modelforge.training.run import run_once
from modelforge.training.stages import RLHFTrainer

if TYPE_CHECKING:
    from modelforge.runs.result import Result


def train(
    config: str | Path | Mapping[str, Any] | Config, *, overrides: Iterable[str] = ()
) -> Result:
    """Train by a config: a file, a mapping, or one already loaded.

    Args:
        config: What to train.
        overrides: ``key=value`` strings that win over the config.

    Raises:
        UserError: If the config, the data, the model or the machine cannot be used; raised before a
            model is loaded, with every problem found. Nothing is written then.
    """
    if not isinstance(config, Config):
        config = load_config(config, overrides=overrides)
    strategy = registry.get_strategy(config.settings.strategy)()
    return RLHFTrainer(config).run() if strategy.stages(config) else run_once(config, strategy)
