"""The page of `modelforge collect` in a browser; it skips where there is no playwright or chromium.

`benchmarks/collect_killed.py` is the long version.
"""

import shutil

import pytest
from test_collect import EVIL, serve

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is here")


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_keys_vote_and_what_is_said_while_the_server_is_gone_comes_in_once(tmp_path, width, scheme):
    rows = [{"prompt": f"{i} {EVIL}", "responses": {"one": f"a{i} {EVIL}", "two": f"b{i}"}}
            for i in range(6)]  # fmt: skip
    address, store, made, _ = serve(tmp_path, rows)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.set_default_timeout(120_000)
        page.goto(address)
        page.fill("#name", "Ann")
        page.keyboard.press("Enter")
        page.wait_for_selector("#judge")
        assert page.title() == "Which answer is better?" and EVIL[:30] in page.inner_text("#judge")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.query_selector("#judge img, #judge script") is None

        def press(*keys):
            task = page.get_attribute("[name=task]", "value")
            for key in keys:
                page.keyboard.press(key)
            page.wait_for_function(
                "t => !document.querySelector('[name=task]') || "
                "document.querySelector('[name=task]').value !== t", arg=task
            )  # fmt: skip
            return int(task)

        first = press("3", "ArrowLeft")
        page.keyboard.press("z")
        page.wait_for_function(
            "t => document.querySelector('[name=task]').value === t", arg=str(first)
        )  # fmt: skip
        page.keyboard.press("b")
        page.keyboard.type("a better one: x t s z 1")
        page.keyboard.press("Escape")
        assert press("1", "ArrowRight") == first
        (vote,) = store.votes()
        assert (vote.better, vote.confidence) == ("a better one: x t s z 1", 1)
        assert vote.ranks[vote.shown[1]] == 1
        lost = []

        def gone(route):  # the server dies before it hears of the vote, and once behind it
            if lost:
                route.fetch(max_redirects=0)
            lost.append(route.request.url)
            route.abort()

        page.route("**/vote", gone, times=2)
        page.keyboard.press("t")
        page.wait_for_selector("#said:has-text('sent again')")
        page.wait_for_selector("header:has-text('2 votes')")
        assert len(lost) == 2 and len(store.votes()) == 2
        press("x")
        press("s")
        assert [v.kind for v in store.votes()] == ["ranked", "ranked", "bad", "skip"]
        assert not wrong and page.title() == "Which answer is better?"
        browser.close()
    made.shutdown()
    made.server_close()
    store.close()
