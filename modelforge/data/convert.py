"""Cells of one recognised format → examples in the normal form of a kind.

A converter takes the items of one file (cells by role, see `formats.TABLE`) and yields examples; a
row it cannot use goes to ``drop``. Normal forms:

=============  =====================================================================
demonstration  ``{"prompt", "completion"}``, ``{"messages"}`` or ``{"text"}``
preference     ``{"prompt", "chosen", "rejected"}`` and, where known, ``"margin"``
labelled       ``{"prompt", "completion", "label"}``: an answer, and whether it is a good one
prompt         ``{"prompt"}`` and, where known, ``"answer"`` (the reference: a string, or a
               list of right ones)
=============  =====================================================================

``prompt``, ``completion``, ``chosen`` and ``rejected`` are lists of messages, or strings where the
tokenizer has no chat template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from modelforge.data.cells import is_empty, texts_of, written, written_out
from modelforge.data.dialogue import (
    Message,
    Skip,
    answer_of,
    is_marked,
    is_message,
    is_messages,
    parse_marked,
    says,
    split_last_reply,
    to_messages,
)
from modelforge.data.read import Row
from modelforge.data.turns import choices_of, chosen_label, earlier_turns

DataKind = Literal["demonstration", "preference", "labelled", "prompt"]
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

    @property
    def pairs(self) -> bool:
        """Whether both sides of a pair are wanted; for labelled answers, which part them later."""
        return self.kind in ("preference", "labelled")


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
    """The prompt, text or messages, with all columns that stand around it.

    Raises:
        Skip: If it is empty, or a column cannot be placed beside messages.
    """
    value: Any = cells.get("prompt")
    if isinstance(value, Mapping) and is_messages(value.get("messages")):
        value = value["messages"]  # {"messages": [...], "tools": [...]}
    if is_messages(value) or is_message(value):
        prompt: Text = to_messages(value)
    elif mode.conversational and is_marked(value):
        prompt = parse_marked(value)
    else:
        return around(question_of(cells), cells)
    for role in ("body", "context", "input", "choices"):
        if part(cells, role):
            raise Skip("beside messages", role)
    return around(prompt, cells)


def question_of(cells: Cells) -> str:
    """A question in text, with ``body`` and ``context`` before it, ``input`` and choices after."""
    words = text(cells, "prompt")
    before = ((part(cells, "body"), " "), (part(cells, "context"), "\n\n"))
    listed = "\n".join(f"{label}. {choice}" for label, choice in choices_of(cells.get("choices")))
    aside = part(cells, "aside")
    if words in aside:
        aside = ""  # the whole row, rendered once more
    after = (part(cells, "input"), aside, listed)
    return (
        "".join(piece + joint for piece, joint in before if piece)
        + words
        + "".join(f"\n\n{piece}" for piece in after if piece)
    )


def around(prompt: Text, cells: Cells) -> Text:
    """A prompt after its ``system`` message and the turns of its ``history``."""
    system, earlier = system_of(cells), earlier_turns(cells.get("history"))
    if not system and not earlier:
        return prompt
    return with_system([*earlier, *as_messages(prompt, "user")], cells)


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


def system_of(cells: Cells) -> str:
    """The text of a system message, which may stand in parts, as Gemini's and Bedrock's do."""
    value = cells.get("system")
    if is_empty(value):
        return ""
    texts = texts_of(value.get("parts", value) if isinstance(value, Mapping) else value)
    return part({"system": texts if texts is value else "\n".join(texts)}, "system")


def reply_of(cells: Cells, role: str) -> Text:
    """A reply: text, one message, messages, or the first of several reference answers."""
    value = cells.get(role)
    if is_messages(value) or is_message(value):
        return to_messages(value)
    value = texts_of(value)
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
    """prompt, completion; with earlier turns a conversation, of which all replies are trained.

    Of several reference answers a prompt keeps all.
    """
    several = cells.get("completion")
    if (
        mode.kind == "prompt"
        and isinstance(several, list)
        and len(several) > 1
        and all(isinstance(each, str) and each.strip() for each in several)
    ):
        yield {**emit(mode, prompt_of(cells, mode), several[0]), "answer": several}
        return
    choices = choices_of(cells.get("choices"))
    if choices:
        cells = {**cells, "completion": chosen_label(choices, cells.get("completion"))}
    try:
        reply: Text | None = reply_of(cells, "completion")
    except Skip:
        if mode.kind != "prompt":
            raise
        reply = None  # a prompt without a reference answer is still a prompt
    prompt = prompt_of(cells, mode)
    if reply and mode.kind == "demonstration" and not is_empty(cells.get("history")):
        yield emit_dialogue(mode, as_messages(prompt, "user") + as_messages(reply, "assistant"))
    else:
        yield emit(mode, prompt, reply)


def read_prompt(cells: Cells, mode: Mode) -> Iterator[Example]:
    """prompt alone."""
    yield emit(mode, prompt_of(cells, mode), None)


def read_text(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Plain text, supervised throughout."""
    words, asked = text(cells, "text"), part(cells, "prompt")
    if asked.strip() not in words:
        raise Skip("column with a meaning of its own", "prompt")
    yield {"text": words}


def read_tokens(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Rows that are tokenised already, with labels where given; padding is left out."""
    found: list[Any] = [cells.get(role) for role in ("input_ids", "labels", "mask")]
    ids, labels, mask = found
    labels = ids if labels is None else labels
    mask = [1] * len(ids or ()) if mask is None else mask
    for role, values in (("input_ids", ids), ("labels", labels), ("mask", mask)):
        whole = isinstance(values, list) and all(type(value) is int for value in values)
        if not whole or len(values) != len(ids or ()) or not values:
            raise Skip("tokens not understood", role)
    kept = [pair for pair, seen in zip(zip(ids, labels, strict=True), mask, strict=True) if seen]
    yield {"input_ids": [pair[0] for pair in kept], "labels": [pair[1] for pair in kept]}


def read_segments(cells: Cells, mode: Mode) -> Iterator[Example]:
    """Pieces of text, each with whether it is trained on; nothing is put around them."""
    pieces = []
    for segment in cells["segments"] or ():
        words = written(segment.get("text")) if isinstance(segment, Mapping) else None
        if words is None or not isinstance(segment.get("label"), bool | int):
            raise Skip("segments not understood", "segments")
        pieces.append({"text": words, "label": bool(segment["label"])})
    if not any(piece["label"] for piece in pieces):
        raise Skip("no supervised token")
    yield {"segments": pieces}


def convert_paragraphs(items: Iterable[Item], mode: Mode, drop: Drop) -> Made:
    """SQuAD's articles: paragraphs, each with its questions."""
    for item in items:
        for paragraph in item.cells.get("paragraphs") or ():
            questions = paragraph.get("qas") if isinstance(paragraph, Mapping) else None
            for asked in questions if isinstance(questions, list) else [None]:
                try:
                    for example in read_question(paragraph, asked, mode):
                        yield item.row, example
                except Skip as skip:
                    drop(skip, item.row)


def read_question(paragraph: Any, asked: Any, mode: Mode) -> Iterator[Example]:
    """One question about a SQuAD paragraph, with its first answer."""
    if not isinstance(asked, Mapping):
        raise Skip("not text", "paragraphs")
    answers = [answer.get("text") for answer in asked.get("answers") or ()]
    cells = {"context": paragraph.get("context"), "prompt": asked.get("question")}
    yield from read_reply({**cells, "completion": answers}, mode)


def read_messages(cells: Cells, mode: Mode) -> Iterator[Example]:
    """A list of messages."""
    yield emit_dialogue(mode, with_system(to_messages(cells.get("messages")), cells))


def read_exchanges(cells: Cells, mode: Mode) -> Iterator[Example]:
    """A conversation as exchanges: ``{"human", "assistant"}`` or ``[asked, answered]`` each."""
    messages = earlier_turns(cells.get("messages"), "messages")
    yield from read_messages({**cells, "messages": messages}, mode)


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


def with_system(messages: list[Message], cells: Cells) -> list[Message]:
    """Messages after the system message in a column of its own, if there is one.

    Raises:
        Skip: If the messages begin with another one.
    """
    system = system_of(cells)
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": system}, *messages] if system else messages
    if system and system.strip() != messages[0]["content"].strip():
        raise Skip("two system messages")
    return messages
