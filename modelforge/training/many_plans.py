"""One config over all cards, and all strategies of one model on one card.

Each place is an estimate by short models: the config that a plan would choose, without the replay
of the whole model. What one card showed serves the others.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modelforge import registry
from modelforge.config import Config
from modelforge.configfile.load import load_config
from modelforge.errors import UserError
from modelforge.machine.cards import Card, known_card, list_cards
from modelforge.machine.hardware import Hardware, choose_profile
from modelforge.models.source import local_folder
from modelforge.plan.fitting import estimates
from modelforge.training.fit import fit, longest_row
from modelforge.training.read import Read, read
from modelforge.training.resolve import Resolved, resolve

# What a plan of another strategy of the same model keeps of a config.
_KEPT = (
    "max_seq_length", "lora_r", "lora_target_modules", "use_4bit", "use_8bit", "optim",
    "per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing",
    "model_revision",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What fits one card, for one strategy.

    Attributes:
        name: Of the card or of the strategy.
        budget_gb: Of the card, in GiB.
        config: As it would be fitted; None where nothing fits.
        total: About what it takes of the card, in bytes.
        why: Why there is none.
        card: Of the table; None for another.
    """

    name: str
    budget_gb: float
    config: Config | None
    total: int
    why: str = ""
    card: Card | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        fitted = self.config
        chosen = {} if fitted is None else {key: fitted.get(key) for key in SHOWN}
        return {"name": self.name, "budget_gb": self.budget_gb, "fits": fitted is not None,
                "total": self.total, "why": self.why, **chosen}  # fmt: skip


#: What is shown of a fitted config.
SHOWN = (
    "max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps",
    "gradient_checkpointing", "use_4bit", "optim",
)  # fmt: skip


def over_cards(config: Config) -> list[Outcome]:
    """What of a config fits each card of the table, the smallest first.

    Args:
        config: As loaded. Cards of one profile and generation share its defaults.

    Raises:
        UserError: If the config, the model or the data cannot be used.
    """
    groups: dict[tuple[str, bool], list[Card]] = {}
    for card in sorted(list_cards(), key=lambda card: card.vram_gib):
        profile, _ = choose_profile(card.hardware)
        groups.setdefault((profile.name, card.hardware.bf16), []).append(card)
    rows: Read | None = None
    peaks: dict[Any, dict[Any, int]] = {}
    outcomes = []
    for cards in groups.values():
        with _quiet():
            resolved = resolve(config, planned_for=cards[0].hardware, planning=True)
            rows = rows or _rows(resolved)
        budgets = [card.vram_gib for card in cards]
        for card, found in zip(cards, _fitted(resolved, rows, budgets, peaks), strict=True):
            outcomes.append(_outcome(card.title, card.vram_gib, found, card))
    return sorted(outcomes, key=lambda outcome: outcome.budget_gb)


def over_strategies(config: Config, machine: Hardware, budget_gb: float) -> list[Outcome]:
    """What of each strategy fits one card, with rows of the full length.

    Args:
        config: As loaded: its model, and what it says of length, rank and batch.
        machine: The card.
        budget_gb: What a run may take of it, in GiB.
    """
    folder = local_folder(config.settings.model_name, config.base_dir)
    kept = {key: config.said[key] for key in _KEPT if key in config.said}
    kept |= {"model_name": str(folder or config.settings.model_name), "dataset": "none"}
    outcomes = []
    for name in registry.list_strategies():
        try:
            with _quiet():
                loaded = load_config({"strategy": name, **kept})
                resolved = resolve(loaded, planned_for=machine, planning=True)
                (found,) = _fitted(resolved, None, [budget_gb], {})
        except UserError as error:
            outcomes.append(Outcome(name, budget_gb, None, 0, str(error.problems[0])))
            continue
        outcomes.append(_outcome(name, budget_gb, found, known_card(machine.device_name)))
    return outcomes


def _fitted(
    resolved: Resolved, rows: Read | None, budgets: list[float], peaks: dict[Any, dict[Any, int]]
) -> list[tuple[Config, int] | None]:
    with _quiet():
        config = fit(resolved, rows, as_it_is=True).config
        longest = None if rows is None else longest_row(config, resolved, rows.data)
        # Peaks of one kind of weights and of one generation of cards are the same.
        kind = (config.get("use_4bit"), config.get("use_8bit"), resolved.hardware.bf16)
        return estimates(
            config, budgets=budgets, hardware=resolved.hardware, longest_row=longest,
            peaks=peaks.setdefault(kind, {}),
        )  # fmt: skip


def _outcome(
    name: str, budget_gb: float, found: tuple[Config, int] | None, card: Card | None
) -> Outcome:
    if found is None:
        return Outcome(name, budget_gb, None, 0, "does not fit", card)
    return Outcome(name, budget_gb, *found, card=card)


def _rows(resolved: Resolved) -> Read | None:
    try:
        return read(resolved)
    except UserError:
        return None


@contextmanager
def _quiet() -> Iterator[None]:
    """What each of many plans says would be said many times."""
    house = logging.getLogger("modelforge")
    before = house.level
    house.setLevel(logging.ERROR)
    try:
        yield
    finally:
        house.setLevel(before)
