"""A server under load, on loopback: is any answer wrong or lost, and how long does it take?

    python benchmarks/serve.py [--seconds 60]

It serves the tiny model and two adapters of random weights on it. Each answer is held
against the one that the same server gave to the same prompt alone. It needs the extra `serve`.
"""

import argparse
import asyncio
import collections
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples/tiny/model"
LIMIT = 20


def adapters_of(folder: Path) -> dict[str, str]:
    """Two adapters of random weights, so that each answers otherwise."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = {}
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "down_proj"]))
        for weight_name, weight in model.named_parameters():
            if "lora_B" in weight_name:
                weight.data.normal_(std=1.5)
        model.save_pretrained(folder / name)
        AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder / name)
        found[name] = str(folder / name)
    return found


class Server:
    """`modelforge serve`, as a user starts it."""

    def __init__(self, folder: Path, models: dict[str, str], *options: str) -> None:
        log = folder / "log"
        said = [f"{name}={path}" for name, path in models.items()]
        command = [sys.executable, "-m", "modelforge", "serve", *said, "--port", "0", *options]
        with log.open("w") as file:
            self.process = subprocess.Popen(command, stderr=file, cwd=folder)
        while "/v1 answers" not in log.read_text():
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.05)
        self.url = log.read_text().partition("/v1 answers")[0].split()[-1]
        while httpx.get(f"{self.url}/ready").status_code != 200:
            assert self.process.poll() is None, log.read_text()
            time.sleep(0.1)

    def cpu(self) -> float:
        """Seconds of the gateway and its engine."""
        gateway = psutil.Process(self.process.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (gateway, *gateway.children()))

    def figure(self, name: str) -> float:
        """A figure of `/metrics`, over all its labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def prompts(count: int) -> list[str]:
    """All different."""
    return [f"What is {i // 30} plus {i % 30}?" for i in range(count)]


def body(model: str, prompt: str, **words) -> dict:
    """A greedy request."""
    asked = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 32}
    return asked | {"temperature": 0} | words


async def ask(http: httpx.AsyncClient, **words) -> tuple[int, str, int]:
    """Status, text and number of tokens."""
    answer = await http.post("/v1/chat/completions", json=body(**words))
    if answer.status_code != 200:
        return answer.status_code, answer.text, 0
    found = answer.json()
    text = found["choices"][0]["message"]["content"]
    return 200, text, found["usage"]["completion_tokens"]


async def batching(http: httpx.AsyncClient) -> dict:
    """32 different prompts one at a time, and all at once."""
    rates, texts = {}, {}
    for name in ("warm", "alone", "at once"):
        begin = time.monotonic()
        if name == "alone":
            found = [await ask(http, model="tiny", prompt=p) for p in prompts(32)]
        else:
            found = await asyncio.gather(*(ask(http, model="tiny", prompt=p) for p in prompts(32)))
        rates[name] = sum(each[2] for each in found) / (time.monotonic() - begin)
        texts[name] = [each[1] for each in found]
    return {
        "tokens/s one at a time": round(rates["alone"]),
        "tokens/s 32 at once": round(rates["at once"]),
        "factor": round(rates["at once"] / rates["alone"], 1),
        "texts that differ": sum(
            a != b for a, b in zip(texts["alone"], texts["at once"], strict=True)
        ),
    }


async def load(server: Server, http: httpx.AsyncClient, seconds: float) -> dict:
    """100 clients that ask again at once."""
    asked = prompts(50)
    right = {p: (await ask(http, model="tiny", prompt=p))[1] for p in asked}
    codes, took, wrong, sent = collections.Counter(), [], 0, 0
    end = time.monotonic() + seconds

    async def client(number: int) -> None:
        nonlocal wrong, sent
        turn = number
        while time.monotonic() < end:
            prompt = asked[turn % len(asked)]
            turn += 7
            sent += 1
            begin = time.monotonic()
            status, text, _ = await ask(http, model="tiny", prompt=prompt)
            codes[status] += 1
            if status == 200:
                took.append(time.monotonic() - begin)
                wrong += text != right[prompt]
            else:
                await asyncio.sleep(0.2)

    await asyncio.gather(*(client(number) for number in range(100)))
    took.sort()
    p50, p95, p99 = (round(1000 * took[int(q * len(took))]) for q in (0.5, 0.95, 0.99))
    return {
        "seconds": seconds,
        "statuses": dict(codes),
        "lost": sent - sum(codes.values()),
        "wrong": wrong,
        "ms p50/p95/p99": f"{p50}/{p95}/{p99}",
        "active after": server.figure("modelforge_active"),
        "waiting after": server.figure("modelforge_waiting"),
    }


async def adapters(http: httpx.AsyncClient) -> dict:
    """200 requests of 8 clients to two adapters, the same prompts in turn."""
    asked = prompts(25)
    right = {(m, p): (await ask(http, model=m, prompt=p))[1] for p in asked for m in "ab"}
    jobs = [(m, p) for _ in range(4) for p in asked for m in "ab"]
    wrong = 0

    async def client(number: int) -> None:
        nonlocal wrong
        for model, prompt in jobs[number::8]:
            wrong += (await ask(http, model=model, prompt=prompt))[1] != right[model, prompt]

    await asyncio.gather(*(client(number) for number in range(8)))
    apart = sum(right["a", p] != right["b", p] for p in asked)
    return {"requests": len(jobs), "prompts answered otherwise": apart, "wrong": wrong}


async def hang_up(server: Server, http: httpx.AsyncClient) -> dict:
    """CPU seconds for four long streams that are read, and for four that are left; five times.

    What the server takes in the same time without work is not counted.
    """
    long = body("a", "What is 3 plus 4?", stream=True, temperature=2.0, max_tokens=480)
    long["n"] = 8

    async def stream(events: float) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=long) as answer:
            seen = 0
            async for line in answer.aiter_lines():
                seen += bool(line)
                if seen > events:
                    return

    begun, before = time.monotonic(), server.cpu()
    await asyncio.sleep(5)
    idle = (server.cpu() - before) / (time.monotonic() - begun)
    spent = {"warm": 0.0, "read": 0.0, "left": 0.0}
    for name, events in (("warm", 1e9), *[("read", 1e9), ("left", 6)] * 5):
        begun, before = time.monotonic(), server.cpu()
        await asyncio.gather(*(stream(events) for _ in range(4)))
        while server.figure("modelforge_active"):
            await asyncio.sleep(0.05)
        await asyncio.sleep(1)
        spent[name] += server.cpu() - before - idle * (time.monotonic() - begun)
    return {
        "cpu s read": round(spent["read"], 2),
        "cpu s left": round(spent["left"], 2),
        "share": f"{spent['left'] / spent['read']:.0%}",
    }


async def killed(server: Server, http: httpx.AsyncClient) -> dict:
    """kill -9 of the engine: statuses until it answers again, and the feedback of before."""
    answer = await http.post("/v1/chat/completions", json=body("tiny", "What is 3 plus 4?"))
    said = {"id": answer.json()["id"], "rating": "up"}
    assert (await http.post("/v1/feedback", json=said)).status_code == 200
    (engine,) = psutil.Process(server.process.pid).children()
    engine.kill()
    codes, begin = collections.Counter(), time.monotonic()
    while True:
        status, _, _ = await ask(http, model="tiny", prompt="What is 3 plus 4?")
        codes[status] += 1
        if status == 200:
            break
        await asyncio.sleep(0.1)
    return {"statuses": dict(codes), "back after s": round(time.monotonic() - begin, 1)}


async def stopped(server: Server, http: httpx.AsyncClient) -> dict:
    """SIGTERM with eight requests in work."""
    words = {"temperature": 1.5, "max_tokens": 100, "n": 8}  # in work until the longest ends
    jobs = [
        asyncio.create_task(ask(http, model="tiny", prompt="What is 3 plus 4?", **words))
        for _ in range(8)
    ]
    while (in_flight := await asyncio.to_thread(server.figure, "modelforge_active")) < 8:
        assert not any(job.done() for job in jobs), "one was answered before all had come"
        await asyncio.sleep(0.005)
    server.process.send_signal(signal.SIGTERM)
    found = await asyncio.gather(*jobs, return_exceptions=True)
    statuses = collections.Counter(
        each[0] if isinstance(each, tuple) else type(each).__name__ for each in found
    )
    ended = server.process.wait(30)
    return {"in flight": in_flight, "statuses": dict(statuses), "exit": ended}


async def main(seconds: float) -> None:
    """Every part, on one server."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = {"tiny": str(MODEL), **adapters_of(folder)}
        options = ("--max-concurrent-requests", "64", "--feedback", str(folder / "f.sqlite"))
        server = Server(folder, models, *options)
        limits = httpx.Limits(max_connections=None)
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
                for part in (batching(http), adapters(http), hang_up(server, http)):
                    print(part.__name__, json.dumps(await part), flush=True)
        finally:
            server.process.kill()
        options = ("--max-concurrent-requests", str(LIMIT), *options[2:])
        server = Server(folder, models, *options)
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=120, limits=limits) as http:
                parts = (load(server, http, seconds), killed(server, http), stopped(server, http))
                for part in parts:
                    print(part.__name__, json.dumps(await part), flush=True)
        finally:
            server.process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="of the load")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asyncio.run(main(parser.parse_args().seconds))
