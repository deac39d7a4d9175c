"""Cells of one recognised format → examples in the normal form of a kind.

A converter takes the items of one file (cells by role, see `formats.TABLE`) and yields examples; a
row it cannot use goes to ``drop``. Normal forms:

=============  =====================================================================
demonstration  ``{"prompt", "completion"}``, ``{"messages"}`` or ``{"text"}``
preference     ``{"prompt", "chosen", "rejected"}`` and, where known, ``"margin"``
prompt         ``{"prompt"}`` and, where known, ``"answer"`` (the reference, a string)
=============  =====================================================================

``prompt``, ``completion``, ``chosen`` and ``rejected`` are lists of messages, or strings where the
tokenizer has no chat template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from modelforge.data.cells import is_empty, written, written_out
from modelforge.data.dialogue import (
    Message,
    Skip,
    answer_of,
    is_marked,
    is_message,
    is_messages,
    parse_marked,
    says,
    split_common,
    split_last_reply,
    to_messages,
)
from modelforge.data.read import Row

DataKind = Literal["demonstration", "preference", "prompt"]
Example = dict[str, Any]
Cells = Mapping[str, Any]
Text = str | list[Message]


@dataclass(frozen=True, slots=True)
class Item:
    """One row with its cells by role."""

    cells: Cells
    row: Row


@dataclass(frozen=True)
class Mode:
    """What to make: the kind, and whether there is a chat template to make messages for."""

    kind: DataKind
    conversational: bool


Drop = Callable[[Skip, Row], None]
Made = Iterator[tuple[Row, Example]]
Converter = Callable[[Iterable[Item], Mode, Drop], Made]


def row_by_row(read: Callable[[Cells, Mode], Iterable[Example]]) -> Converter:
    """The converter of a format whose rows stand alone."""
    return partial(_row_by_row, read)


def _row_by_row(
    read: Callable[[Cells, Mode], Iterable[Example]],
    items: Iterable[Item],
    mode: Mode,
    drop: Drop,
) -> Made:
    for item in items:
        try:
            for example in read(item.cells, mode):
                yield item.row, example
        except Skip as skip:
            drop(skip, item.row)


# --- cells -------------------------------------------------------------------------------------


def text(cells: Cells, role: str) -> str:
    """A cell's text; a number, truth value or date is written out.

    Raises:
        Skip: If it is empty, missing or no text.
    """
    value = cells.get(role)
    if is_empty(value):
        raise Skip("empty cell", role)
    words = written(value)
    if words is None:
        raise Skip("not text", role)
    return words


def number(value: Any, reason: str = "score not understood") -> float:
    """A cell's number, also one written as text.

    Raises:
        Skip: If it is none.
    """
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Skip(reason) from None
    if found != found:
        raise Skip(reason)
    return found


def prompt_of(cells: Cells, mode: Mode) -> Text:
    """The prompt, text or messages, with ``body``, ``context``, ``input`` and ``system``."""
    value = cells.get("prompt")
    if is_messages(value) or is_message(value):
        prompt: Text = to_messages(value)
    else:
        words = text(cells, "prompt")
        if mode.conversational and is_marked(words):
            prompt = parse_marked(words)
        else:
            parts = (
                (part(cells, "body"), " "),
                (part(cells, "context"), "\n\n"),
            )
            before = "".join(words_ + joint for words_, joint in parts if words_)
            after = part(cells, "input")
            prompt = before + words + (f"\n\n{after}" if after else "")
    system = part(cells, "system")
    if not system:
        return prompt
    messages = as_messages(prompt, "user")
    if messages[0]["role"] == "system":
        return messages
    return [{"role": "system", "content": system}, *messages]


def part(cells: Cells, role: str) -> str:
    """The text of a cell that may be empty (an empty string then); lists and objects as JSON.

    Raises:
        Skip: If it holds something that has no text.
    """
    value = cells.get(role)
    if is_empty(value):
        return ""
    words = written_out(value)
    if words is None:
        raise Skip("not text", role)
    return words


def reply_of(cells: Cells, role: str) -> Text:
    """A reply: text, one message, messages, or the first of several reference answers."""
    value = cells.get(role)
    if is_messages(value) or is_message(value):
        return to_messages(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        value = value["text"]  # SQuAD's {"text": [...], "answer_start": [...]}
    if isinstance(value, list) and all(written(item) is not None for item in value):
        value = value[0] if value else ""
    return text({role: value}, role)


def as_messages(value: Text, role: str) -> list[Message]:
    """A text as one message of ``role``; messages as they are."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


# --- examples ----------------------------------------------------------------------------------


def emit(
    mode: Mode, prompt: Text, good: Text | None, bad: Text | None = None, margin: Any = None
) -> Example:
    """One example of the wanted kind, all of its texts in one form.

    Raises:
        Skip: If chosen equals rejected, a reply is empty, or messages lack a template.
    """
    replies = [reply for reply in (good, bad) if reply is not None]
    if mode.conversational or any(isinstance(value, list) for value in (prompt, *replies)):
        if not mode.conversational:
            raise Skip("needs a chat template")
        prompt = as_messages(prompt, "user")
        good = None if good is None else as_messages(good, "assistant")
        bad = None if bad is None else as_messages(bad, "assistant")
        for reply in (good, bad):
            if reply is not None and reply[-1]["role"] != "assistant":
                raise Skip("no assistant reply")
            if reply is not None and not says(reply[-1]):
                raise Skip("empty cell", "completion")
    if mode.kind == "prompt":
        answer = answer_of(good[-1]) if isinstance(good, list) else good
        return {"prompt": prompt, "answer": answer}
    if mode.kind == "demonstration":
        return {"prompt": prompt, "completion": good}
    if good == bad:
        raise Skip("chosen equals rejected")
    known = {} if margin is None else {"margin": number(margin)}
    return {"prompt": prompt, "chosen": good, "rejected": bad, **known}


def emit_dialogue(mode: Mode, messages: list[Message]) -> Example:
    """A whole conversation: supervised in every assistant turn, or a prompt up to the last."""
    if not mode.conversational:
        raise Skip("needs a chat template")
    if mode.kind == "prompt":
        prompt, reply = split_last_reply(messages)
        if not prompt:
            raise Skip("broken messages: nothing before the reply")
        return {"prompt": prompt, "answer": answer_of(reply[-1]) if reply else None}
    if not any(m["role"] == "assistant" and says(m) for m in messages):
        raise Skip("no assistant reply")
    return {"messages": messages}


# --- converters --------------------------------------------------------------------------------


def read_reply(cells: Cells, mode: Mode) -> Iterator[Example]:
    """prompt, completion."""
    try:
        reply: Text | None = reply_of(cells, "completion")
    except Skip:
        if mode.kind != "prompt":
            raise
        reply = None  # a prompt without a reference answer is still a prompt
    yield emit(mode, prompt_of(cells, mode), reply)


def read_prompt(cells: Cells, mode: Mode) -> Iterator[Example]:
    """prompt alone."""
    yield emit(mode, prompt_of(cells, mode), None)


def read_text(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Plain text, supervised throughout."""
    yield {"text": text(cells, "text")}


def read_messages(cells: Cells, mode: Mode) -> Iterator[Example]:
    """A list of messages."""
    messages = to_messages(cells.get("messages"))
    system = part(cells, "system")
    if system and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    yield emit_dialogue(mode, messages)


def read_instances(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Self-Instruct: an instruction with several ``{"input", "output"}``, an example each."""
    instances = cells.get("instances")
    if not isinstance(instances, list) or not instances:
        raise Skip("empty cell", "instances")
    for instance in instances:
        if not isinstance(instance, Mapping):
            raise Skip("not text", "instances")
        single = {**cells, "input": instance.get("input"), "completion": instance.get("output")}
        yield from read_reply(single, mode)


def read_turns(cells: Cells, mode: Mode) -> Iterator[Example]:
    """MT-Bench: the user's turns; the first is asked."""
    turns, references = cells.get("turns"), cells.get("completion")
    if not isinstance(turns, list) or not turns:
        raise Skip("empty cell", "turns")
    first = references[0] if isinstance(references, list) and references else None
    yield from read_reply({**cells, "prompt": turns[0], "completion": first}, mode)


def read_best_and_wrong(cells: Cells, mode: Mode) -> Iterator[Example]:
    """TruthfulQA: the best answer against the first of the incorrect ones (``;`` between)."""
    wrong = str(cells.get("rejected") or "").split(";")[0].strip()
    yield from read_pair({**cells, "rejected": wrong}, mode)


def read_pair(cells: Cells, mode: Mode) -> Iterator[Example]:
    """chosen and rejected, with a prompt or with the prompt implicit in both."""
    margin = cells.get("margin")
    if margin is None and cells.get("chosen_score") is not None:
        margin = number(cells["chosen_score"]) - number(cells.get("rejected_score"))
    chosen, rejected = (whole_dialogue(cells.get(role), mode) for role in ("chosen", "rejected"))
    if chosen is not None and mode.kind != "preference":
        prompt, reply = split_last_reply(chosen)
        if not prompt or reply is None:
            raise Skip("no assistant reply")
        yield emit(mode, with_system(prompt, cells), reply)
    elif chosen is not None and rejected is not None:
        prompt, better, worse = split_common(chosen, rejected)
        yield emit(mode, with_system(prompt, cells), better, worse, margin)
    elif "prompt" in cells:
        bad_reply = reply_of(cells, "rejected") if mode.kind == "preference" else None
        yield emit(mode, prompt_of(cells, mode), reply_of(cells, "chosen"), bad_reply, margin)
    else:
        texts = split_text(text(cells, "chosen"), text(cells, "rejected"))
        # In messages the blank between prompt and reply is the template's business.
        start, good, bad = (t.strip() for t in texts) if mode.conversational else texts
        yield emit(mode, start, good, bad, margin)


def with_system(prompt: list[Message], cells: Cells) -> list[Message]:
    """The prompt after the row's own system message, if it has one."""
    system = part(cells, "system")
    own = [{"role": "system", "content": system}] if system else []
    return prompt if prompt[0]["role"] == "system" else own + prompt


def whole_dialogue(value: Any, mode: Mode) -> list[Message] | None:
    """The messages of a reply that repeats its prompt; None for a reply alone."""
    if mode.conversational and is_marked(value):
        return parse_marked(value)
    if is_messages(value):
        messages = to_messages(value)
        return messages if messages[0]["role"] != "assistant" else None
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
