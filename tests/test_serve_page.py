"""The page of a server in a browser; it skips where there is no playwright or no chromium."""

import json
import shutil
import threading
import time

import pytest
from tiny import ROOT

sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("fastapi")
uvicorn = pytest.importorskip("uvicorn")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium is here")

EVIL = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The gateway alone: the browser's requests for answers are answered in the test."""
    from modelforge.serving import create_app

    folder = tmp_path_factory.mktemp("page")
    models = [f"{name}={ROOT / 'examples/tiny/model'}" for name in ("tiny", "other")]
    app = create_app(models, feedback=folder / "f.sqlite")
    for engine in app.state.engines:
        engine.start = lambda failed: None
    found = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=found.run)
    thread.start()
    while not found.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{found.servers[0].sockets[0].getsockname()[1]}"
    found.should_exit = True
    thread.join()


def events(text):
    chunk = {"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"content": text}}]}
    return f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_what_a_model_says_is_text_and_the_keyboard_is_enough(server, width, scheme):
    said = []

    def answer(route):
        said.append(route.request.post_data_json)
        body = events(EVIL) if len(said) < 3 else events("It is 7.")
        route.fulfill(body=body, content_type="text/event-stream")

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/v1/chat/completions", answer)
        page.goto(server)
        page.focus("#text")
        page.keyboard.type("What is 3 plus 4?")
        page.keyboard.press("Enter")
        page.wait_for_selector("[aria-label='Good answer']")
        assert page.inner_text(".assistant .text") == EVIL
        assert page.query_selector("#talk script, #talk img") is None
        assert page.title() != "taken"
        page.click("#again")
        page.wait_for_selector("[aria-label='Good answer']")
        assert said[0] == said[1] and said[0]["model"] == "tiny"
        page.fill("#text", "And again?")
        page.click("#send")
        page.wait_for_selector("text=It is 7.")
        assert [m["role"] for m in said[2]["messages"]] == ["user", "assistant", "user"]
        page.click("[aria-label='Good answer'] >> nth=1")
        page.wait_for_selector("#said:has-text('no such answer')")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_message_is_edited_and_two_models_answer_side_by_side(server, width):
    said = []

    def answer(route):
        body = route.request.post_data_json
        said.append((body["model"], [m["content"] for m in body["messages"]]))
        text = f"{body['model']} on {len(said)}: {body['messages'][-1]['content']}"
        route.fulfill(body=events(text), content_type="text/event-stream")

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        wrong = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.route("**/v1/chat/completions", answer)
        page.goto(server)
        for text in ("One", "Two"):
            page.fill("#text", text)
            page.keyboard.press("Enter")
            page.wait_for_selector(f".assistant .text:has-text(': {text}')")
        page.wait_for_selector("[aria-label='Good answer'] >> nth=1")
        page.select_option("#beside", "other")
        page.focus("[aria-label='Edit this message'] >> nth=1")
        page.keyboard.press("Enter")
        assert page.input_value("#text") == "Two"
        page.keyboard.press("Escape")
        assert page.input_value("#text") == "" and len(page.query_selector_all(".user")) == 2
        page.click("[aria-label='Edit this message'] >> nth=1")
        page.fill("#text", "Three")
        page.keyboard.press("Enter")
        page.wait_for_selector(".pair [aria-label='Good answer'] >> nth=1")
        assert "Two" not in page.inner_text("#talk")
        one = said[0][1] + ["tiny on 1: One"]
        assert sorted(said[2:]) == [("other", [*one, "Three"]), ("tiny", [*one, "Three"])]
        names = [each.inner_text() for each in page.query_selector_all(".pair strong")]
        assert names == ["tiny", "other"]
        boxes = [each.bounding_box() for each in page.query_selector_all(".pair .turn")]
        assert (boxes[0]["y"] == boxes[1]["y"]) == (width == 1280)
        page.fill("#text", "Four")
        page.keyboard.press("Enter")
        page.wait_for_selector(".pair [aria-label='Good answer'] >> nth=3")
        histories = {model: history for model, history in said[4:]}
        assert histories["other"][3].startswith("other on")
        assert histories["tiny"][3].startswith("tiny on")
        page.click("#again")
        page.wait_for_selector(".pair [aria-label='Good answer'] >> nth=3")
        assert sorted(said[6:]) == sorted(said[4:6])
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert not wrong
        browser.close()
