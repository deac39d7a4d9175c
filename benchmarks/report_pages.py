"""The report of every strategy in headless Chromium: is it quiet, whole, readable and small?

    pip install playwright axe-core-python      # and Debian's chromium
    OMP_NUM_THREADS=1 python benchmarks/report_pages.py [--runs FOLDER] [--pictures FOLDER]

Each strategy trains the tiny model for some steps. Then its page is written from a copy of its
folder whose samples hold scripts, marks that turn text around, and NULs, and whose metrics go on to
step 10,000. The page is opened at 390, 768 and 1280 pixels: light, dark, as it is printed, and
without scripts. It counts what the browser says on its console, what the page asks the network for,
pixels by which it is wider than the window, and what axe finds (axe needs scripts), and weighs it.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import math
import shutil
import tempfile
from pathlib import Path

import modelforge
from modelforge.evaluation.page import html_report
from modelforge.registry import list_strategies
from modelforge.runs import files

ROOT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (390, 768, 1280)
LOOKS = ("light", "dark", "print", "no script")
STEPS = 10_000
HOSTILE = (
    "<script>document.title='no'</script><img src=x onerror=\"document.title='no'\">"
    "<a href='javascript:alert(1)'>a</a> </textarea></style> \u202eturned\u2066 \x00 \ud800 \u200b "
    "](http://example.org) {{ 7 * 7 }} " + "unbroken" * 60
)


def trained(strategy: str, folder: Path) -> Path:
    """A short run; of another loop than grpo's, a run of grpo's config."""
    config = ROOT / "configs" / "tiny" / f"{strategy}.json"
    said = [f"output_dir={folder}", f"run_name={strategy}", "report_to=none", "logging_steps=1"]
    if not config.is_file():
        config = ROOT / "configs" / "tiny" / "grpo.json"
        said.append(f"strategy={strategy}")
    if strategy == "distill":
        said.append(f"teacher_model={ROOT / 'examples/tiny/model'}")
    if strategy == "rlhf":
        said.append("reward_stage.max_steps=3")
    said.append("max_steps=3")
    modelforge.train(config, overrides=said)
    return folder / strategy  # of a run in stages the whole


def long_and_hostile(run: Path, target: Path) -> Path:
    """A copy of a run whose samples are hostile and whose metrics are long; models stay behind."""
    shutil.copytree(run, target, ignore=shutil.ignore_patterns("checkpoints", "*.safetensors"))
    for samples in target.rglob(files.SAMPLES):
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        for row in rows[:3]:
            row |= {key: HOSTILE for key, value in row.items() if isinstance(value, str)}
            if isinstance(row.get("prompt"), list):
                row["prompt"][-1]["content"] = HOSTILE
        samples.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for metrics in target.rglob(files.METRICS):
        rows = [json.loads(line) for line in metrics.read_text().splitlines()]
        last = max((row for row in rows if "loss" in row), key=len, default=None)
        if last is None:
            continue
        steps = range(last["step"] + 1, STEPS + 1)
        rows += [last | {"step": step, "loss": 2 + math.sin(step / 700)} for step in steps]
        metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target


def looked_at(browser, page: Path, pictures: Path | None) -> list[str]:
    """What is wrong with a page, in words; nothing where nothing is."""
    from axe_core_python.sync_playwright import Axe

    wrong = []
    for width, look in itertools.product(WIDTHS, LOOKS):
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if look == "dark" else "light",
            java_script_enabled=look != "no script",
        )
        tab = context.new_page()
        said: list[str] = []
        tab.on("console", lambda message, said=said: said.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error, said=said: said.append(f"error: {error}"))
        tab.on("dialog", lambda dialog, said=said: said.append("a dialog") or dialog.dismiss())
        tab.on("request", lambda asked, said=said: said.append(f"asks for {asked.url}"))
        tab.goto(page.as_uri())
        if look == "print":
            tab.emulate_media(media="print")
        said.remove(f"asks for {page.as_uri()}")
        if tab.title() == "no":
            said.append("a script of a sample ran")
        if pictures is not None:
            tab.screenshot(path=pictures / f"{page.stem}-{width}-{look.replace(' ', '-')}.png",
                           full_page=True)  # fmt: skip
        if look != "no script":
            over = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                said.append(f"{over} pixels too wide")
            found = Axe().run(tab)["violations"]
            said += [f"axe: {v['id']} ({len(v['nodes'])}): {v['nodes'][0]['html'][:90]}"
                     for v in found]  # fmt: skip
        wrong += [f"{width} {look}: {each}" for each in said]
        context.close()
    return wrong


def main() -> None:
    """Read the options, train, and look."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="where the runs lie, and are made")
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--only", default=",".join(sorted(list_strategies())))
    args = parser.parse_args()
    runs = args.runs or Path(tempfile.mkdtemp(prefix="pages-"))
    if args.pictures is not None:
        args.pictures.mkdir(parents=True, exist_ok=True)
    count = 0
    with sync_playwright() as driver:
        pages = Path(tempfile.mkdtemp(prefix="pages-"))
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        views = len(WIDTHS) * len(LOOKS)
        print(f"{datetime.date.today()}, Chromium {browser.version}, {views} views of each page\n\n"
              f"| strategy | KiB | KiB of {STEPS:,} steps, hostile | what was found |\n"
              "|---|---|---|---|", flush=True)  # fmt: skip
        for strategy in args.only.split(","):
            run = runs / strategy
            run = run if run.is_dir() else trained(strategy, runs)
            copy = long_and_hostile(run, pages / f"{strategy}-long")
            sizes, wrong = [], []
            for name, folder in ((strategy, run), (f"{strategy}-long", copy)):
                page = pages / f"{name}.html"
                page.write_text(html_report(folder), encoding="utf-8")
                sizes.append(page.stat().st_size / 1024)
                wrong += [f"{name} {each}" for each in looked_at(browser, page, args.pictures)]
            wrong += ["more than 300 KiB"] if max(sizes) >= 300 else []
            count += len(wrong)
            print(f"| {strategy} | {sizes[0]:.0f} | {sizes[1]:.0f} | "
                  f"{'<br>'.join(wrong) or 'nothing'} |", flush=True)  # fmt: skip
        browser.close()
        shutil.rmtree(pages)
    if args.runs is None:
        shutil.rmtree(runs)
    raise SystemExit(count > 0)


if __name__ == "__main__":
    main()
