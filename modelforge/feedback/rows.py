"""Ratings as rows that `modelforge train` takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from modelforge.feedback.decided import answer_of, prompt_of
from modelforge.feedback.store import Given


def preferences(found: Iterable[Given]) -> list[dict[str, Any]]:
    """Pairs for ``dpo`` and ``reward``.

    A better answer is preferred to the one that was given. Of answers to one prompt, those that
    were rated up are preferred to those that were rated down; each is in one pair at most.
    """
    rows = []
    rated: dict[str, tuple[dict[str, Any], dict[str, list[str]]]] = {}
    for given in found:
        if given.better is not None and given.better != given.answer:
            rows.append(_pair(given, given.better, given.answer))
        elif given.rating is not None:
            key = json.dumps(given.prompt, sort_keys=True)
            _, sides = rated.setdefault(key, ({"given": given}, {"up": [], "down": []}))
            if given.answer not in sides[given.rating]:
                sides[given.rating].append(given.answer)
    for first, sides in rated.values():
        for chosen, rejected in zip(sides["up"], sides["down"], strict=False):
            if chosen != rejected:
                rows.append(_pair(first["given"], chosen, rejected))
    return rows


def labelled(found: Iterable[Given]) -> list[dict[str, Any]]:
    """Answers with a label, for ``kto``: a better answer is good, and what it replaces bad."""
    rows = []
    for given in found:
        said = [(given.better, True)] if given.better is not None else []
        if given.rating is not None or said:
            said.append((given.answer, given.rating == "up" and not said))
        for text, label in said:
            answer = answer_of(given.prompt, str(text))
            rows.append({**prompt_of(given.prompt), "completion": answer, "label": label})
    return rows


def _pair(given: Given, chosen: str, rejected: str) -> dict[str, Any]:
    good, bad = (answer_of(given.prompt, text) for text in (chosen, rejected))
    return {**prompt_of(given.prompt), "chosen": good, "rejected": bad}


def demonstrations(found: Iterable[Given]) -> list[dict[str, Any]]:
    """The better answers, for ``sft``."""
    return [
        {**prompt_of(given.prompt), "completion": answer_of(given.prompt, given.better)}
        for given in found
        if given.better is not None
    ]
