"""What a run is before it starts, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import show_table
from modelforge.config import Choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.data import Data
    from modelforge.machine.hardware import Hardware
    from modelforge.models.providers.base import Provider
    from modelforge.models.source import ModelSource
    from modelforge.plan import Plan
    from modelforge.runs.folder import RunDir
    from modelforge.strategy import Strategy


@dataclass(frozen=True)
class Prepared:
    """A run that can start: everything read and checked, no weights loaded.

    Attributes:
        config: With every value filled in.
        strategy: The strategy.
        provider: Who loads the model.
        source: Where the model comes from.
        tokenizer: With its chat template.
        data: Rows in normal form, and their ledger.
        args: The TRL config object.
        hardware: The machine.
        run: The run's folder; nothing is written there yet.
        checkpoint: Where to go on from, or None.
        plan: What it will need, where there is a budget to keep.
        fingerprint: Of the rows, training and held-out.
    """

    config: Config
    strategy: Strategy
    provider: Provider
    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    data: Data
    args: Any
    hardware: Hardware
    run: RunDir
    checkpoint: Path | None
    plan: Plan | None
    fingerprint: str


def show_choices(choices: Mapping[str, Choice]) -> None:
    """The values nobody asked for, each with its reason."""
    rows = [
        (key, choice.value, f"{choice.source}: {choice.reason or choice.source}")
        for key, choice in choices.items()
        if choice.source not in ("config", "--set")
    ]
    show_table(("chosen for you", "value", "because"), rows)
