"""What an export is tried on: the run's own held-out prompts, and texts that it never saw."""

from __future__ import annotations

from typing import Any

from modelforge.evaluation.neutral import texts
from modelforge.evaluation.opened import Named
from modelforge.evaluation.samples import prompt_and_reference
from modelforge.runs import files
from modelforge.runs.folder import RunDir

_NEUTRAL = 12
_WORDS = 12  # of a neutral text, to go on from


def prompts_for(found: Named, *, chat: bool) -> list[Any]:
    """Prompts of both kinds: messages where there is a chat template, text beside them.

    Args:
        found: The trained model.
        chat: Whether its tokenizer has a chat template.
    """
    own: list[Any] = []
    if found.run is not None:
        for row in RunDir(found.run).read_lines(files.SAMPLES):
            prompt = row["prompt"] if "prompt" in row else prompt_and_reference(row)[0]
            if prompt and (chat or isinstance(prompt, str)):
                own.append(prompt)
    beginnings = [" ".join(text.split()[:_WORDS]) for text in texts()[:_NEUTRAL]]
    asked = [[{"role": "user", "content": text}] for text in beginnings[: _NEUTRAL // 2]]
    return [*own, *(asked if chat else ()), *beginnings[_NEUTRAL // 2 :]]
