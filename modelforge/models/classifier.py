"""A classifier of texts, loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modelforge.errors import ModelError, Problem
from modelforge.models.hub import unreadable

#: Texts → of each the probability of every label.
Classify = Callable[[Sequence[str]], list[dict[str, float]]]


def load_classifier(name: str, *, where: str) -> tuple[Classify, list[str]]:
    """A text classifier and its labels, in their order.

    Args:
        name: Its folder or hub id.
        where: What messages call it.

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
        raise ModelError(Problem(where, f"has no weights for {missing}", fix))
    pipe: Any = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)

    def classify(texts: Sequence[str]) -> list[dict[str, float]]:
        found = pipe(list(texts), truncation=True)
        return [{each["label"]: each["score"] for each in scores} for scores in found]

    labels = model.config.id2label
    return classify, [labels[number] for number in sorted(labels)]
