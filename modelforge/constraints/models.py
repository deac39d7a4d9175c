"""Constraints that a model decides: a classifier of texts, or a judge that is asked yes or no."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from modelforge.common.constraint import ConstraintEntry
from modelforge.common.endpoint import word_of
from modelforge.common.paths import find_path
from modelforge.constraints.entries import URL
from modelforge.constraints.rules import Scored
from modelforge.errors import ConfigError, ModelError, Problem, RunError, did_you_mean

_HALF = 0.5
_ASK = (
    "{question}\n\nQuestion to the assistant: {prompt}\n\nText to look at: {text}\n\n"
    "Reply with yes or no only."
)
_WORDS = ("Yes", "No")


def rule_by_model(entry: ConstraintEntry, base_dir: Path) -> Scored:
    """The rule of an entry with a classifier or a judge; loads it.

    Raises:
        UserError: If it cannot be loaded, or has no such label.
    """
    threshold = _HALF if entry.threshold is None else entry.threshold
    if entry.classifier is not None:
        return _classifier(entry, base_dir, threshold)
    name, question = str(entry.judge), str(entry.question)
    if name.startswith(URL):
        return _endpoint(name, str(entry.judge_model), question, threshold)
    return _local(_place(name, base_dir), question, threshold, entry.name)


def _place(name: str, base_dir: Path) -> str:
    found = find_path(name, base_dir)
    return name if found is None else str(found)


def _classifier(entry: ConstraintEntry, base_dir: Path, threshold: float) -> Scored:
    from modelforge.models.classifier import load_classifier

    where = f"constraint '{entry.name}': classifier"
    classify, labels = load_classifier(_place(str(entry.classifier), base_dir), where=where)
    label = labels[-1] if entry.label is None else entry.label
    if label not in labels:
        what = f"has no label '{label}'"
        fix = did_you_mean(label, labels)
        raise ConfigError(Problem(f"constraint '{entry.name}': label", what, fix))
    return Scored(lambda prompt, text: classify([text])[0][label], threshold, f"is {label}")


def _local(name: str, question: str, threshold: float, called: str) -> Scored:
    """A language model, by how likely it finds Yes beside No."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from modelforge.models.hub import unreadable

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True
        ).eval()
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(unreadable(name, "judge", error)) from None
    if not tokenizer.chat_template:
        what = "its tokenizer has no chat template: it cannot be asked"
        raise ModelError(Problem(f"constraint '{called}': judge", what, "name a chat model"))
    words = [tokenizer.encode(word, add_special_tokens=False)[0] for word in _WORDS]

    def score(prompt: str, text: str) -> float:
        ask = [{"role": "user", "content": _ask(question, prompt, text)}]
        ids: Any = tokenizer.apply_chat_template(
            ask, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**ids.to(model.device)).logits[0, -1, words].float()
        return float(logits.softmax(-1)[0])

    return Scored(score, threshold, "the judge says yes")


def _endpoint(url: str, model: str, question: str, threshold: float) -> Scored:
    """A model behind an OpenAI-compatible address; its key comes from the environment alone."""

    def score(prompt: str, text: str) -> float:
        said = word_of(url, model, _ask(question, prompt, text))
        verdict = re.match(r"\W*(yes|no)\b", said, re.IGNORECASE)
        if verdict is None:
            what = f"said neither yes nor no: {said[:40]!r}"
            raise RunError(Problem(url, what, "name a judge that answers at once"))
        return float(verdict[1].lower() == "yes")

    return Scored(score, threshold, "the judge says yes")


def _ask(question: str, prompt: str, text: str) -> str:
    return _ASK.format(question=question, prompt=prompt, text=text)
