"""Where the assistant speaks in a rendered conversation, and what the template took away.

A template with ``{% generation %}`` marks says it itself; TRL ships such a template for many models
(`training_template`). Any other one is rendered a second time with a character behind each message
that no text holds. Between two of them stands what the template writes around the messages, so one
more rendering finds all turns, however long the conversation is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from modelforge.data.held import as_json, holds, words_of
from modelforge.data.message import Message, is_bare
from modelforge.data.render import Conversation, Renderer, RenderError, Span
from modelforge.data.turn_shape import FIRST_MARK, Shape, shape_of, shared_start

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MARKS = 0x8000  # messages that can be marked
# A first line that is indented as code is; one blank before an answer is a habit of data sets.
INDENTED = re.compile(r"\A\s*?((?:\t|  )[^\n]*\S)")
MARK = re.compile(f"[{chr(FIRST_MARK)}-{chr(FIRST_MARK + MARKS - 1)}]")


def training_template(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """TRL's training template for the tokenizer's own; None where it has none, or needs none."""
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError:  # no template of those it knows
        return None


@dataclass(frozen=True)
class Found:
    """A conversation as text.

    Attributes:
        text: As rendered.
        turns: Message → where the assistant's words and their end stand; none for one whose place
            was not found.
        cut: Message → what of it the template takes away; only those it does so to.
        unopened: Whether an answer does not begin as generation does.
    """

    text: str
    turns: dict[int, list[Span]]
    cut: dict[int, str]
    unopened: bool = False


class SpanFinder:
    """Finds the assistant's turns under one template.

    Args:
        renderer: The template that the rows are rendered with.
        generation: The template that answers are generated with, where it is another one.
        end_ids: Token ids that end a reply.
    """

    def __init__(
        self, renderer: Renderer, generation: Renderer | None, end_ids: frozenset[int]
    ) -> None:
        self.renderer, self.generation = renderer, generation or renderer
        self.end_ids = end_ids

    def find(self, conversations: Sequence[Conversation]) -> list[Found | RenderError]:
        """Render conversations and find what the assistant says in each.

        An error stands in for one that the template refuses.
        """
        marks = self.renderer.has_marks
        rendered = self.renderer.each(conversations, marks=marks)
        texts = [None if isinstance(each, RenderError) else each[0] for each in rendered]
        ends = [None] * len(texts) if marks else self._ends(conversations, texts)
        return [
            each if isinstance(each, RenderError) else self._found(conversation, *each, places)
            for conversation, each, places in zip(conversations, rendered, ends, strict=True)
        ]

    def _found(
        self,
        conversation: Conversation,
        text: str,
        blocks: list[Span],
        ends: dict[int, int] | None,
    ) -> Found:
        """What the assistant says in a conversation that was rendered.

        Args:
            conversation: It.
            text: As it was rendered.
            blocks: What the template marks, where it does.
            ends: Message → where its content ends, where the template marks nothing.
        """
        messages = conversation.messages
        speaks = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if self.renderer.has_marks:
            turns = self._of_blocks(conversation, text, blocks, speaks)
        else:
            turns, text = self._of_marks(conversation, text, ends, speaks)
        cut = lost_in([self.renderer.untagged(m) for m in messages], text, turns)
        return Found(text, turns, cut, self._unopened(text, turns))

    # --- templates that mark the turns ---------------------------------------------------------

    def _of_blocks(
        self, conversation: Conversation, text: str, blocks: list[Span], speaks: list[int]
    ) -> dict[int, list[Span]]:
        """The marked blocks, each with its message."""
        blocks = [block for block in blocks if block[0] < block[1]]
        if len(blocks) == len(speaks):
            return {i: [block] for i, block in zip(speaks, blocks, strict=True)}
        # Several blocks to a message, or none: see between which messages they stand.
        ends = self._ends([conversation], [text])[0] or {}
        turns: dict[int, list[Span]] = {}
        for block in blocks:
            # A template may write a turn's words behind what its calls returned (DiffusionGemma).
            said = [i for i in speaks if i in ends and block[0] < ends[i] <= block[1]]
            near = (i for i in speaks if block[0] <= reach(conversation, ends, i))
            owner = said[0] if len(said) == 1 else next(near, None)
            if owner is not None:
                turns.setdefault(owner, []).append(block)
        return turns

    # --- templates that do not -----------------------------------------------------------------

    def _of_marks(
        self,
        conversation: Conversation,
        text: str,
        ends: dict[int, int] | None,
        speaks: list[int],
    ) -> tuple[dict[int, list[Span]], str]:
        """The turns by a rendering with a mark behind each message; and the text, closed."""
        last = len(conversation.messages) - 1
        turns: dict[int, list[Span]] = {}
        for i in speaks:
            span = self._by_ends(conversation.messages, text, ends, i) if ends is not None else None
            span = span or self._by_prefixes(conversation, text, i)
            if span is not None:
                turns[i] = [span]
        if last in turns and not self.shape.tail and self.shape.closes:
            # The next turn's first token ends this one, and no turn follows.
            text = text.rstrip() + self.shape.closes
            turns[last] = [(turns[last][0][0], len(text))]
        return turns, text

    def _ends(
        self, conversations: Sequence[Conversation], texts: Sequence[str | None]
    ) -> list[dict[int, int] | None]:
        """Of each: message → where its content ends; None where marks change what is rendered."""
        can = [
            text is not None and len(talk.messages) <= MARKS and not MARK.search(text)
            for talk, text in zip(conversations, texts, strict=True)
        ]
        marked = [
            replace(
                talk, messages=[with_mark(message, i) for i, message in enumerate(talk.messages)]
            )
            for talk, possible in zip(conversations, can, strict=True)
            if possible
        ]
        found = iter(self.renderer.each(marked))
        return [
            ends_in(next(found), text) if possible else None
            for text, possible in zip(texts, can, strict=True)
        ]

    def _by_ends(
        self, messages: Sequence[Message], text: str, ends: dict[int, int], i: int
    ) -> Span | None:
        """A turn between what opens it, behind the message before, and what closes it."""
        before = max((ends[j] for j in range(i) if j in ends), default=0)
        limit = min((ends[j] for j in range(i + 1, len(messages)) if j in ends), default=len(text))
        start = self._start(messages, text, ends, i, before)
        if start is None or not before <= start <= ends.get(i, limit):
            return None
        if i == len(messages) - 1:
            return start, max(len(text.rstrip()), ends.get(i, 0))
        at = ends.get(i, start)
        close = text.find(self.shape.closes, at, limit) if self.shape.closes else at
        if close < 0 or (not messages[i].get("tool_calls") and text[at:close].strip()):
            return None
        return start, close + len(self.shape.closes)

    def _start(
        self, messages: Sequence[Message], text: str, ends: dict[int, int], i: int, before: int
    ) -> int | None:
        """Where a turn's words begin: behind its header, or where its content does."""
        shape = self.shape
        if shape.header:
            at = text.find(shape.header, before)
            return None if at < 0 else at + len(shape.header)
        if i and messages[i - 1]["role"] == "user" and shape.opens:
            at = text.find(shape.opens, before)
            return at + len(shape.opens) if at >= 0 and not text[before:at].strip() else None
        words = messages[i]["content"].rstrip()
        at = ends.get(i, 0) - len(words)
        return at if words and text[max(at, 0) : ends.get(i, 0)] == words else None

    def _by_prefixes(self, conversation: Conversation, text: str, i: int) -> Span | None:
        """A turn between the conversation up to it, opened, and the conversation with it."""
        try:
            opened = self.renderer.text(conversation.upto(i), generate=True)
            closed = self.renderer.text(conversation.upto(i + 1))
        except RenderError:
            return None
        if i == len(conversation.messages) - 1:
            # As TRL finds a completion: where the prompt and the whole part.
            return len(shared_start(opened, text)), len(text.rstrip())
        if not closed.startswith(opened) or not text.startswith(closed):
            return None
        return len(opened), len(opened) + len(closed[len(opened) :].rstrip())

    @cached_property
    def shape(self) -> Shape:
        """What the template writes around messages."""
        return shape_of(self.renderer, self.end_ids)

    # --- how answers begin ---------------------------------------------------------------------

    @cached_property
    def opening(self) -> str:
        """What generation writes behind the header that an answer need not begin with."""
        return self._generated.opening.strip()

    @cached_property
    def _header(self) -> str:
        return self._generated.header.strip()

    @cached_property
    def _generated(self) -> Shape:
        return shape_of(self.generation, self.end_ids)

    def _unopened(self, text: str, turns: dict[int, list[Span]]) -> bool:
        opening = self.opening
        if not opening:
            return False
        header = self._header
        for (begin, end), *_ in turns.values():
            # A template may mark its header too.
            said = text[begin:end].lstrip().removeprefix(header).lstrip()
            if not said.startswith(opening):
                return True
        return False


def ends_in(found: tuple[str, list[Span]] | RenderError, text: str | None) -> dict[int, int] | None:
    """Message → where its content ends in a text, by the same with marks in it."""
    if isinstance(found, RenderError):
        return None
    marked, _ = found
    ends: dict[int, int] = {}
    for count, match in enumerate(MARK.finditer(marked)):
        at = ord(match[0]) - FIRST_MARK
        if at in ends:
            return None
        ends[at] = match.start() - count
    return ends if MARK.sub("", marked) == text else None


def reach(conversation: Conversation, ends: Mapping[int, int], i: int) -> float:
    """Where the last block of message i may begin: before the words of the next message end."""
    following = conversation.messages[i + 1 : i + 2]
    if i in ends and following and following[0]["role"] == "assistant":
        return ends[i]
    return min((end for j, end in ends.items() if j > i), default=float("inf"))


def with_mark(message: Message, i: int) -> Message:
    """A message with a mark behind its words; without words, as it is."""
    content = message["content"]
    words = content.rstrip()
    if not words:
        return message
    return {**message, "content": words + chr(FIRST_MARK + i) + content[len(words) :]}


def lost_in(
    messages: Sequence[Message], text: str, turns: Mapping[int, Sequence[Span]]
) -> dict[int, str]:
    """`lost` of those messages that lose something."""
    each = ((i, lost(message, text, turns.get(i))) for i, message in enumerate(messages))
    return {i: what for i, what in each if what}


def lost(message: Message, text: str, spans: Sequence[Span] | None) -> str:
    """What of a message the template takes away: ``text``, ``thought``, ``call`` or nothing."""
    where = text if not spans else text[spans[0][0] : spans[-1][1]]
    if is_bare(message) and message["content"].strip() in where:
        return ""
    return next((what for what, words in words_of(message) if not holds(where, words)), "")


def reflowed(messages: Sequence[Message], text: str) -> tuple[str, ...]:
    """The finding of words whose white space the template changes: line breaks, indentation."""
    for message in messages:
        words_alone = message["content"]
        if is_bare(message) and not words_alone[:1].isspace() and words_alone.strip() in text:
            continue
        words = [each for what, each in words_of(message) if what != "call"]
        words += INDENTED.findall(message["content"] or "")
        changed = [each for each in words if each not in text and as_json(each) not in text]
        if any(holds(text, each) for each in changed):  # else it is lost, which is told apart
            return ("reflowed",)
    return ()
