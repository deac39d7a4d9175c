"""Annotators in a browser, and a server that is killed meanwhile: is a vote lost or doubled?

    python benchmarks/collect_killed.py [--annotators 4] [--votes 50] [--kills 5] [--shots FOLDER]

It needs playwright and a Chromium. Each annotator votes by the keyboard alone. The server dies by
SIGKILL at random moments, and is started again. At the end the file is held against what each
annotator's page had shown as kept. `--pairs 10000` prints how long a page takes among so many.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.async_api import async_playwright

KEYS = {"ArrowLeft": "left", "ArrowRight": "right", "t": "tie", "x": "bad"}


class Server:
    """`modelforge collect`, as a user starts it; it can be killed and started again."""

    def __init__(self, folder: Path, port: int, overlap: int) -> None:
        self.folder, self.port = folder, port
        self.command = [sys.executable, "-m", "modelforge", "collect", "--db", "votes.sqlite",
                        "--responses", "answers.jsonl", "--port", str(port),
                        "--overlap", str(overlap)]  # fmt: skip
        self.address = f"http://127.0.0.1:{port}/"
        self.start()

    def start(self) -> None:
        log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(self.command, cwd=self.folder, stderr=log, stdout=log)
        for _ in range(600):
            try:
                urllib.request.urlopen(self.address, timeout=5).read()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
        raise TimeoutError("the server did not answer for a minute")

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def answers(folder: Path, pairs: int) -> None:
    """Prompts with two answers each, some of them hostile."""
    rng = random.Random(0)
    with (folder / "answers.jsonl").open("w") as file:
        for i in range(pairs):
            said = {
                "model-one": f"It is {i + 1}. <script>document.title='taken'</script>",
                "model-two": f"No idea about {i}. \u202egnp.exe\u202c"
                + " Well." * rng.randrange(9),
            }
            file.write(json.dumps({"prompt": f"What is {i} plus 1?", "responses": said}) + "\n")


async def annotator(browser, name, address, votes, kept, times, begun) -> None:
    """Vote by keys; what the page goes on from is kept."""
    rng = random.Random(name)
    look = {"viewport": {"width": 390 if name[-1] in "13" else 1280, "height": 800},
            "color_scheme": "dark" if name[-1] in "12" else "light"}  # fmt: skip
    page = await (await browser.new_context(**look)).new_page()
    page.set_default_timeout(600_000)
    await page.goto(address)
    await page.fill("#name", name)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("#judge")
    await begun.wait()
    for _ in range(votes):
        task = await page.get_attribute("[name=task]", "value")
        key = rng.choice(list(KEYS))
        begin = time.perf_counter()
        await page.keyboard.press(rng.choice("123"))
        await page.keyboard.press(key)
        await page.wait_for_function(
            "task => { const next = document.querySelector('[name=task]'); return document."
            "readyState === 'complete' && document.querySelector('h1') && "
            "(!next || next.value !== task); }", arg=task
        )  # fmt: skip
        times.append(time.perf_counter() - begin)
        kept.append((name, int(task), KEYS[key]))
        assert await page.title() != "taken"
        if not await page.query_selector("#judge"):
            break


async def killing(args, server: Server, kept: list, done: asyncio.Event, begun) -> int:
    """Kill the server some times while votes come in."""
    rng, kills = random.Random(1), args.kills
    await begun.wait()
    for n in range(kills):
        while len(kept) < (n + rng.random()) * args.annotators * args.votes / kills:
            if done.is_set():
                return n
            await asyncio.sleep(0.01)
        server.kill()
        await asyncio.to_thread(server.start)
    return kills


async def run(args, folder: Path) -> None:
    """All of it, and what came of it."""
    answers(folder, args.pairs)
    server = Server(folder, free_port(), args.overlap)
    try:
        kept, times, kills = await judged(args, server)
    finally:
        server.kill()
    told(folder / "votes.sqlite", kept, times, kills)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


async def judged(args, server: Server) -> tuple[list, list, int]:
    """What the pages showed as kept, how long each vote took, and how often the server died."""
    kept, times, done = [], [], asyncio.Event()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=120_000
        )
        begun = asyncio.Barrier(args.annotators + 1)
        killer = asyncio.create_task(killing(args, server, kept, done, begun))
        names = [f"annotator-{i}" for i in range(args.annotators)]
        await asyncio.gather(*(
            annotator(browser, name, server.address, args.votes, kept, times, begun)
            for name in names
        ))  # fmt: skip
        done.set()
        kills = await killer
        if args.shots:
            await shots(browser, server.address, Path(args.shots))
        await browser.close()
    return kept, times, kills


async def shots(browser, address: str, folder: Path) -> None:
    """Pictures of the pages, on a phone and a desktop, dark and light."""
    folder.mkdir(parents=True, exist_ok=True)
    for width, scheme in ((390, "dark"), (390, "light"), (1280, "dark"), (1280, "light")):
        context = await browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme
        )
        page = await context.new_page()
        await page.goto(address)
        await page.fill("#name", f"looker {width} {scheme}")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("#judge, h2")
        await page.screenshot(path=folder / f"judge-{width}-{scheme}.png")
        wide = await page.evaluate("document.documentElement.scrollWidth")
        await page.goto(address + "results")
        await page.screenshot(path=folder / f"results-{width}-{scheme}.png", full_page=True)
        print(f"{width} {scheme}: {wide} pixels wide")


def told(path: Path, kept: list, times: list, kills: int) -> None:
    """What the file holds, against what the pages said."""
    db = sqlite3.connect(path)
    names = dict(db.execute("select id, name from annotator"))
    there, left = {}, 0
    for task, who, kind, ranks, shown in db.execute(
        "select task, annotator, kind, ranks, shown from vote"
    ):
        first, ranked = json.loads(shown)[0], json.loads(ranks)
        word = kind if kind != "ranked" else "tie" if ranked[0] == ranked[1] else (
            "left" if ranked[first] == 1 else "right")  # fmt: skip
        there[names[who], task] = word
        left += first == 0
    lost = [each for each in kept if there.get(each[:2]) != each[2]]
    counts = [n for (n,) in db.execute("select votes from task where votes > 0")]
    print(f"{len(kept)} votes shown as kept, {len(there)} in the file, {kills} times killed")
    print(f"lost or changed {len(lost)}, not shown as kept {len(there) - len(set(kept))}")
    print(f"votes of a pair: {dict(sorted((n, counts.count(n)) for n in set(counts)))}")
    print(f"the first answer stood left in {left / len(there):.1%}")
    print(f"a vote and the next page: median {statistics.median(times) * 1000:.0f} ms, "
          f"largest {max(times) * 1000:.0f} ms (with the kills)")  # fmt: skip
    print(f"integrity: {db.execute('pragma integrity_check').fetchone()[0]}")


def main() -> None:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("annotators", 4), ("votes", 50), ("kills", 5), ("pairs", 120),
                        ("overlap", 2)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shots")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(args, Path(folder)))


if __name__ == "__main__":
    main()
