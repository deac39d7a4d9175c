"""What other trainers call the keys of a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files


@cache
def peer_keys() -> Mapping[str, str]:
    """A key of another trainer → what it is here, beginning with a key; or why to remove it."""
    text = files("modelforge.configs").joinpath("layouts/peer_keys.json")
    keys: dict[str, str] = json.loads(text.read_text(encoding="utf-8"))
    return keys


def advice(key: str) -> str:
    """What to set in place of another trainer's key; empty for a key that none has."""
    ours = peer_keys().get(key)
    if ours and ours.startswith("remove it"):
        return ours
    return f"here it is {ours}" if ours else ""
