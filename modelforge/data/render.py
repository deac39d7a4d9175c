"""Conversations → text, by a chat template and in the form that this template reads."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from modelforge.data.call_form import CALL_FORMS, CallForm, shaped_calls
from modelforge.data.calls import is_shown_by_python, returned, split_calls, with_ids
from modelforge.data.message import Message, is_bare

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]
Tools = list[dict[str, Any]]

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# What a message says of its training; no template reads it.
OURS = frozenset({"train", "weight"})
# What a template without a tokenizer writes.
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
# Keys for a thought: transformers fills the first two from each other where they are not there.
THOUGHT_KEYS: tuple[dict[str, bool], ...] = (
    {"reasoning_content": True, "thinking": True},
    {"reasoning_content": True, "thinking": False},
    {"reasoning_content": False, "thinking": False, "reasoning": True},
)
INLINE = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)


class RenderError(Exception):
    """The chat template refuses a conversation.

    Attributes:
        reason: One of `modelforge.data.advice.ADVICE`, with a detail.
    """

    def __init__(self, detail: str, reason: str = "template fails") -> None:
        super().__init__(detail)
        self.reason = f"{reason}: {detail}"

    @classmethod
    def again(cls, reason: str) -> RenderError:
        """The error whose ``reason`` was written down."""
        kind, _, detail = reason.partition(": ")
        return cls(detail, kind)


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template is given.

    Attributes:
        messages: In normal form (see `modelforge.data.dialogue`).
        tools: The functions that may be called, in OpenAI's form; None for none.
        kwargs: Of this row alone, such as ``enable_thinking``.
    """

    messages: Sequence[Message]
    tools: Tools | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def upto(self, count: int) -> Conversation:
        """Its first messages."""
        return replace(self, messages=self.messages[:count])


# The functions of a probe, for tokenizers that have a template of its own for rows with functions.
PROBE_TOOLS: Tools = [
    {
        "type": "function",
        "function": {
            "name": "zqtool",
            "description": "?",
            "parameters": {"type": "object", "properties": {"a": {"type": "string"}}},
        },
    }
]
# Words no data holds, to see what of a message a template renders.
PROBES = ("zqtool", "zqkey", "zqvalue", "zqresult", "zqthought", "zqanswer")


class Renderer:
    """One chat template of one tokenizer, with the arguments that every row gives it.

    Args:
        tokenizer: Its special tokens, and its template; None for a template alone.
        template: Another template to render with.
        kwargs: For every conversation; a row's own come over them.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        template: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.tokenizer, self.template = tokenizer, template
        special = SPECIAL if tokenizer is None else tokenizer.special_tokens_map
        self.given = dict(kwargs or {})
        self.kwargs = {**special, **self.given}
        self._templates: dict[bool, str] = {}

    def template_for(self, tools: Tools | None) -> str:
        """The Jinja text; a tokenizer may have one of its own for rows with tools."""
        if self.template is not None:
            return self.template
        key = bool(tools)
        if key not in self._templates:
            assert self.tokenizer is not None, "a template alone is given"
            self._templates[key] = self.tokenizer.get_chat_template(tools=tools or None)
        return self._templates[key]

    @cached_property
    def has_marks(self) -> bool:
        """Whether the template says itself what the assistant speaks."""
        return bool(GENERATION.search(self.template_for(None)))

    def text(self, conversation: Conversation, *, generate: bool = False) -> str:
        """A conversation as text.

        Args:
            conversation: At least one message.
            generate: Open the assistant's turn at its end.

        Raises:
            RenderError: If the template refuses it.
        """
        return self._render([conversation], generate=generate)[0][0]

    def each(
        self, conversations: Sequence[Conversation], *, generate: bool = False, marks: bool = False
    ) -> list[tuple[str, list[Span]] | RenderError]:
        """Conversations as `text` gives them; an error stands in for one that is refused.

        Those that give the template nothing of their own are one call of the library.

        Args:
            conversations: Any.
            generate: Open the assistant's turn at the end of each.
            marks: Whether to tell where the template says that the assistant speaks.
        """
        alike = [talk for talk in conversations if is_usual(talk)]
        try:
            together = iter(self._render(alike, generate=generate, marks=marks))
        except RenderError:  # of one of them; rendered one by one, it is told which
            alike = []
        return [
            next(together)
            if alike and is_usual(talk)
            else self._alone(talk, generate=generate, marks=marks)
            for talk in conversations
        ]

    def _alone(
        self, conversation: Conversation, *, generate: bool, marks: bool
    ) -> tuple[str, list[Span]] | RenderError:
        try:
            return self._render([conversation], generate=generate, marks=marks)[0]
        except RenderError as error:
            return error

    def _render(
        self, conversations: Sequence[Conversation], *, generate: bool = False, marks: bool = False
    ) -> list[tuple[str, list[Span]]]:
        """Conversations with the same tools and arguments, each with what is marked in it."""
        from transformers.utils import chat_template_utils as transformers_templates

        if not conversations:
            return []
        tools, kwargs = conversations[0].tools, conversations[0].kwargs
        if not all(conversation.messages for conversation in conversations):
            raise RenderError("no message")
        try:
            # What `apply_chat_template` calls: it gives the marks in characters, and takes
            # content that is None, which some templates ask for beside tool calls.
            render: Any = transformers_templates.render_jinja_template
            texts, spans = render(
                conversations=[
                    [self.shaped(message) for message in self._with_ids(conversation)]
                    for conversation in conversations
                ],
                tools=tools,
                chat_template=self.template_for(tools),
                return_assistant_tokens_mask=marks,
                add_generation_prompt=generate,
                **{**self.kwargs, **kwargs},
            )
        except Exception as error:  # a template is a program of its author; it may raise anything
            raise RenderError(" ".join(str(error).split()) or type(error).__name__) from None
        return list(zip(texts, spans if marks else ([] for _ in texts), strict=True))

    def unread(self, conversation: Conversation) -> list[str]:
        """The findings of arguments that a row or the config gives and the template ignores."""
        given = {**self.given, **conversation.kwargs}
        if not given:
            return []
        template = self.template_for(conversation.tools)
        return [
            f"unread: {name}"
            for name in given
            if not re.search(rf"\b{re.escape(name)}\b", template)
        ]

    def _with_ids(self, conversation: Conversation) -> Sequence[Message]:
        """The messages; calls and what they return with ids, where the template asks for them."""
        messages = conversation.messages
        asks = any("tool_calls" in message for message in messages)
        if asks and self.call_form is not None and self.call_form.ids:
            return with_ids(messages)
        return messages

    # --- what the template reads ---------------------------------------------------------------

    def shaped(self, message: Message) -> dict[str, Any]:
        """A message as this template reads it."""
        if is_bare(message) and not self.takes_parts:
            return message
        shown = dict(self.untagged(message))
        for key in OURS & shown.keys():
            del shown[key]
        thought = shown.pop("reasoning_content", None)
        if thought and self.thought_form == "inline":
            shown["content"] = f"<think>\n{thought}\n</think>\n\n{shown['content']}"
        elif thought:
            shown |= as_fields(thought, self.thought_keys or THOUGHT_KEYS[0])
        if "tool_calls" in shown:
            shown = shaped_calls(shown, self.call_form or CALL_FORMS[0])
        if self.takes_parts and shown["content"] is not None:
            shown["content"] = [{"type": "text", "text": shown["content"]}]
        return shown

    def untagged(self, message: Message) -> Message:
        """A message whose tags for thoughts and calls are taken out, where they are not its own."""
        if is_bare(message):
            return message
        role, words = message["role"], message["content"]
        changed: dict[str, Any] = {}
        if role == "tool" and "<tool_response>" in words and self.call_form is not None:
            changed["content"] = returned(words)
        if role == "assistant" and "</think>" in words:
            thought, rest = split_thought(words)
            apart = message.get("reasoning_content") or ""
            if thought and not apart and self.thoughts_apart:
                words = rest
                changed |= {"reasoning_content": thought, "content": rest}
            elif thought and thought.split() == apart.split():  # a row may hold it in both places
                words = changed["content"] = rest
        if role == "assistant" and "<tool_call>" in words and self._takes_out_calls(words):
            words, calls = split_calls(words)
            if calls and "tool_calls" not in message:
                changed |= {"tool_calls": calls, "content": words}
        return {**message, **changed} if changed else message

    def _takes_out_calls(self, words: str) -> bool:
        """Whether tagged calls are rendered anew: in the template's own form, or as JSON."""
        return self.calls_apart or (self.call_form is not None and is_shown_by_python(words))

    @cached_property
    def takes_parts(self) -> bool:
        """Whether it reads content as parts only, as templates for pictures do."""
        asked, word = {"role": "user"}, PROBES[0]
        parts = [{"type": "text", "text": word}]
        plain, apart = (self._probe([{**asked, "content": content}]) for content in (word, parts))
        return word not in plain and word in apart

    @cached_property
    def thoughts_apart(self) -> bool:
        """Whether a thought reaches its place only in a field of its own, not in the content."""
        if self.thought_form != "field":
            return False
        thought, answer = PROBES[4:]
        inline = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{answer}"}
        fields = {"content": answer, **as_fields(thought, self.thought_keys or {})}
        asked = {"role": "user", "content": "?"}
        found, right = (self._probe([asked, each]) for each in (inline, {**inline, **fields}))
        return "".join(found.split()) != "".join(right.split())

    @cached_property
    def call_form(self) -> CallForm | None:
        """How it takes calls of functions and what they return; None: it drops them."""
        return next((form for form in CALL_FORMS if self._shows_calls(form)), None)

    @cached_property
    def calls_apart(self) -> bool:
        """Whether it writes calls otherwise than between Hermes' tags."""
        if self.call_form is None:
            return False
        call = {"name": PROBES[0], "arguments": {PROBES[1]: PROBES[2]}}
        asked, said = {"role": "user", "content": "?"}, {"role": "assistant", "content": ""}
        tagged = f"<tool_call>\n{json.dumps(call)}\n</tool_call>"
        right = shaped_calls(
            {**said, "tool_calls": [{"type": "function", "function": call}]}, self.call_form
        )
        texts = (self._probe([asked, each]) for each in ({**said, "content": tagged}, right))
        return len({"".join(text.split()) for text in texts}) > 1

    @cached_property
    def _tools_of_probe(self) -> Tools | None:
        """The functions to probe with, where the tokenizer has a template for such rows."""
        own = None if self.template is not None or self.tokenizer is None else self.tokenizer
        several = own is not None and isinstance(own.chat_template, dict)
        return PROBE_TOOLS if several else None

    def _shows_calls(self, form: CallForm) -> bool:
        name, key, value, result, *_ = PROBES
        call = {"type": "function", "function": {"name": name, "arguments": {key: value}}}
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        answer = {"role": "tool", "name": name, "content": result}
        asked = {"role": "user", "content": "?"}
        # An answer ends the turn: some templates write what was returned only there.
        talk: list[dict[str, Any]] = [asked, calling, answer, {"role": "assistant", "content": "!"}]
        if form.ids:
            talk = with_ids(talk)
        talk[1] = shaped_calls(talk[1], form)
        text = self._probe(talk, self._tools_of_probe)
        return all(word in text for word in (name, key, value, result))

    @cached_property
    def shows_tools(self) -> bool:
        """Whether it renders the functions that may be called."""
        text = self._probe([{"role": "user", "content": "?"}], PROBE_TOOLS)
        return PROBES[0] in text

    @cached_property
    def thought_form(self) -> str:
        """``field`` or ``inline``, by where it renders a thought; empty: it drops it."""
        thought, answer = PROBES[4:]
        asked = {"role": "user", "content": "?"}
        if self.thought_keys:
            return "field"
        inline = f"<think>\n{thought}\n</think>\n\n{answer}"
        known = "<think>" in self.template_for(None)
        shown = self._probe([asked, {"role": "assistant", "content": inline}])
        return "inline" if known and thought in shown else ""

    @cached_property
    def thought_keys(self) -> dict[str, bool] | None:
        """The keys of a message in which it reads a thought; None if it reads none.

        Such that it writes the thought once, for a template may read several of them.
        """
        asked, said = {"role": "user", "content": "?"}, {"role": "assistant", "content": PROBES[5]}
        forms = ({**said, **as_fields(PROBES[4], keys)} for keys in THOUGHT_KEYS)
        counts = [self._probe([asked, form]).count(PROBES[4]) for form in forms]
        best = min((count for count in counts if count), default=0)
        return THOUGHT_KEYS[counts.index(best)] if best else None

    def _probe(self, messages: Sequence[dict[str, Any]], tools: Tools | None = None) -> str:
        """Messages as they are, as text; empty where the template refuses them."""
        from transformers.utils import chat_template_utils as transformers_templates

        try:
            template = self.template_for(tools)
            render: Any = transformers_templates.render_jinja_template
            texts, _ = render(
                conversations=[list(messages)], tools=tools, chat_template=template, **self.kwargs
            )
        except Exception:  # see `_render`
            return ""
        return str(texts[0])


def is_usual(conversation: Conversation) -> bool:
    """Whether a conversation gives the template nothing but messages."""
    return bool(conversation.messages) and conversation.tools is None and not conversation.kwargs


def split_thought(content: str) -> tuple[str | None, str]:
    """The thought that content begins with, and the rest."""
    found = INLINE.match(content)
    return (found[1].strip("\n"), found[2].lstrip("\n")) if found else (None, content)


def as_fields(thought: str, keys: Mapping[str, bool]) -> dict[str, str]:
    """A thought in some keys of a message, and nothing in others."""
    return {key: thought if filled else "" for key, filled in keys.items()}
