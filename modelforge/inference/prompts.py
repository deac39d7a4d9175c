"""The prompts of a file, in every layout that training reads; a text file holds one a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.data.carried import carrying
from modelforge.data.files import find, missing, read_file
from modelforge.data.load import plain_rows
from modelforge.data.sources import Asked
from modelforge.errors import DataError, Problem
from modelforge.evaluation.samples import prompt_and_reference


@dataclass(frozen=True)
class Asking:
    """One prompt.

    Attributes:
        where: Its file and line.
        prompt: Messages, or text.
        reference: The answer that the file gives, or an empty text.
    """

    where: str
    prompt: Any
    reference: str


def read_prompts(
    file: str, *, system: str | None = None, conversational: bool = True
) -> list[Asking]:
    """Every prompt of a file.

    Args:
        file: Of prompts, or of rows with answers, whose prompts are taken.
        system: The system message of prompts that have none.
        conversational: Whether prompts are messages, for a chat template, or text.

    Raises:
        DataError: If it cannot be read, or holds no prompt.
    """
    path = find(file, Path())
    if path is None:
        raise DataError(missing(file, Path()))
    if path.suffix == ".txt":
        lines = read_file(path, shown=str(path)).rows[0].cells["text"].splitlines()
        found = [
            Asking(
                f"{path}:{n}", [{"role": "user", "content": line}] if conversational else line, ""
            )
            for n, line in enumerate(lines, 1)
            if line.strip()
        ]
    else:
        rows = plain_rows(Asked(dataset=str(path)), conversational=conversational)
        found = [_asking(where, row) for where, row in rows]
    return [_with_system(each, system) for each in found] if system else found


def _asking(where: str, row: Mapping[str, Any]) -> Asking:
    prompt, reference = prompt_and_reference(dict(row))
    if not isinstance(prompt, str):
        if not prompt:
            raise DataError(Problem(where, "holds an answer and no prompt", "add what was asked"))
        prompt = carrying(prompt, row)
    return Asking(where, prompt, reference)


def _with_system(asking: Asking, system: str) -> Asking:
    prompt = asking.prompt
    if isinstance(prompt, str) or prompt[0]["role"] == "system":
        return asking
    first, *rest = prompt
    carried = {k: first[k] for k in ("tools", "chat_template_kwargs") if k in first}
    plain = {k: v for k, v in first.items() if k not in carried}
    said = [{"role": "system", "content": system, **carried}, plain, *rest]
    return Asking(asking.where, said, asking.reference)
