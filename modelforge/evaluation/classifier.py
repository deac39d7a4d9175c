"""A classifier of texts as a measure of answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelforge.common.console import say
from modelforge.errors import ModelError, Problem
from modelforge.models.hub import unreadable
from modelforge.rewards.build import completion_text


def toxicity_by(name: str) -> Callable[..., list[float]]:
    """A text classifier as a reward: the probability of its label ``toxic``, or of its last one.

    Raises:
        ModelError: If it cannot be loaded, or has no trained head.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    try:
        model, told = AutoModelForSequenceClassification.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(unreadable(name, "classifier", error)) from None
    if told["missing_keys"]:
        missing = ", ".join(sorted(told["missing_keys"]))
        fix = "give the folder of a text-classification model, or its hub id"
        raise ModelError(Problem(f"--classifier {name}", f"has no weights for {missing}", fix))
    classify: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
    labels = model.config.id2label
    called = [label for label in labels.values() if label.lower() in ("toxic", "toxicity")]
    wanted = called[0] if called else labels[max(labels)]
    say(f"toxicity is the probability of '{wanted}', of the labels {', '.join(labels.values())}")

    def toxicity(completions: list[Any], **columns: Any) -> list[float]:
        texts = [completion_text(each) for each in completions]
        found = classify(texts, truncation=True)
        return [next(s["score"] for s in each if s["label"] == wanted) for each in found]

    return toxicity
