"""A reward: a function with TRL's signature, called with every column of the data."""

from __future__ import annotations

from typing import Any


def brief(completions: list[Any], **columns: Any) -> list[float]:
    """1 for an answer of one word, less for each further word, never below 0.

    Args:
        completions: One a prompt and sample, as messages or as texts.
        columns: The prompts, and the columns of the data by their names.
    """
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [max(0.0, 1.0 - 0.05 * (len(text.split()) - 1)) for text in texts]
