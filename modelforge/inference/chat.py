"""A chat in the terminal: the answer appears as it is written, and the conversation can be kept."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say
from modelforge.common.files import read_json, write_whole, writing
from modelforge.constraints import Constraints, Held
from modelforge.errors import DataError, Problem, RunError
from modelforge.inference.answers import Answer, Sampling, answer_all, prompt_ids
from modelforge.inference.held import FILTERED, steering_of, tell
from modelforge.inference.trained import Trained

if TYPE_CHECKING:
    from modelforge.constraints.steering import Steering

HELP = {
    "/again": "answer the last message anew, with another seed",
    "/undo": "take the last message and its answer back",
    "/reset": "begin a new conversation",
    "/system TEXT": "begin a new conversation under this system message",
    "/help": "show these commands",
    "/quit": "leave; so does the end of the input",
}


class Chat:
    """One conversation with a model.

    Args:
        trained: The model.
        sampling: How answers are drawn.
        system: The system message, or None.
        tools: Offered to the model; who talks gives their results.
        template_kwargs: For the template, such as ``enable_thinking``.
        beside_base: Show the base's answer to the same conversation too.
        history: A file that the conversation is kept in, and goes on from.
        constraints: What messages and answers are held to; None for nothing.
        write: Where answers go, piece by piece.
    """

    def __init__(
        self,
        trained: Trained,
        sampling: Sampling,
        *,
        system: str | None = None,
        tools: list[Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        beside_base: bool = False,
        history: Path | None = None,
        constraints: Constraints | None = None,
        write: Callable[[str], Any] = sys.stdout.write,
    ) -> None:
        if not trained.tokenizer.chat_template:
            what = "its tokenizer has no chat template, so it takes no messages"
            fix = "use `modelforge generate`, which takes plain text"
            raise RunError(Problem(trained.named.said, what, fix))
        if beside_base and trained.named.source.adapter is None:
            what = "has no effect: the model holds all weights, and no adapter on a base"
            raise RunError(Problem("--beside-base", what, "chat with the base on its own"))
        self.trained, self.sampling, self.tools = trained, sampling, tools
        self.template_kwargs, self.beside_base = template_kwargs, beside_base
        self.history, self.write = history, write
        self.constraints = constraints
        self._steered = steering_of(trained.tokenizer, constraints)
        self.attempt = 0
        self.messages = self._kept(system)
        self._keep()  # a place that takes no file is seen before the first message

    def _kept(self, system: str | None) -> list[dict[str, Any]]:
        begin = [{"role": "system", "content": system}] if system else []
        if self.history is None or not self.history.is_file():
            return begin
        try:
            found = json.loads(self.history.read_text(encoding="utf-8"))["messages"]
        except (OSError, ValueError, KeyError, TypeError):
            fix = "name a file that `modelforge chat` wrote, or a new one"
            raise DataError(Problem(str(self.history), "holds no conversation", fix)) from None
        say(f"{self.history}: {len(found)} messages; going on")
        return list(found)

    def talk(self, lines: Iterator[str]) -> None:
        """Answer each line, until there is none; a line that begins with / is a command."""
        for line in lines:
            line = line.strip()
            if line == "/quit":
                return
            if line.startswith("/"):
                self._command(line)
            elif line and (message := self._held(line)) is not None:
                self.messages.append({"role": "user", "content": message})
                self._answer()

    def _held(self, line: str) -> str | None:
        """What the user said, as the model may see it; None where it is not answered."""
        if self.constraints is None:
            return line
        asked = self.constraints.ask(line)
        tell(asked.violations)
        if asked.blocked is None:
            return str(asked.prompt)
        self.write(asked.blocked.message + "\n")
        say(f"constraint '{asked.blocked.entry.name}' blocks the message; it is taken back")
        return None

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name == "/again" and self.messages and self.messages[-1]["role"] == "assistant":
            self.messages.pop()
            self.attempt += 1
            self._answer()
        elif name == "/undo" and len(self.messages) > 1:
            del self.messages[-2:]
            self._keep()
        elif name in ("/reset", "/system"):
            first = self.messages[:1] if self.messages[:1] else []
            system = first[0]["content"] if first and first[0]["role"] == "system" else None
            system = rest if name == "/system" else system
            self.messages = [{"role": "system", "content": system}] if system else []
            self._keep()
        elif name in ("/again", "/undo"):
            say("there is no answer yet")
        else:
            for command, meaning in HELP.items():
                say(f"{command:13} {meaning}")

    def _answer(self) -> None:
        first, *rest = self.messages
        asked = [{**first, "tools": self.tools}, *rest] if self.tools else self.messages
        ids = prompt_ids(self.trained, asked, self.template_kwargs)
        room = (self.trained.context or sys.maxsize) - len(ids)
        if room <= 0:
            say("the conversation fills the model's context; /undo or /reset makes room")
            self.messages.pop()
            return
        if self.beside_base:
            self.write("base: ")
            with self.trained.as_base():
                self._stream(ids, room)
            self.write("trained: ")
        try:
            found = self._stream(ids, room)
        except KeyboardInterrupt:
            say("stopped; the message is taken back")
            self.messages.pop()
            return
        if found.finish_reason == FILTERED:
            say("a constraint ended this answer, or took its place")
        if found.finish_reason == "length":
            say(f"cut after {len(found.ids)} tokens; --max-new-tokens sets how many there may be")
        self.messages.append({"role": "assistant", "content": found.text})
        self._keep()

    def _stream(self, ids: list[int], room: int) -> Answer:
        rules = self.constraints
        held = rules.hold(self.messages[-1]["content"]) if rules else None
        found = stream(
            self.trained,
            ids,
            Sampling(
                min(self.sampling.max_new_tokens, room),
                self.sampling.temperature,
                self.sampling.top_p,
                self.sampling.top_k,
                self.sampling.seed + self.attempt,
            ),
            self.write,
            held=held,
            steered=self._steered,
        )
        self.write("\n")
        if rules and held is not None:
            tell(rules.violations(held))
        return found

    def _keep(self) -> None:
        if self.history is not None:
            text = json.dumps({"messages": self.messages}, indent=2, ensure_ascii=False)
            with writing(self.history, "name another place with --history"):
                write_whole(self.history, text + "\n")


def read_tools(path: Path) -> list[Any]:
    """The tools of a file, as a template takes them.

    Raises:
        DataError: If it holds no list of them.
    """
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        fix = 'write [{"type": "function", "function": {"name": …, "parameters": …}}]'
        raise DataError(Problem(str(path), "holds no list of tools", fix))
    return found


def stream(
    trained: Trained,
    ids: list[int],
    sampling: Sampling,
    write: Callable[[str], Any],
    *,
    held: Held | None = None,
    steered: Steering | None = None,
) -> Answer:
    """One answer, written piece by piece as soon as its words are whole, and may be shown."""
    from transformers import TextStreamer

    class Pieces(TextStreamer):
        """Hands on each piece of text."""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            write(text if held is None else held.feed(text, final=stream_end))

    tokenizer: Any = trained.tokenizer
    pieces = Pieces(tokenizer, skip_prompt=True, skip_special_tokens=True)
    enough = None if held is None else lambda: held.blocked is not None
    found = answer_all(trained, [ids], sampling, streamer=pieces, steered=steered, enough=enough)[0]
    if held is None:
        return found
    reason = found.finish_reason if held.blocked is None else FILTERED
    return replace(found, text=held.text, finish_reason=reason)
