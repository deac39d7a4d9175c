"""Engines: processes of their own on loopback, started, watched and started again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from modelforge.common.console import say, warn
from modelforge.constraints import Constraints

KEY = "MODELFORGE_ENGINE_KEY"  # an environment variable, not an argument that all users can see
_START = 600.0  # seconds that an engine may take until it answers
_PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before each further start in a row
_STEADY = 60.0  # seconds after which an engine's end is not one in a row
_TAIL = 15  # lines of its log that are shown when it fails


@dataclass(eq=False)
class Engine:
    """One process that answers for some models.

    Attributes:
        kind: What it is, as it is called in figures.
        models: What clients call each model, and what the engine calls it.
        module: That is run as the process; None for an engine that somebody else runs.
        said: The module's argument, without the port.
        constraints: What each model's prompts and answers are held to, by what clients call it.
        url: Where it answers.
        key: What it wants to be told.
    """

    kind: str
    models: Mapping[str, str]
    module: str | None = None
    said: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, Constraints] = field(default_factory=dict)
    url: str = ""
    key: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    ready: bool = False
    restarts: int = 0
    failure: str | None = None
    _process: asyncio.subprocess.Process | None = None
    _watch: asyncio.Task[None] | None = None

    def start(self, failed: Callable[[str], None]) -> None:
        """Start it, and again whenever it ends.

        Args:
            failed: Is told what its log said, if it never answered at all.
        """
        self._watch = asyncio.create_task(self._run(failed))

    async def stop(self) -> None:
        """End it."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        self.ready = False
        await self._end()

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return self._process.pid if self._process is not None else None

    async def _run(self, failed: Callable[[str], None]) -> None:
        if self.module is None:
            await self._follow()
            return
        answered, pauses = False, deque(_PAUSES)
        while True:
            begun = asyncio.get_running_loop().time()
            with tempfile.TemporaryFile() as log:
                await self._spawn(log)
                self.ready = await self._answers()
                answered |= self.ready
                if self.ready:
                    say(f"{', '.join(self.models)}: ready")
                    await self._until_ill()
                self.ready = False
                await self._end()
                log.seek(0)
                tail = log.read()[-20_000:].decode(errors="replace").splitlines()[-_TAIL:]
            if not answered:
                self.failure = "\n".join(tail) or "it ended without a word"
                failed(self.failure)
                return
            self.restarts += 1
            if asyncio.get_running_loop().time() - begun > _STEADY:
                pauses = deque(_PAUSES)
            pause = pauses.popleft() if len(pauses) > 1 else pauses[0]
            last = f": {tail[-1]}" if tail else ""
            warn(f"the engine of {', '.join(self.models)} ended{last}; starting it again")
            await asyncio.sleep(pause)

    async def _spawn(self, log: Any) -> None:
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        assert self.module is not None
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self.module,
            json.dumps({**self.said, "port": port}),
            stdin=asyncio.subprocess.PIPE,  # never written: it ends when this process does
            stdout=log,
            stderr=log,
            env={**os.environ, KEY: self.key},
            start_new_session=True,  # Ctrl-C is for the gateway, which answers what it has taken
        )

    async def _end(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        for send in (process.terminate, process.kill):
            with contextlib.suppress(ProcessLookupError):
                send()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 5)
                return

    async def _healthy(self, http: httpx.AsyncClient) -> bool:
        try:
            answer = await http.get(f"{self.url}/health")
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    async def _answers(self) -> bool:
        """Whether it comes to answer before it ends."""
        assert self._process is not None
        end = asyncio.get_running_loop().time() + _START
        async with self._client() as http:
            while asyncio.get_running_loop().time() < end:
                if self._process.returncode is not None:
                    return False
                if await self._healthy(http):
                    return True
                await asyncio.sleep(0.1)
        return False

    async def _until_ill(self) -> None:
        """Until it ends, or says that it is ill."""
        assert self._process is not None
        async with self._client() as http:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), 5)
                    return
                with contextlib.suppress(httpx.HTTPError):  # busy is not ill
                    if (await http.get(f"{self.url}/health")).status_code >= 500:
                        return

    async def _follow(self) -> None:
        """Whether an engine that somebody else runs answers, again and again."""
        async with self._client() as http:
            while True:
                self.ready = await self._healthy(http)
                await asyncio.sleep(1)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(timeout=5, headers={"authorization": f"Bearer {self.key}"})


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def of_runs(models: Mapping[str, str], size: int, constraints: Mapping[str, Constraints]) -> Engine:
    """transformers, of runs and folders whose adapters share a base."""
    said: dict[str, Any] = {"models": dict(models), "size": size}
    said["steered"] = {
        name: [one.entry.model_dump() for one in each.steered]
        for name, each in constraints.items()
        if each.steered
    }
    names = {name: name for name in models}
    return Engine("transformers", names, "modelforge.serving.worker", said, constraints)


def of_gguf(name: str, path: Path, size: int) -> Engine:
    """llama.cpp, of one GGUF."""
    said = {"name": name, "path": str(path), "size": size}
    return Engine("llama.cpp", {name: name}, "modelforge.serving.llama", said)


def of_url(url: str) -> Engine:
    """An engine that somebody else runs, such as ``vllm serve``; it is asked what it serves.

    Raises:
        httpx.HTTPError: If it does not answer.
    """
    key = os.environ.get(KEY, "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    found = httpx.get(f"{url}/v1/models", headers=headers, timeout=10)
    found.raise_for_status()
    names = {str(each["id"]): str(each["id"]) for each in found.json()["data"]}
    return Engine("url", names, url=url, key=key, ready=True)
