"""The cards that a plan can be made for by name: `configs/cards/cards.json`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from modelforge.errors import ConfigError, Problem, did_you_mean
from modelforge.machine.hardware import Hardware

_MAKER = re.compile(r"\b(nvidia|geforce|tesla|quadro)\b")


@dataclass(frozen=True)
class Card:
    """A card as sold, and as it is.

    Attributes:
        name: As ``--gpu`` takes it.
        title: For a reader.
        also: Other names, such as the driver's.
        sold_gb: Memory that it is sold with.
        vram_gib: What the driver reports, in GiB.
        capability: CUDA's compute capability.
        tflops: Dense, of 16-bit numbers accumulated in 32 bits, in 10¹² a second.
        tflops_32: Of 32-bit numbers, without tensor cores.
        bandwidth: Of its memory, in 10⁹ bytes a second.
        cache_mb: Of the second level, in 10⁶ bytes.
    """

    name: str
    title: str
    also: tuple[str, ...]
    sold_gb: float
    vram_gib: float
    capability: tuple[int, int]
    tflops: float
    tflops_32: float
    bandwidth: float
    cache_mb: float

    @property
    def hardware(self) -> Hardware:
        """A machine with one of it."""
        return Hardware(
            device="cuda",
            device_name=self.title,
            num_devices=1,
            vram_gb=self.vram_gib,
            compute_capability=self.capability,
            bf16=self.capability >= (8, 0),
            ram_gb=0.0,
            cores=0,
        )


@cache
def list_cards() -> tuple[Card, ...]:
    """All of them, in the order of the file."""
    path = files("modelforge.configs") / "cards" / "cards.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["cards"]
    return tuple(
        Card(**row | {"also": tuple(row["also"]), "capability": tuple(row["capability"])})
        for row in rows
    )


def card_named(name: str) -> Card:
    """The card of this name, however it is written: ``RTX 4090``, ``rtx4090``, ``a100-80gb``.

    Raises:
        ConfigError: If there is none.
    """
    found = known_card(name)
    if found is None:
        names = [card.name for card in list_cards()]
        near = did_you_mean(name.lower().replace(" ", "-"), names)
        fix = "; or ".join(filter(None, [near, "say its memory: --vram 24"]))
        raise ConfigError(Problem("--gpu", f"'{name}' is not in the table of cards", fix))
    return found


def known_card(name: str) -> Card | None:
    """The card that a driver or a user calls so; None where the table lacks it."""
    asked = _plain(name)
    for card in list_cards():
        if asked in {_plain(each) for each in (card.name, card.title, *card.also)}:
            return card
    return None


def _plain(name: str) -> str:
    """A name without its maker, spaces and dashes."""
    return re.sub(r"[^a-z0-9]", "", _MAKER.sub("", name.lower()))
