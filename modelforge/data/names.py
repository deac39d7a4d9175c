"""What the roles of a layout may be called in a file: ``configs/layouts/columns.json``."""

from __future__ import annotations

import json
from importlib.resources import files

from modelforge.data.convert import DataKind

PAIR = frozenset[DataKind]({"preference", "labelled", "demonstration", "prompt"})
REPLY = frozenset[DataKind]({"demonstration", "prompt"})
PROMPT = frozenset[DataKind]({"prompt"})
TEXT = frozenset[DataKind]({"demonstration"})


NAMES: dict[str, tuple[str, ...]] = {
    role: tuple(names)
    for role, names in json.loads(
        files("modelforge.configs").joinpath("layouts/columns.json").read_text(encoding="utf-8")
    ).items()
}
ASKED, ANSWERED, CONVERSATION = NAMES["prompt"], NAMES["reply"], NAMES["conversation"]
SYSTEM = {"system": NAMES["system"]}
# What may stand around a question.
AROUND = {
    **SYSTEM,
    **{role: NAMES[role] for role in ("history", "choices", "input", "context")},
    "aside": ("text",),
}
MARGIN = {role: NAMES[role] for role in ("margin", "chosen_score", "rejected_score")}
CHOSEN = {role: NAMES[role] for role in ("chosen", "rejected")}
TWO = {"a": NAMES["first"], "b": NAMES["second"]}
SCORED = {"prompt": ASKED, "replies": NAMES["answers"]}
