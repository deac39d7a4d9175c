"""Completions in TRL's form, as text."""

from __future__ import annotations

from typing import Any


def completion_text(completion: Any) -> str:
    """The text of a completion: a string, or the content of a conversation's last message."""
    if isinstance(completion, str):
        return completion
    content = completion[-1].get("content") if completion else ""
    if isinstance(content, list):  # typed parts, as multimodal models write them
        return "".join(part.get("text", "") for part in content)
    return content or ""
