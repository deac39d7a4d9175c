"""Answers to compare: those of a file, or those that models give to the prompts of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelforge.data.files import find, missing, read_file
from modelforge.errors import DataError, Problem
from modelforge.feedback.votes import key_of

#: A prompt (``messages`` or ``prompt``), and of each model its answer.
Row = tuple[dict[str, Any], dict[str, str]]


def records_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON, JSON Lines, CSV or Parquet.

    Raises:
        DataError: If it cannot be read, or holds none.
    """
    found = find(str(path), Path())
    if found is None:
        raise DataError(missing(str(path), Path()))
    rows = [dict(row.cells) for row in read_file(found, shown=str(path)).rows]
    if not rows:
        raise DataError(Problem(str(path), "holds no record"))
    return rows


def read_responses(path: Path) -> list[Row]:
    """Prompts with the answers of several models.

    A row holds ``prompt`` (text or messages) and ``responses`` (model → text, or a list of texts);
    or one answer, as `modelforge generate` writes it: ``prompt``, ``completion`` and ``model``.
    Rows of one prompt go together.

    Raises:
        DataError: With every row that holds neither.
    """
    found: dict[str, Row] = {}
    problems = []
    for number, record in enumerate(records_of(path), 1):
        try:
            prompt, answers = _row(record)
        except ValueError as error:
            fix = 'write {"prompt": …, "responses": {"model": "its answer", …}}'
            problems.append(Problem(f"{path}:{number}", str(error), fix))
            continue
        kept = found.setdefault(key_of(prompt), (prompt, {}))[1]
        for model, text in answers.items():
            kept[_free(model, kept)] = text
    problems += [] if problems else _lonely(path, found)
    if problems:
        raise DataError(*problems[:10])
    return list(found.values())


def _row(record: Mapping[str, Any]) -> Row:
    prompt = record.get("prompt", record.get("messages"))
    if not prompt or not isinstance(prompt, str | list):
        raise ValueError("has no prompt, in text or in messages")
    asked = kept_prompt(prompt)
    said = record.get("responses")
    if said is None and isinstance(record.get("completion"), str):
        said = {str(record.get("model") or "answer"): record["completion"]}
    if isinstance(said, list):
        said = {f"answer {i}": text for i, text in enumerate(said, 1)}
    if not isinstance(said, Mapping) or not said:
        raise ValueError("has no responses")
    if not all(isinstance(text, str) and text.strip() for text in said.values()):
        raise ValueError("has a response that is no text, or an empty one")
    return asked, {str(model): text for model, text in said.items()}


def kept_prompt(prompt: Any) -> dict[str, Any]:
    """A prompt as feedback keeps it: ``messages`` and ``tools``, or ``prompt``."""
    if isinstance(prompt, str):
        return {"prompt": prompt}
    first = prompt[0]
    if not all(isinstance(m, Mapping) and "role" in m and "content" in m for m in prompt):
        raise ValueError("has a prompt that is no text and no list of messages")
    tools = {"tools": first["tools"]} if first.get("tools") else {}
    plain = [{k: v for k, v in m.items() if k not in ("tools", "chat_template_kwargs")}
             for m in prompt]  # fmt: skip
    return {"messages": plain, **tools}


def _free(model: str, taken: Mapping[str, str]) -> str:
    """A name that no other answer to the prompt has: several of one model are numbered."""
    name, number = model, 1
    while name in taken:
        number += 1
        name = f"{model} {number}"
    return name


def _lonely(path: Path, found: Mapping[str, Row]) -> list[Problem]:
    if any(len(answers) > 1 for _, answers in found.values()):
        return []
    fix = "give two or more answers to a prompt"
    return [Problem(str(path), "holds one answer to each prompt: there is nothing to compare", fix)]
