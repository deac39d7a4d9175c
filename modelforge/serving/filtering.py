"""Requests and answers held to constraints, before any engine and whatever it is."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modelforge.common.console import warn
from modelforge.constraints import Constraint, Constraints, Held, Violation
from modelforge.errors import UserError
from modelforge.serving.asked import Refused

FILTERED = "content_filter"
#: The texts of a message or of a piece of one; some engines write what they think beside it.
_TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
# What of an engine's answer is handed on: what is not known here could hold the text again.
_BODY = ("id", "object", "created", "model", "system_fingerprint", "usage")
_NO_USAGE = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}

T = TypeVar("T")
Choice = dict[str, Any]


async def decided(work: Callable[..., T], *given: Any) -> T:
    """Check constraints in a thread beside the server's work: a model may decide one.

    Raises:
        Refused: If one cannot be decided; then nothing is shown.
    """
    try:
        return await asyncio.to_thread(work, *given)
    except UserError as error:
        what = f"a constraint could not be decided: {error.problems[0].what}"
        raise Refused(502, what) from None


@dataclass
class Filter:
    """The constraints of one request.

    Attributes:
        constraints: Of its model.
        chat: Whether it is a chat, and not a completion.
        body: As the engine may see it.
        blocked: The constraint for which it is not answered; None where it is.
        violations: What prompt and answers break.
    """

    constraints: Constraints
    chat: bool
    body: dict[str, Any]
    blocked: Constraint | None = None
    violations: list[Violation] = field(default_factory=list)
    _choices: dict[int, _Choice] = field(default_factory=dict)

    def ask(self) -> None:
        """Hold the request to them.

        Raises:
            Refused: If it asks for what would show an answer as the model wrote it, or its prompt
                cannot be read here.
        """
        shows = self.body.get("logprobs") not in (None, False) or self.body.get("top_logprobs")
        if shows and self.constraints.changes_answers:
            what = "is not given here: it would show what constraints hold back"
            raise Refused(400, f"logprobs {what}", "logprobs")
        key = "messages" if self.chat else "prompt"
        asked = self.body.get(key)
        if not _readable(asked, chat=self.chat):
            if not self.chat and isinstance(asked, list) and self.constraints.reads_prompts:
                what = "prompts are held to constraints here, and tokens are not read: send text"
                raise Refused(400, what, key)
            return  # the engine says what is wrong with it
        several = not self.chat and isinstance(asked, list)
        each_prompt: list[Any] = list(asked or ()) if several else [asked]
        verdicts = [self.constraints.ask(each) for each in each_prompt]
        self.violations = [v for each in verdicts for v in each.violations]
        self.blocked = next((v.blocked for v in verdicts if v.blocked is not None), None)
        seen = [each.prompt for each in verdicts]
        self.body = {**self.body, key: seen if several else seen[0]}

    def refusal(self, model: str) -> dict[str, Any]:
        """The answer to a request that is blocked, in OpenAI's words."""
        assert self.blocked is not None
        text = self.blocked.message
        count = max(1, len(self._prompts())) * self._number()
        said: Choice = {"message": {"role": "assistant", "content": text, "refusal": text}}
        one = (said if self.chat else {"text": text}) | {"finish_reason": FILTERED}
        choices = [{"index": i, **one, "logprobs": None} for i in range(count)]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._frame(model, kind) | {"choices": choices, "usage": _NO_USAGE}

    def refused_events(self, model: str) -> list[dict[str, Any]]:
        """The same as a stream."""
        events = []
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        frame = self._frame(model, kind)
        for choice in self.refusal(model)["choices"]:
            text = choice["message"] if self.chat else choice["text"]
            for piece, reason in ((text, None), ({} if self.chat else "", FILTERED)):
                shown = {"delta" if self.chat else "text": piece}
                one = {"index": choice["index"], **shown, "finish_reason": reason}
                events.append(frame | {"choices": [one]})
        options = self.body.get("stream_options")
        if isinstance(options, Mapping) and options.get("include_usage") is True:
            events.append(frame | {"choices": [], "usage": _NO_USAGE})
        return events

    def _frame(self, model: str, kind: str) -> dict[str, Any]:
        name = f"{'chatcmpl' if self.chat else 'cmpl'}-{uuid.uuid4().hex}"
        return {"id": name, "object": kind, "created": int(time.time()), "model": model}

    def _number(self) -> int:
        said = self.body.get("n")
        return said if type(said) is int and 1 <= said <= 16 else 1

    def _prompts(self) -> list[Any]:
        said = self.body.get("messages" if self.chat else "prompt")
        several = not self.chat and isinstance(said, list) and _readable(said, chat=False)
        return list(said) if several and isinstance(said, list) else [said]

    def _of(self, index: int) -> _Choice:
        if index not in self._choices:
            prompts = self._prompts()
            prompt = prompts[min(index // self._number(), len(prompts) - 1)]
            readable = _readable(prompt, chat=self.chat)
            self._choices[index] = _Choice(self.constraints, prompt if readable else None)
        return self._choices[index]

    def whole(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """An engine's answer as it may be shown."""
        choices = []
        for choice in content.get("choices") or ():
            one = self._of(choice.get("index", 0))
            said = choice.get("message") if self.chat else {"content": choice.get("text")}
            message = one.feed(said or {}, final=True)
            calls = one.calls(final=True)
            if calls:
                message["tool_calls"] = calls[0]["tool_calls"]
            reason = FILTERED if one.blocked else choice.get("finish_reason")
            shown = {"message": {"role": "assistant", "content": None, **message}}
            text = shown if self.chat else {"text": message.get("content", "")}
            logprobs = None if self.constraints.changes_answers else choice.get("logprobs")
            choices.append({"index": choice.get("index", 0), **text, "finish_reason": reason,
                            "logprobs": logprobs})  # fmt: skip
            self.violations += one.violations()
        return {key: content[key] for key in _BODY if key in content} | {"choices": choices}

    def event(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What may be shown of an engine's event, as events."""
        frame = {key: found[key] for key in _BODY if key in found}
        if "error" in found or not found.get("choices"):
            return [dict(found) if "error" in found else frame | {"choices": []}]
        events = []
        for choice in found["choices"]:
            for one in self._pieces(choice):
                events.append({k: v for k, v in frame.items() if k != "usage"} | {"choices": [one]})
        return events

    def _pieces(self, choice: Mapping[str, Any]) -> list[Choice]:
        index = choice.get("index", 0)
        one, reason = self._of(index), choice.get("finish_reason")
        if one.done:
            return []
        said = (choice.get("delta") if self.chat else {"content": choice.get("text")}) or {}
        deltas = [one.feed(said, final=reason is not None)]
        deltas += one.calls(final=reason is not None)
        logprobs = None if self.constraints.changes_answers else choice.get("logprobs")
        shown = [self._piece(index, delta, logprobs) for delta in deltas if delta]
        if reason is not None or one.blocked:
            one.done = True
            self.violations += one.violations()
            end: Choice = {"delta": {}} if self.chat else {"text": ""}
            shown.append(
                {"index": index, **end, "finish_reason": FILTERED if one.blocked else reason}
            )
        return shown

    def _piece(self, index: int, delta: Mapping[str, Any], logprobs: Any) -> Choice:
        text = {"delta": dict(delta)} if self.chat else {"text": delta.get("content", "")}
        return {"index": index, **text, "finish_reason": None, "logprobs": logprobs}

    def close(self) -> list[dict[str, Any]]:
        """What is left of answers whose engine did not say that they have ended."""
        left = [i for i, one in self._choices.items() if not one.done]
        return [
            {"choices": [p]}
            for i in left
            for p in self._pieces({"index": i, "finish_reason": "stop"})
        ]

    @property
    def done(self) -> bool:
        """Whether every answer of a stream has ended, and one before the engine was done."""
        count = max(1, len(self._prompts())) * self._number()
        ended = sum(one.done for one in self._choices.values())
        return ended >= count and any(one.blocked for one in self._choices.values())

    def tell(self) -> None:
        """Warn of what is to be warned of; no text of a user is shown."""
        for name, side in {(v.constraint, v.side) for v in self.violations if v.action == "warn"}:
            warn(f"constraint '{name}' is broken by an {side}")


class _Choice:
    """One answer: its texts, and its calls of tools, which are shown when they are whole."""

    def __init__(self, constraints: Constraints, prompt: Any) -> None:
        self._constraints, self._prompt = constraints, prompt
        self._held: dict[str, Held] = {}
        self._deltas: list[list[Any]] = []
        self._broken: list[Violation] = []
        self.blocked = self.done = False

    def feed(self, said: Mapping[str, Any], *, final: bool) -> dict[str, Any]:
        """What may be shown of a message, or of a piece of one."""
        shown: dict[str, Any] = {}
        if isinstance(said.get("role"), str):
            shown["role"] = said["role"]
        if said.get("tool_calls"):
            self._deltas.append(list(said["tool_calls"]))
        for name in _TEXTS:
            text = said.get(name)
            if isinstance(text, str) and text and name not in self._held:
                part = name != "content"
                self._held[name] = self._constraints.hold(self._prompt, part=part)
            if name in self._held:
                piece = text if isinstance(text, str) else ""
                if new := self._held[name].feed(piece, final=final):
                    shown[name] = new
            elif text == "" and "role" in shown:
                shown[name] = ""
        if not final and any(held.blocked for held in self._held.values()):
            for name, held in self._held.items():
                shown[name] = shown.get(name, "") + held.close()
            shown = {name: text for name, text in shown.items() if text}
        if final and "content" not in self._held and not self._deltas:
            # An answer without a word is one too: it may lack what is required.
            self._held["content"] = self._constraints.hold(self._prompt)
            if new := self._held["content"].close():
                shown["content"] = new
        self.blocked |= any(held.blocked for held in self._held.values())
        return shown

    def calls(self, *, final: bool) -> list[dict[str, Any]]:
        """Its calls of tools, once they are whole and may be shown."""
        if not final or not self._deltas:
            return []
        deltas, self._deltas = self._deltas, []
        said = _said(deltas)
        broken = [self._constraints.of_answer(self._prompt, text, cut=True) for text in said]
        self._broken = [each for found in broken for each in found]
        if any(each.action in ("block", "rewrite") for each in self._broken):
            self.blocked = True
        return [] if self.blocked else [{"tool_calls": calls} for calls in deltas]

    def violations(self) -> list[Violation]:
        """What it breaks, each constraint once."""
        found = [v for held in self._held.values() for v in self._constraints.violations(held)]
        return list({v.constraint: v for v in [*found, *self._broken]}.values())


def _said(deltas: Sequence[Sequence[Any]]) -> set[str]:
    """The names and arguments of calls, and each text within them as it is once it is read."""
    texts: dict[Any, str] = {}
    for call in (call for calls in deltas for call in calls if isinstance(call, Mapping)):
        function = call.get("function") or {}
        for key in ("name", "arguments"):
            place = call.get("index", call.get("id")), key
            said = function.get(key) or ""
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
            texts[place] = texts.get(place, "") + text
    found, left = set(texts.values()), []
    for text in texts.values():
        try:
            # As pairs: of a key that stands twice both values are seen.
            left.append(json.loads(text, object_pairs_hook=list))
        except (ValueError, RecursionError):
            continue
    while left:
        value = left.pop()
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, list | tuple):
            left += value
    return found


def _readable(prompt: Any, *, chat: bool) -> bool:
    """Whether a prompt is text, texts or messages."""
    if chat:
        return isinstance(prompt, list) and all(isinstance(each, dict) for each in prompt)
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, list) and bool(prompt) and all(isinstance(p, str) for p in prompt)
