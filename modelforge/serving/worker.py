"""The transformers engine: a process of its own, on loopback, that the gateway alone talks to.

    python -m modelforge.serving.worker '{"models": {"name": "runs/x"}, "port": 8001, "size": 32}'

It answers `/v1/chat/completions`, `/v1/completions` and `/health`, and ends with who started it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from modelforge.constraints import Constraints
from modelforge.constraints.steering import Steering
from modelforge.errors import ConfigError, UserError
from modelforge.evaluation.opened import Bench
from modelforge.evaluation.samples import eos_ids
from modelforge.inference.answers import prompt_ids
from modelforge.inference.trained import Trained, find_trained, load_tokenizer
from modelforge.serving.answering import Answer, Piece, answer
from modelforge.serving.asked import (
    ChatAsked,
    CompletionAsked,
    Kind,
    Refused,
    read,
    refused_by,
)
from modelforge.serving.batching import Batch, Draw
from modelforge.serving.engines import KEY
from modelforge.serving.hangup import unless_hung_up
from modelforge.serving.replies import DONE, Reply, calling, event, make_calls_readable

_CONTEXT = 8192  # of a model whose config says none


@dataclass(frozen=True)
class Served:
    """A model that answers.

    Attributes:
        name: As clients call it.
        trained: With its tokenizer.
        batch: Its requests.
        steering: Which tokens may not come next; None for any.
    """

    name: str
    trained: Trained
    batch: Batch
    steering: Steering | None = None

    def ids(self, asked: ChatAsked | CompletionAsked) -> list[list[int]]:
        """Each prompt in tokens, as in training.

        Raises:
            Refused: If the template refuses it, or it leaves no room for an answer.
        """
        try:
            if isinstance(asked, ChatAsked):
                found = [self._chat(asked)]
            else:
                said = asked.prompts
                found = [prompt_ids(self.trained, p) if isinstance(p, str) else p for p in said]
        except UserError as error:
            raise refused_by(error) from None
        words = len(self.trained.tokenizer)
        for ids in found:
            if not ids or max(ids) >= words:
                raise Refused(400, "the prompt is empty, or holds a token that is none", "prompt")
            if len(ids) >= self.batch.context:
                what = f"the prompt has {len(ids)} tokens, and the model's context {self.context}"
                raise Refused(400, f"{what}: there is no room for an answer", "messages")
        return found

    @property
    def context(self) -> int:
        """The most tokens of a prompt and its answer."""
        return self.batch.context

    def _chat(self, asked: ChatAsked) -> list[int]:
        if not self.trained.tokenizer.chat_template:
            raise Refused(400, f"{self.name} has no chat template: use /v1/completions")
        messages = [message.plain() for message in asked.messages]
        system = self.trained.named.recorded.get("system_prompt")
        if system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": system})
        if asked.offered:
            self._reads_calls()
            messages[0]["tools"] = asked.offered
        kwargs = asked.chat_template_kwargs or {}
        if taken := kwargs.keys() & _parameters(self.trained.tokenizer.apply_chat_template):
            name = min(taken)
            raise Refused(400, f"{name} is no variable of a template", "chat_template_kwargs")
        try:
            return prompt_ids(self.trained, messages, kwargs)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise Refused(400, f"the chat template cannot take this: {error}") from None

    def _reads_calls(self) -> None:
        try:
            make_calls_readable(self.trained.tokenizer, self.name)
        except ConfigError as error:
            raise Refused(400, f"tools: {error.problems[0].what}", "tools") from None

    def draws(self, asked: ChatAsked | CompletionAsked) -> list[Draw]:
        """How each of the ``n`` answers is drawn: as asked, else as the model's own files say."""
        own = self.trained.model.generation_config
        sampled = own is not None and own.do_sample
        chosen: dict[str, Any] = {}
        for name, default in (("temperature", 1.0), ("top_p", 1.0), ("top_k", 0)):
            said = (getattr(asked, name), getattr(own, name, None) if sampled else None, default)
            chosen[name] = next(value for value in said if value is not None)
        seeds = [None if asked.seed is None else asked.seed + i for i in range(asked.n or 1)]
        chosen["forbidden"] = None if self.steering is None else self.steering.forbidden
        return [Draw(**chosen, seed=seed, tops=asked.tops) for seed in seeds]


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def load(
    models: Mapping[str, str], size: int, steered: Mapping[str, list[Any]] | None = None
) -> dict[str, Served]:
    """Open all models; adapters on one base share it.

    Args:
        models: What each name stands for.
        size: The most requests in one step.
        steered: The entries of constraints that a model is steered around, by its name.
    """
    import torch

    bench, lock = Bench(), threading.Lock()
    found = {name: find_trained(said) for name, said in models.items()}
    served = {}
    for each in found.values():
        with bench.model(each):  # all adapters are in their base before one is asked
            pass
    for name, each in found.items():
        tokenizer = load_tokenizer(each)
        with bench.model(each) as model:
            bare = model.get_base_model() if hasattr(model, "peft_config") else model

        @contextmanager
        def turn(each: Any = each) -> Iterator[None]:
            with lock, bench.model(each):
                yield

        with torch.no_grad():
            trained = Trained(each, bare, tokenizer)
            batch = Batch(
                bare,
                torch.inference_mode if len(found) == 1 else turn,
                ends=eos_ids(bare, tokenizer),
                context=trained.context or _CONTEXT,
                size=size,
            )
        batch.start()
        entries = (steered or {}).get(name)
        steering = Steering(tokenizer, Constraints(entries)) if entries else None
        served[name] = Served(name, trained, batch, steering)
    return served


class Work:
    """One request, from its body to its answers."""

    def __init__(self, served: Served, kind: Kind, asked: ChatAsked | CompletionAsked) -> None:
        self.served, self.asked = served, asked
        self.prompts = served.ids(asked)
        self.answers = [Answer(draw) for _ in self.prompts for draw in served.draws(asked)]
        self.reply = Reply(kind, served.name, served.trained.tokenizer, served.batch.ends)
        self.tokens = sum(map(len, self.prompts))
        self.tools = asked.offered if isinstance(asked, ChatAsked) else None

    def pieces(self, index: int) -> AsyncGenerator[Piece, None]:
        """The text of one answer as it comes."""
        ids = self.prompts[index // (self.asked.n or 1)]
        room = self.served.context - len(ids)
        return answer(
            self.served.batch,
            self.served.trained.tokenizer,
            f"{self.reply.id}-{index}",
            ids,
            self.answers[index],
            most=min(self.asked.most or room, room),
            stops=self.asked.stops,
        )

    def message(self, index: int) -> dict[str, Any] | None:
        """An answer that calls tools, as a message; None for one that calls none."""
        if not self.tools:
            return None
        ids = self.prompts[index // (self.asked.n or 1)]
        tokenizer = self.served.trained.tokenizer
        name = f"{self.reply.id}-{index}"
        return calling(tokenizer, name, ids, self.answers[index].ids, self.tools)

    async def whole(self) -> dict[str, Any]:
        """The body of the answer."""

        async def read_all(index: int) -> None:
            async with contextlib.aclosing(self.pieces(index)) as pieces:
                async for _ in pieces:
                    pass

        try:
            async with asyncio.TaskGroup() as group:
                for index in range(len(self.answers)):
                    group.create_task(read_all(index))
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        body = self.reply.whole(self.answers, self.tokens)
        for choice in body["choices"]:
            if (message := self.message(choice["index"])) is not None:
                choice |= {"message": message, "finish_reason": "tool_calls"}
        return body

    async def events(self) -> AsyncIterator[str]:
        """The answer as a stream; its choices come side by side."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._choice(i, queue)) for i in range(len(self.answers))]
        running = len(tasks)
        try:
            while running:
                found = await queue.get()
                if found is None:
                    running -= 1
                    continue
                yield event(found)
                if "error" in found:
                    return
            if self.asked.usage:
                yield event(self.reply.took(self.answers, self.tokens))
            yield DONE
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _choice(self, index: int, queue: asyncio.Queue[dict[str, Any] | None]) -> None:
        found = self.answers[index]
        if isinstance(self.asked, ChatAsked):
            queue.put_nowait(self.reply.begin(index))
        try:
            async with contextlib.aclosing(self.pieces(index)) as pieces:
                async for piece in pieces:
                    if piece.text and not self.tools:
                        queue.put_nowait(self.reply.piece(index, found, piece))
        except Refused as error:
            queue.put_nowait(error.body())
            return
        reason = found.finish_reason
        if self.tools:  # whether it calls one is known at its end
            if (message := self.message(index)) is not None:
                queue.put_nowait(self.reply.called(index, message))
                reason = "tool_calls"
            else:
                queue.put_nowait(self.reply.whole_piece(index, found))
        queue.put_nowait(self.reply.end(index, reason))
        queue.put_nowait(None)


def build(served: Mapping[str, Served], key: str) -> Starlette:
    """The engine's app."""

    async def asked(request: Request, kind: Kind) -> Response:
        if request.headers.get("authorization") != f"Bearer {key}":
            return JSONResponse({}, 401)
        try:
            found = read(kind, await request.json())
            work = Work(served[found.model], kind, found)
            if found.stream:
                return StreamingResponse(work.events(), media_type="text/event-stream")
            body = await unless_hung_up(request, work.whole())
        except Refused as error:
            return JSONResponse(error.body(), error.status)
        return JSONResponse(body)

    async def chat(request: Request) -> Response:
        return await asked(request, "chat")

    async def completion(request: Request) -> Response:
        return await asked(request, "completion")

    async def health(request: Request) -> Response:
        wrong = [each.batch.error for each in served.values() if each.batch.error]
        return JSONResponse({"errors": wrong}, 503 if wrong else 200)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/health", health),
        ]
    )


def end_with_parent() -> None:
    """Leave when who started this process is gone, however it went: its pipe closes then."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main(argument: Sequence[str]) -> None:
    """Load, and answer."""
    end_with_parent()
    said = json.loads(argument[0])
    try:
        served = load(said["models"], said["size"], said.get("steered"))
    except UserError as error:  # the gateway shows the last lines of this process
        sys.exit("\n".join(map(str, error.problems)))
    app = build(served, os.environ[KEY])
    uvicorn.run(app, host="127.0.0.1", port=said["port"], log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
