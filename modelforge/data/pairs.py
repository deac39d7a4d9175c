"""Rows that hold a better and a worse answer → pairs, or the better one alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from modelforge.data.convert import (
    Cells,
    Example,
    Mode,
    as_messages,
    emit,
    prompt_of,
    read_messages,
    reply_of,
    text,
    with_system,
)
from modelforge.data.dialogue import (
    Message,
    Skip,
    is_marked,
    is_messages,
    parse_marked,
    split_common,
    split_last_reply,
    to_messages,
)


def read_best_and_wrong(cells: Cells, mode: Mode) -> Iterator[Example]:
    """TruthfulQA: the best answer against the first of the incorrect ones (``;`` between)."""
    wrong = str(cells.get("rejected") or "").split(";")[0].strip()
    yield from read_pair({**cells, "rejected": wrong}, mode)


def read_pair(cells: Cells, mode: Mode) -> Iterator[Example]:
    """chosen and rejected, with a prompt or with the prompt implicit in both."""
    margin = cells.get("margin")
    alone = "prompt" not in cells
    chosen, rejected = (
        whole_dialogue(cells.get(role), mode, alone=alone) for role in ("chosen", "rejected")
    )
    if chosen is not None and rejected is None and mode.pairs:
        # The conversation, and a worse reply at its end.
        prompt, last = split_last_reply(chosen)
        if not prompt or last is None:
            raise Skip("no assistant reply")
        rejected = [*prompt, *as_messages(reply_of(cells, "rejected"), "assistant")]
    if chosen is not None and not mode.pairs:
        prompt, reply = split_last_reply(chosen)
        if not prompt or reply is None:
            raise Skip("no assistant reply")
        yield emit(mode, with_system(prompt, cells), reply)
    elif chosen is not None and rejected is not None:
        prompt, better, worse = split_common(chosen, rejected)
        yield emit(mode, with_system(prompt, cells), better, worse, margin)
    elif "prompt" in cells:
        bad_reply = reply_of(cells, "rejected") if mode.pairs else None
        yield emit(mode, prompt_of(cells, mode), reply_of(cells, "chosen"), bad_reply, margin)
    else:
        texts = split_text(text(cells, "chosen"), text(cells, "rejected"))
        # In messages the blank between prompt and reply is the template's business.
        start, good, bad = (t.strip() for t in texts) if mode.conversational else texts
        yield emit(mode, start, good, bad, margin)


def read_messages_and_rejected(cells: Cells, mode: Mode) -> Iterator[Example]:
    """A conversation with a worse last reply, text or messages, in a column of its own."""
    if mode.pairs:
        yield from read_pair(cells, mode)
    else:
        yield from read_messages({**cells, "messages": cells.get("chosen")}, mode)


def whole_dialogue(value: Any, mode: Mode, *, alone: bool) -> list[Message] | None:
    """The messages of a reply that repeats its prompt; None for a reply alone.

    Args:
        value: Of a cell.
        mode: What to make of it.
        alone: Whether there is no prompt beside it: then the assistant may begin the dialogue.
    """
    if mode.conversational and is_marked(value):
        return parse_marked(value)
    if is_messages(value):
        messages = to_messages(value)
        begun = messages[0]["role"] == "assistant"
        asked = alone and any(message["role"] == "user" for message in messages)
        return messages if asked or not begun else None
    return None


def split_text(chosen: str, rejected: str) -> tuple[str, str, str]:
    """Two texts with a common beginning → the prompt and the two ends.

    The prompt ends behind the last ``Assistant:`` of the common part, else behind its last line
    break, else before its last blank, so that no word is cut.

    Raises:
        Skip: If they are equal or share no beginning.
    """
    if chosen == rejected:
        raise Skip("chosen equals rejected")
    ends = (i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b)
    shared = chosen[: next(ends, min(len(chosen), len(rejected)))]
    marks = [mark.end() for mark in re.finditer(r"(?:^|\n)Assistant:", shared)]
    end = marks[-1] if marks else shared.rfind("\n") + 1 or max(shared.rfind(" "), 0)
    if not shared[:end].strip():
        raise Skip("no common prompt")
    if not chosen[end:].strip() or not rejected[end:].strip():
        raise Skip("empty cell", "rejected" if chosen[end:].strip() else "chosen")
    return chosen[:end], chosen[end:], rejected[end:]
