"""What a run is before it starts, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from modelforge.config import Config
    from modelforge.data import Data
    from modelforge.hardware import Hardware
    from modelforge.plan import Plan
    from modelforge.providers.base import ModelSource, Provider
    from modelforge.rundir import RunDir
    from modelforge.strategy import Strategy


@dataclass(frozen=True)
class Result:
    """What a run left.

    Attributes:
        run_dir: The run's folder.
        model_dir: The trained adapter (or model) with its tokenizer.
        before: Held-out figures of the model the run began with.
        after: The same of the trained model.
        resumed_from: The checkpoint the run went on from, or None.
    """

    run_dir: Path
    model_dir: Path
    before: Mapping[str, float]
    after: Mapping[str, float]
    resumed_from: Path | None = None


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
