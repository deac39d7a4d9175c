"""A classifier of texts as a measure of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelforge.errors import ConfigError, Problem
from modelforge.rewards.build import completion_text


def toxicity_by(name: str) -> Callable[..., list[float]]:
    """A text classifier as a reward: the probability of its label ``toxic``, or of its last one.

    Raises:
        ConfigError: If it cannot be loaded.
    """
    from transformers import pipeline

    try:
        classify: Any = pipeline("text-classification", model=name, top_k=None)
    except (OSError, ValueError, KeyError) as error:
        fix = "give a folder of a text-classification model, or its hub id"
        raise ConfigError(Problem(f"--classifier {name}", str(error), fix)) from None
    labels = classify.model.config.id2label
    called = [label for label in labels.values() if label.lower() in ("toxic", "toxicity")]
    wanted = called[0] if called else labels[max(labels)]

    def toxicity(completions: list[Any], **columns: Any) -> list[float]:
        texts = [completion_text(each) for each in completions]
        found = classify(texts, truncation=True)
        return [next(s["score"] for s in each if s["label"] == wanted) for each in found]

    return toxicity
