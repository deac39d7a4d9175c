"""How long the page of `modelforge collect` takes among many pairs, without a browser.

    python benchmarks/collect_page.py [--pairs 10000] [--votes 60]

Some annotators ask for a page and vote, one after the other, while the dealing chooses anew in its
own thread as in the server. It prints wall time, and the processor's time for a request's thread.
"""

import argparse
import re
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path

from modelforge.feedback.collected import Collected
from modelforge.feedback.dealing import Dealer
from modelforge.feedback.page import Page
from modelforge.web.server import Request


def rows(count: int):
    """Prompts with two answers of some length each."""
    for i in range(count):
        answers = {name: f"{name} says {i} " + f"word{i % 97} and more " * 30 for name in "ab"}
        yield {"messages": [{"role": "user", "content": f"What is {i} plus 1?"}]}, answers


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--votes", type=int, default=60)
    args = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Collected(Path(folder) / "v.sqlite")) as store,
    ):
        begin = time.perf_counter()
        store.add(rows(args.pairs))
        print(f"{args.pairs} pairs added in {time.perf_counter() - begin:.1f} s")
        dealer = Dealer(store)
        begin = time.perf_counter()
        dealer.choose()
        print(f"the first choice took {time.perf_counter() - begin:.1f} s")
        page = Page(store, dealer)
        people = [{page._who: store.register(f"annotator {i}")} for i in range(4)]
        told("a page", [asked(page, people[i % 4]) for i in range(args.votes)])
        told("a vote", [voted(page, people[i % 4]) for i in range(args.votes)])
        print(f"{len(store.votes())} votes in the file")


def asked(page: Page, cookies: dict) -> tuple[float, float]:
    """The times of one page."""
    return timed(page, Request("GET", "/", {}, {}, cookies))


def voted(page: Page, cookies: dict) -> tuple[float, float]:
    """The times of one vote."""
    body = page(Request("GET", "/", {}, {}, cookies)).body
    form = dict(re.findall(r'type="hidden" name="(\w+)" value="(.*?)"', body))
    return timed(page, Request("POST", "/vote", {}, {**form, "choice": "left"}, cookies))


def timed(page: Page, request: Request) -> tuple[float, float]:
    """Wall time and the thread's processor time, in milliseconds."""
    wall, own = time.perf_counter(), time.thread_time()
    status = page(request).status
    assert status in (200, 303), status
    return (time.perf_counter() - wall) * 1000, (time.thread_time() - own) * 1000


def told(what: str, times: list[tuple[float, float]]) -> None:
    """Median and the largest of nineteen in twenty."""
    for name, each in zip(("wall", "processor"), zip(*times, strict=True), strict=True):
        high = statistics.quantiles(each, n=20)[-1]
        print(f"{what}, {name}: median {statistics.median(each):.1f} ms, p95 {high:.1f} ms")


if __name__ == "__main__":
    main()
