"""The site: every page has its place in it, every link leads somewhere, and it builds strictly."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modelforge.cli import main as cli
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]
MADE = {"index.md", "SECURITY.md", "reference/keys.md", "reference/commands.md"}


def headings(path):
    """The anchors of a page, as GitHub and mkdocs make them of its headings."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", title.lower())
        yield plain.strip().replace(" ", "-")


def named(nav):
    for item in nav:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            for value in item.values():
                yield from [value] if isinstance(value, str) else named(value)


def test_every_page_has_its_place_in_the_site():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    places = list(named(site["nav"]))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert len(places) == len(set(places)) and set(places) == pages | MADE
    assert {f"strategies/{name}.md" for name in STRATEGIES} <= pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_heading_leads_to_one(page):
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)#([^)]+)\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        assert anchor in set(headings(there)), f"{target}#{anchor}"


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_page_of_a_strategy_says_what_it_has_to(name):
    text = (DOCS / "strategies" / f"{name}.md").read_text()
    wanted = ("- **When.**", "- **When not.**", "**Data.**", "```json", "**By card.**")
    wanted += ("**Tuning.**", "**Troubles", "**References.**")
    assert text.startswith(f"# `{name}`") and [w for w in wanted if w not in text] == []


def test_the_page_of_troubles_is_keyed_by_what_the_program_says():
    page = (DOCS / "troubleshooting.md").read_text()
    code = "\n".join(
        path.read_text()
        for folder in ("modelforge", "strategies")
        for path in (ROOT / folder).rglob("*.py")
    )
    said = re.findall(r"^### `(.*)`$", page, re.MULTILINE)
    assert len(said) >= 20
    assert [message for message in said if message not in code] == []


def test_the_page_of_pains_has_twenty():
    rows = re.findall(r"^\| (\d+) \|", (DOCS / "pains.md").read_text(), re.MULTILINE)
    assert rows == [str(number) for number in range(1, 21)]


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="needs the extra docs")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "dpo" in (tmp_path / "site" / "reference" / "keys" / "index.html").read_text()
    page = (tmp_path / "site" / "index.html").read_text()
    assert 'href="memory/"' in page and "googleapis" not in page


def test_the_short_form_for_an_agent_names_what_is_there_and_stays_short(command):
    code, told, err = command("docs", "--agent")
    assert code == 0 and len(told) < 6000, err
    known = {c.callback.__name__ for c in cli.app.registered_commands}
    assert set(re.findall(r"`modelforge (\w+)", told)) <= known
    assert all(f"| `{name}` |" in told for name in STRATEGIES)
    code, _, err = command("docs")
    assert code == 2 and "--agent" in err
