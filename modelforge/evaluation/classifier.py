"""A classifier of texts as a measure of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelforge.common.console import say
from modelforge.models.classifier import load_classifier
from modelforge.rewards.completions import completion_text


def toxicity_by(name: str) -> Callable[..., list[float]]:
    """A text classifier as a reward: the probability of its label ``toxic``, or of its last one.

    Raises:
        ModelError: If it cannot be loaded, or has no trained head.
    """
    classify, labels = load_classifier(name, where=f"--classifier {name}")
    called = [label for label in labels if label.lower() in ("toxic", "toxicity")]
    wanted = called[0] if called else labels[-1]
    say(f"toxicity is the probability of '{wanted}', of the labels {', '.join(labels)}")

    def toxicity(completions: list[Any], **columns: Any) -> list[float]:
        return [each[wanted] for each in classify([completion_text(text) for text in completions])]

    return toxicity
