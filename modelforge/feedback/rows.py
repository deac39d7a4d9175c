"""Feedback as rows that `modelforge train` takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

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
            row = {**_prompt(given), "completion": _answer(given, str(text)), "label": label}
            rows.append(row)
    return rows


def _pair(given: Given, chosen: str, rejected: str) -> dict[str, Any]:
    sides = {"chosen": _answer(given, chosen), "rejected": _answer(given, rejected)}
    return {**_prompt(given), **sides}


def _prompt(given: Given) -> dict[str, Any]:
    if "messages" not in given.prompt:
        return {"prompt": given.prompt["prompt"]}
    row = {"prompt": given.prompt["messages"]}
    return row | ({"tools": given.prompt["tools"]} if given.prompt.get("tools") else {})


def _answer(given: Given, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if "messages" in given.prompt else text
