"""A server of trained models: what clients see of it, and that it stands what they do."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tool_rows import CALLING
from tiny import ROOT, quick, talking

import modelforge
from modelforge.export import gguf

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

MODEL = ROOT / "examples/tiny/model"
ASK = [{"role": "user", "content": "What is 3 plus 4?"}]
LIMIT = 12


def adapter(folder, seed):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    lora = LoraConfig(r=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(base, lora)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=1.5)
    model.save_pretrained(folder)
    talking().save_pretrained(folder)
    return folder


class Server:
    def __init__(self, folder, models, **environment):
        self.log = folder / "log"
        command = [sys.executable, "-m", "modelforge", "serve", *models, "--port", "0"]
        command += ["--max-concurrent-requests", str(LIMIT), "--feedback", str(folder / "f.sqlite")]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stderr=log, cwd=folder, env=os.environ | environment
            )
        while "/v1 answers" not in self.log.read_text() and self.process.poll() is None:
            time.sleep(0.05)
        self.url = self.log.read_text().partition("/v1 answers")[0].split()[-1]
        self.http = httpx.Client(base_url=self.url, timeout=200)

    def until_ready(self):
        while self.http.get("/ready").status_code != 200:
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)
        return self

    def chat(self, **words):
        body = {"messages": ASK, "temperature": 0, "model": "tiny"} | words
        return self.http.post("/v1/chat/completions", json=body)

    def text(self, **words):
        answer = self.chat(**words)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["message"]["content"]

    def figure(self, name):
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


COUNTED = [
    {"name": "digit", "pattern": r"\d", "action": "log"},
    {"name": "sure", "banned": ["sure"], "action": "warn"},
    {"name": "ends", "required": [". "], "action": "log"},
]
HELD = [
    {"name": "no equals", "banned": [" IS", "e a n"]},
    {"name": "quiet", "pattern": "[!?]"},
    {"name": "7", "banned": ["7"], "action": "rewrite", "replacement": "seven"},
    {"name": "no cake", "on": "input", "banned": ["cake"], "message": "No cake."},
    {"name": "plain", "on": "input", "pattern": "(?i)please", "action": "rewrite",
     "replacement": "now"},
]  # fmt: skip


def held_run(folder, constraints):
    """A finished run of the tiny model that was trained with these constraints."""
    shutil.copytree(MODEL, folder / "model")
    said = {"strategy": "sft", "model_name": str(MODEL), "constraints": constraints}
    for name, value in (("config.json", said), ("choices.json", {"said": said, "choices": {}})):
        (folder / name).write_text(json.dumps(value))
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    a, b = adapter(folder / "a", 1), adapter(folder / "b", 2)
    models = [f"tiny={MODEL}", f"a={a}", f"b={b}"]
    for name, constraints in (("held", HELD), ("counted", COUNTED)):
        models.append(f"{name}={held_run(folder / name, constraints)}")
    found = Server(folder, models, OMP_NUM_THREADS="1")
    try:
        yield found.until_ready()
    finally:
        found.process.kill()
        found.process.wait()


def test_answers_are_those_of_the_trained_model(server):
    from modelforge.inference.answers import Sampling, answer_all, prompt_ids
    from modelforge.inference.trained import find_trained, load_trained

    trained = load_trained(find_trained(str(MODEL)))
    ids = prompt_ids(trained, ASK)
    own = answer_all(trained, [ids], Sampling(64))[0]
    answer = server.chat().json()
    assert answer["choices"][0]["message"]["content"] == own.text
    assert answer["choices"][0]["finish_reason"] == own.finish_reason == "stop"
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["usage"]["completion_tokens"] == len(own.ids)


def test_the_openai_client(server):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    asked = {"model": "tiny", "messages": ASK, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    text = whole.choices[0].message.content
    places = whole.choices[0].logprobs.content
    assert "".join(place.token for place in places) == text
    assert all(place.top_logprobs[0].logprob >= place.logprob for place in places)
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    events = list(stream)
    pieces = [e.choices[0].delta.content or "" for e in events if e.choices]
    assert "".join(pieces) == text and len(pieces) > 3
    assert events[-2].choices[0].finish_reason == "stop"
    assert events[-1].usage == whole.usage
    completion = client.completions.create(
        model="tiny", prompt=["Hello", "One"], max_tokens=4, temperature=0, logprobs=1
    )
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert len(completion.choices[1].logprobs.tokens) <= 4
    assert {m.id for m in client.models.list()} == {"tiny", "a", "b", "held", "counted"}
    with pytest.raises(openai.NotFoundError, match="no model 'x' here: use tiny, a, b"):
        client.chat.completions.create(model="x", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="no place for a call"):
        client.chat.completions.create(
            **asked, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}]
        )


def test_stop_seed_and_number_are_each_requests_own(server):
    text = server.text()
    stop = text.split()[1]
    cut = server.chat(stop=[stop]).json()["choices"][0]
    assert cut["message"]["content"] == text.partition(stop)[0] and cut["finish_reason"] == "stop"
    short = server.chat(max_tokens=2).json()
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 2
    drawn = {"temperature": 1.5, "n": 3, "seed": 7}
    with ThreadPoolExecutor(6) as pool:
        others = [pool.submit(server.text, temperature=1.0, seed=i) for i in range(3)]
        answers = [pool.submit(server.chat, **drawn) for _ in range(2)]
        greedy = pool.submit(server.text)
        first, second = (a.result().json()["choices"] for a in answers)
        assert greedy.result() == text and all(other.result() for other in others)
    texts = [choice["message"]["content"] for choice in first]
    assert texts == [choice["message"]["content"] for choice in second]
    assert len(set(texts)) > 1


def test_adapters_on_one_base_do_not_mix(server):
    asked = [[{"role": "user", "content": f"What is {i} plus {i}?"}] for i in range(3)]
    names = ("a", "b", "tiny")
    alone = {
        (name, i): server.text(model=name, messages=asked[i], max_tokens=12)
        for i in range(3)
        for name in names
    }
    assert len({alone[name, 0] for name in names}) == 3
    with ThreadPoolExecutor(8) as pool:
        jobs = [(n, i) for _ in range(4) for i in range(3) for n in names]
        found = pool.map(
            lambda j: server.text(model=j[0], messages=asked[j[1]], max_tokens=12), jobs
        )
        assert [alone[job] for job in jobs] == list(found)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("chat/completions", {"messages": []}, 400, "messages"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "unknown role"),
        ("chat/completions", {"messages": ASK, "temperature": 9}, 400, "temperature"),
        ("chat/completions", {"messages": ASK, "presence_penalty": 1.0}, 400, "presence_penalty"),
        ("chat/completions", {"messages": ASK, "chat_template_kwargs": {"chat_template": "x"}},
         400, "no variable of a template"),
        ("completions", {"prompt": "word " * 600}, 400, "no room for an answer"),
        ("completions", {"prompt": [10**9]}, 400, "a token that is none"),
        ("completions", {"prompt": "x", "model": ["a"]}, 404, "no model"),
        ("completions", {"prompt": "\ud800"}, 400, "no JSON"),
        ("feedback", {"id": "x", "rating": "up"}, 404, "no such answer"),
        ("feedback", {"id": "x", "rating": "good"}, 400, "rating"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_told_why(server, path, body, status, says):
    answer = server.http.post(
        f"/v1/{path}", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert answer.status_code == status and says in answer.json()["error"]["message"]
    assert str(ROOT) not in answer.text


@pytest.mark.skipif(not find_spec("schemathesis"), reason="schemathesis is not installed")
def test_no_request_that_the_schema_allows_or_forbids_breaks_the_server(server, tmp_path):
    checks = "not_a_server_error,status_code_conformance,content_type_conformance"
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis as s; s()"]
    command += ["run", f"{server.url}/openapi.json", "--checks", checks, "--max-examples", "20"]
    command += ["--phases", "fuzzing", "--seed", "1", "--warnings", "off"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "9 passed" in done.stdout


def test_the_schema_says_what_a_body_may_hold(server):
    said = server.http.get("/openapi.json").json()
    forms = said["components"]["schemas"]
    for path, form in (("chat/completions", "ChatAsked"), ("feedback", "Said")):
        route = said["paths"][f"/v1/{path}"]["post"]
        body = route["requestBody"]["content"]["application/json"]["schema"]
        assert body == {"$ref": f"#/components/schemas/{form}"}
        assert {"200", "400", "404", "415", "503"} <= set(route["responses"])
    assert forms["ChatAsked"]["required"] == ["messages"]
    assert forms["ChatAsked"]["properties"]["model"]["enum"][:3] == ["tiny", "a", "b"]
    assert "#/$defs/" not in json.dumps(said)


def test_what_is_not_for_clients_is_not_there(server):
    for path in ("/load_model", "/reset", "/slots", "/props", "/v1/load_lora_adapter"):
        assert server.http.post(path, json={}).status_code == 404
    plain = {"content": json.dumps({"messages": ASK}), "headers": {"content-type": "text/plain"}}
    assert server.http.post("/v1/chat/completions", **plain).status_code == 415
    assert server.http.get("/v1/models", headers={"host": "evil.example"}).status_code == 400


def test_a_body_that_is_too_long_is_told_so(server):
    for size in (9 << 20, 64 << 20):  # the second is more than sockets and buffers hold
        answer = server.chat(user="y" * size)
        assert answer.status_code == 413 and "longer than 8 MiB" in answer.text


def test_feedback_is_kept_and_becomes_rows(server, tmp_path):
    from modelforge.feedback.rows import labelled, preferences
    from modelforge.feedback.store import read

    answer = server.chat().json()
    with server.http.stream(
        "POST", "/v1/chat/completions", json={"messages": ASK, "model": "a", "stream": True}
    ) as lines:
        events = [line for line in lines.iter_lines() if line]
    streamed = json.loads(events[0].removeprefix("data: "))["id"]
    for body in (
        {"id": answer["id"], "rating": "down"},
        {"id": answer["id"], "better": "It is 7."},
        {"id": streamed, "rating": "up"},
    ):
        assert server.http.post("/v1/feedback", json=body).json() == {"ok": True}
    found = list(read(server.log.parent / "f.sqlite"))
    assert {(g.model, g.rating, g.better) for g in found} >= {
        ("tiny", "down", "It is 7."),
        ("a", "up", None),
    }
    mine = [g for g in found if g.answer_id == answer["id"]]
    text = answer["choices"][0]["message"]["content"]
    assert preferences(mine) == [
        {
            "prompt": ASK,
            "chosen": [{"role": "assistant", "content": "It is 7."}],
            "rejected": [{"role": "assistant", "content": text}],
        }
    ]
    assert [row["label"] for row in labelled(mine)] == [True, False]


def test_feedback_that_makes_no_row_is_refused():
    from modelforge.serving.asked import Refused
    from modelforge.serving.heard import Answers
    from modelforge.serving.relay import Exchange

    call = {"message": {"content": None, "tool_calls": [{"function": {"name": "f"}}]}}
    answers = Answers()
    for name, body, choice in (
        ("call", {"messages": ASK}, call),
        ("empty", {"prompt": ""}, {"text": "a"}),
        ("two", {"prompt": ["a", "b"]}, {"text": "a"}),
    ):
        exchange = Exchange("tiny", body)
        exchange.see({"id": name, "choices": [{"index": 0, **choice}]})
        answers.add(exchange)
        with pytest.raises(Refused, match="can") as refused:
            answers.given({"id": name, "rating": "up"})
        assert refused.value.status == 400


def test_an_engine_elsewhere_is_named_by_its_address(server):
    from modelforge.errors import ModelError
    from modelforge.serving.found import engines_of

    for address in (server.url, f"{server.url}/", f"{server.url}/v1"):
        (engine,) = engines_of([address], 1)
        assert engine.url == server.url
        assert set(engine.models) == {"tiny", "a", "b", "held", "counted"}
    with pytest.raises(ModelError, match="serves tiny, a, b"):
        engines_of([f"mine={server.url}"], 1)


def test_more_than_the_limit_is_told_to_come_again(server):
    body = {"model": "tiny", "prompt": "a", "max_tokens": 200, "temperature": 1.5}
    with ThreadPoolExecutor(3 * LIMIT) as pool:
        answers = list(
            pool.map(lambda _: server.http.post("/v1/completions", json=body), range(4 * LIMIT))
        )
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    assert all(a.headers["retry-after"] == "1" for a in answers if a.status_code == 429)
    assert server.figure("modelforge_active") == 0 and server.figure("modelforge_waiting") == 0
    assert server.figure('modelforge_requests_total{code="429"') > 0


def test_a_connection_may_rest_longer_than_a_clients_own_five_seconds(server):
    from http.client import HTTPConnection

    connection = HTTPConnection(server.url.removeprefix("http://"))
    connection.connect()
    used = connection.sock
    for pause in (6, 0):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
        assert connection.sock is used
        time.sleep(pause)


def test_who_hangs_up_stops_the_work(server):
    body = {"model": "tiny", "messages": ASK, "temperature": 2.0, "max_tokens": 450, "n": 4}
    hungry = body | {"stream": True}
    for _ in range(2):
        with server.http.stream("POST", "/v1/chat/completions", json=hungry) as lines:
            next(lines.iter_lines())
    with contextlib.suppress(httpx.ReadTimeout):
        server.http.post("/v1/chat/completions", json=body, timeout=0.05)
    end = time.monotonic() + 30
    while server.figure("modelforge_active") and time.monotonic() < end:
        time.sleep(0.05)
    assert server.figure("modelforge_active") == 0
    assert server.figure('modelforge_requests_total{code="499"') >= 1
    assert server.text()


def test_an_engine_that_dies_is_started_again(server):
    import psutil

    (engine,) = psutil.Process(server.process.pid).children()
    engine.send_signal(signal.SIGKILL)
    codes = set()
    while not (answer := server.chat()).is_success:
        codes.add(answer.status_code)
        assert answer.headers["retry-after"] == "1"
        time.sleep(0.1)
    assert codes == {503}
    assert server.figure("modelforge_engine_restarts") == 1
    assert server.figure("modelforge_feedback_total") >= 3


def test_a_key_is_asked_for(tmp_path):
    from fastapi.testclient import TestClient

    from modelforge.serving import create_app

    app = create_app(str(MODEL), feedback=tmp_path / "f.sqlite", api_key="word")
    client = TestClient(app)  # not entered: no engine starts
    key = {"authorization": "Bearer word"}
    assert client.get("/health").status_code == 200
    assert client.get("/v1/models").status_code == 401
    assert client.get("/metrics", headers={"authorization": "Bearer words"}).status_code == 401
    assert client.get("/openapi.json", headers=key).json()["security"] == [{"key": []}]
    assert client.get("/v1/models", headers=key).json()["data"][0]["id"] == "model"
    assert client.get("/ready").status_code == 503
    answer = client.post("/v1/chat/completions", json={"messages": ASK}, headers=key)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "MODELFORGE_API_KEY"),
        ([str(MODEL)], "is the name of two models"),
        (["./nowhere"], "nowhere"),
        (["mine=nofile.gguf"], "nofile.gguf: is not there"),
        (["--timeout", "nan"], "timeout: is nan"),
        (["--reward-share", "0.1"], "--reward-share: has no effect without a reward model"),
        (["--reward-model", str(MODEL)], "not a reward model"),
        (["--reward-model", str(MODEL)], "name a run of the strategy reward"),
        (["--reward-model", ""], "--reward-model: is empty"),
        (["--reward-model", "nowhere", "--reward-share", "2"], "--reward-share: is 2"),
        (["--timeout", "inf"], "timeout: is inf"),
        (["--port", "{taken}"], "cannot be listened on: Address already in use"),
        (["http://127.0.0.1:9"], "does not say which models it serves"),
    ],
)
def test_what_cannot_be_served_is_refused_before_it_starts(options, says, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from modelforge.cli.main import app

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELFORGE_API_KEY", "")  # as compose hands on one that is not set
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        options = [option.format(taken=taken) for option in options]
        done = CliRunner().invoke(app, ["serve", str(MODEL), *options])
    assert done.exit_code == 2 and says in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(
    gguf.converter() is None or gguf.problems_of_machine(), reason="needs xllamacpp and gguf"
)
def test_llama_cpp_serves_a_gguf(tmp_path):
    from modelforge.inference.trained import find_trained

    gguf.write(find_trained(str(MODEL)), tmp_path, kind="f32", base="dequantised")
    found = Server(tmp_path, ["mine=model.gguf"], OMP_NUM_THREADS="1").until_ready()
    try:
        answer = found.chat(model="mine", logprobs=True, top_logprobs=2).json()
        assert answer["choices"][0]["message"]["content"] == "3 plus 4 is 7."
        assert answer["model"] == "mine" and answer["choices"][0]["logprobs"]["content"]
        rated = found.http.post("/v1/feedback", json={"id": answer["id"], "rating": "up"})
        assert rated.status_code == 200
        assert found.http.post("/props", json={}).status_code == 404
    finally:
        found.process.terminate()
    assert found.process.wait(60) in (0, -signal.SIGTERM, 143)


def test_an_engine_that_cannot_start_ends_the_server_with_its_words(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "xllamacpp.py").touch()  # it is asked only after the file is read
    (tmp_path / "gguf.py").write_text("raise SystemExit('no such file')")
    found = Server(tmp_path, ["m.gguf"], PYTHONPATH=str(tmp_path))
    assert found.process.wait(120) == 2
    assert "did not start" in found.log.read_text() and "no such file" in found.log.read_text()


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_damaged_model_is_one_message(kind, tmp_path):
    if kind == "gguf":
        pytest.importorskip("xllamacpp")
        pytest.importorskip("gguf")
        (tmp_path / "m.gguf").write_bytes(b"GGUF\3\0\0\0")
    else:
        shutil.copytree(MODEL, tmp_path / "m.gguf")
        (tmp_path / "m.gguf/model.safetensors").write_bytes(b"x")
    found = Server(tmp_path, ["./m.gguf"])
    assert found.process.wait(120) == 2
    said = found.log.read_text()
    assert "did not start:\n" in said and "m.gguf: " in said and "Traceback" not in said


def test_an_engine_that_takes_no_request_ends_the_stream():
    import asyncio

    from modelforge.serving.asked import read
    from modelforge.serving.worker import Work, load

    served = load({"tiny": str(MODEL)}, 1)["tiny"]
    served.batch._manager.stop(block=True)
    asked = read("completion", {"model": "tiny", "prompt": "a"})

    async def events():
        return [event async for event in Work(served, "completion", asked).events()]

    async def soon():
        return await asyncio.wait_for(events(), 20)

    (said,) = asyncio.run(soon())
    assert json.loads(said.removeprefix("data: "))["error"]["code"] == 503


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
_NAMES = ("messages", "prompt", "stop", "tools", "seed", "n", "logprobs", "stream_options", "top_p")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["chat", "completion"]), st.dictionaries(st.sampled_from(_NAMES), _values))
def test_no_body_is_more_than_refused(kind, body):
    from modelforge.serving.asked import ChatAsked, Refused, read

    try:
        found = read(kind, {"model": "m", "prompt": "x", "messages": ASK} | body)
        plain = [m.plain() for m in found.messages] if isinstance(found, ChatAsked) else []
        assert all(isinstance(message["content"], str) for message in plain)
    except Refused as error:
        assert 400 <= error.status < 500 and error.body()["error"]["message"]


def test_calls_of_tools_are_read_from_an_answer():
    from modelforge.serving.replies import calling, make_calls_readable

    tokenizer = talking("qwen3")
    make_calls_readable(tokenizer, "m")
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    prompt = tokenizer.apply_chat_template(ASK, tools=tools, add_generation_prompt=True)
    prompt = prompt["input_ids"]

    def message(text):
        return calling(tokenizer, "c", prompt, tokenizer(text)["input_ids"], tools)

    call = '<tool_call>\n{"name": "add", "arguments": {"a": 3}}\n</tool_call>'
    (found,) = message(call)["tool_calls"]
    assert found["function"] == {"name": "add", "arguments": '{"a": 3}'}
    assert found["id"] == "c-0" and found["type"] == "function"
    assert message("It is 7.") is None


# --- constraints ----------------------------------------------------------------------------------

WORDS = {"model": "held", "max_tokens": 24, "temperature": 1.0}


def streamed(server, **words):
    """A stream's text and its finish reason."""
    body = {"messages": ASK, "stream": True} | words
    text, reasons = "", []
    with server.http.stream("POST", "/v1/chat/completions", json=body) as lines:
        said = [line.removeprefix("data: ") for line in lines.iter_lines() if line]
    assert said[-1] == "[DONE]"
    for event in map(json.loads, said[:-1]):
        for choice in event["choices"]:
            text += choice["delta"].get("content") or ""
            reasons.append(choice["finish_reason"])
    return text, reasons[-1]


def test_an_answer_is_held_to_its_runs_constraints_streamed_or_not(server):
    reasons = set()
    for seed in range(12):
        text, reason = streamed(server, seed=seed, **WORDS)
        whole = server.chat(seed=seed, **WORDS).json()["choices"][0]
        assert (whole["message"]["content"], whole["finish_reason"]) == (text, reason)
        assert not any(each in text.lower() for each in (" is", "e a n", "!", "7"))
        reasons.add(reason)
    assert "content_filter" in reasons and len(reasons) > 1
    assert server.figure('modelforge_safety_violations_total{action="block",constraint="quiet"')
    # Steered around, and so never broken.
    assert not server.figure('modelforge_safety_violations_total{action="block",constraint="no eq')
    said = {"model": "held", "prompt": "3 plus 4 is 7", "max_tokens": 16, "temperature": 0}
    text = server.http.post("/v1/completions", json=said).json()["choices"][0]["text"]
    assert text and "7" not in text and " is" not in text


def test_a_prompt_is_held_too_and_a_refusal_is_openais(server):
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    ask = [{"role": "user", "content": [{"type": "text", "text": "Bake a CAKE!"}]}]
    for _ in range(2):
        found = client.chat.completions.create(model="held", messages=ask, n=2)
        assert [c.message.content for c in found.choices] == ["No cake."] * 2
        assert found.choices[0].finish_reason == "content_filter"
    assert streamed(server, model="held", messages=ask) == ("No cake.", "content_filter")
    done = client.completions.create(model="held", prompt=["Hi", "a cake"])
    assert [(c.text, c.finish_reason) for c in done.choices] == [("No cake.", "content_filter")] * 2
    broken = 'modelforge_safety_violations_total{action="block",constraint="no cake",model="held"'
    assert server.figure(broken) == 4
    told = [server.text(messages=[{"role": "user", "content": f"{word} add 3 and 4"}],
                        model=model, max_tokens=12)
            for word, model in (("PLEASE", "held"), ("now", "held"))]  # fmt: skip
    assert told[0] == told[1]
    for body, says in (({"logprobs": True}, "hold back"), ({"messages": 7}, "messages")):
        refused = server.chat(**{"model": "held"} | body)
        assert refused.status_code == 400 and says in refused.text
    tokens = {"model": "held", "prompt": [1, 2]}
    refused = server.http.post("/v1/completions", json=tokens)
    assert refused.status_code == 400 and "send text" in refused.text
    assert server.chat(model="counted", logprobs=True).status_code == 200


def test_violations_count_alike_in_serve_as_a_reward_and_as_a_measure(server, tmp_path):
    from modelforge.config import RewardEntry
    from modelforge.evaluation.evaluate import evaluate
    from modelforge.evaluation.options import Options
    from modelforge.rewards import build_rewards, parse_rewards
    from modelforge.safety import Constraints

    names = {"digit", "sure", "ends"}
    figure = 'modelforge_safety_violations_total{action="%s",constraint="%s",model="counted"'
    actions = {each["name"]: each["action"] for each in COUNTED}
    before = {n: server.figure(figure % (actions[n], n)) for n in names}
    prompts = [f"What is {n} minus {m}?" for n in (9, 12, 15) for m in (1, 4)]
    prompts += ["I need 7 minus 3.", "What does a frog say?"]
    asks = [[{"role": "user", "content": each}] for each in prompts]
    texts = [server.text(messages=ask, model="counted", max_tokens=20) for ask in asks]
    served = {n: server.figure(figure % (actions[n], n)) - before[n] for n in names}

    rules = Constraints(COUNTED)
    found = [v.constraint for ask, text in zip(asks, texts, strict=True)
             for v in rules.check(ask, text)]  # fmt: skip
    assert served == {n: found.count(n) for n in names} and len({*found}) > 1
    entry = RewardEntry(name="constraints", arguments={"constraints": COUNTED})
    (reward,), _ = build_rewards(parse_rewards([entry], where="rewards"), tokenizer=None)
    answers = [[{"role": "assistant", "content": text}] for text in texts]
    assert -sum(reward(prompts=asks, completions=answers)) == len(found)
    data, file = tmp_path / "prompts.jsonl", tmp_path / "rules.json"
    data.write_text("".join(json.dumps({"prompt": ask}) + "\n" for ask in asks))
    file.write_text(json.dumps(COUNTED))
    said = {"max_new_tokens": 20, "output_dir": tmp_path / "kept", "constraints": str(file)}
    measured = evaluate(str(MODEL), Options(str(data), ("safety_violations",), **said))
    assert round(measured.metrics["safety_violations"] * len(asks), 9) == len(found)


def test_a_server_that_is_stopped_answers_what_it_took(server):
    with ThreadPoolExecutor(8) as pool:
        words = {"max_tokens": 60, "temperature": 1.5}
        jobs = [pool.submit(server.text, **words, seed=i) for i in range(8)]
        while server.figure("modelforge_active") < 8 and not any(job.done() for job in jobs):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert all(isinstance(job.result(), str) for job in jobs)
    assert server.process.wait(60) in (0, -signal.SIGTERM, 143)


# --- a reward model's scores ----------------------------------------------------------------------


def scored_metrics(reward, share, exchanges):
    """The figures once a reward model has seen these exchanges."""
    from modelforge.serving.metrics import Metrics
    from modelforge.serving.rewarded import Scored

    metrics = Metrics(1)
    scored = Scored(reward, share, metrics)
    for exchange in exchanges:
        scored.add(exchange)
    return metrics, scored


def exchange_of(body, *texts):
    from modelforge.serving.relay import Exchange

    found = Exchange("tiny", body, id="x")
    for index, text in enumerate(texts):
        found.texts[index] = text
    return found


def test_a_reward_model_scores_a_share_of_the_answers_for_the_metrics(tmp_path):
    from modelforge.serving.rewarded import load

    run = quick("reward", tmp_path, "save_strategy=no", max_steps=1).run_dir
    reward, _ = load(run, 1.0)
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is 3 plus 4?"}]}]
    bodies = [{"messages": messages, "n": 2}, {"prompt": ["One", "Two"]}, {"prompt": [3, 4]}]
    asked = [exchange_of({"model": "tiny", **b}, "It is 7.", "9, it is.") for b in bodies]
    metrics, scored = scored_metrics(reward, 1.0, asked)
    scored._thread.shutdown()
    right = reward(
        prompts=[ASK, ASK, "One", "Two"],
        completions=[*([{"role": "assistant", "content": t}] for t in asked[0].texts.values()),
                     "It is 7.", "9, it is."],
    )  # fmt: skip
    assert list(metrics._scores) == pytest.approx(right, abs=1e-4) and len({*right}) == 4
    said = metrics.text().decode()
    assert 'modelforge_reward_count{model="tiny"} 4.0' in said
    assert 'modelforge_reward_left_out_total{model="tiny",why="failed"} 1.0' in said
    assert metrics.figures()["reward"]["count"] == 4


def test_a_slow_reward_model_keeps_no_answer_waiting_and_holds_few():
    from modelforge.serving import rewarded

    go = threading.Event()

    def slow(prompts, completions):
        go.wait()
        return [1.0]

    asked = [exchange_of({"model": "tiny", "messages": ASK}, "It is 7.")] * 200
    metrics, scored = scored_metrics(slow, 1.0, asked)
    assert metrics.unscored.labels("tiny", "busy")._value.get() == 200 - rewarded._WAITING
    go.set()
    scored.close()
    assert len(metrics._scores) <= rewarded._WAITING
    metrics, scored = scored_metrics(slow, 0.1, asked)
    scored._thread.shutdown()
    assert 5 <= len(metrics._scores) <= 45


def test_a_server_shows_the_scores_of_what_it_answered(tmp_path):
    run = quick("reward", tmp_path / "run", "save_strategy=no", max_steps=1).run_dir
    options = ["--reward-model", str(run), "--reward-share", "1"]
    found = Server(tmp_path, [f"tiny={MODEL}", *options], OMP_NUM_THREADS="1").until_ready()
    try:
        assert found.text(max_tokens=4)
        nameless = {"messages": ASK, "max_tokens": 4}
        assert found.http.post("/v1/chat/completions", json=nameless).status_code == 200
        assert streamed(found, model="tiny", max_tokens=4)[0]
        while found.figure("modelforge_reward_count") < 3:
            time.sleep(0.05)
        assert found.figure("modelforge_reward_left_out_total") == 0
    finally:
        found.process.terminate()
    assert found.process.wait(60) in (0, -signal.SIGTERM, 143)


# --- calls of tools -------------------------------------------------------------------------------

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}


def calling_run(folder):
    """A model that learned one row: a call, and the answer once its result is there."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 3, "b": 4}}}
    talk = [
        *ASK,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "name": "add", "content": "7"},
        {"role": "assistant", "content": "It is 7."},
    ]
    rows = [{"messages": talk, "tools": [ADD]}, {"messages": [*ASK, talk[-1]]}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "calling.jinja").write_text(CALLING)
    said = {
        "strategy": "sft", "model_name": str(MODEL), "dataset": str(folder / "rows.jsonl"),
        "chat_template": str(folder / "calling.jinja"), "lora_r": 0, "learning_rate": 0.004,
        "max_steps": 40, "per_device_train_batch_size": 2, "eval_split": 0, "max_seq_length": 512,
        "report_to": "none", "save_strategy": "no", "output_dir": str(folder / "runs"),
    }  # fmt: skip
    return modelforge.train(said).run_dir


def test_the_openai_client_calls_a_tool_and_gives_back_its_result(tmp_path):
    openai = pytest.importorskip("openai")
    run = calling_run(tmp_path)
    found = Server(tmp_path, [f"caller={run}"], OMP_NUM_THREADS="1").until_ready()
    try:
        client = openai.OpenAI(base_url=f"{found.url}/v1", api_key="none")
        asked = {"model": "caller", "temperature": 0, "tools": [ADD], "max_tokens": 120}
        choice = client.chat.completions.create(messages=ASK, **asked).choices[0]
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        assert call.function.name == "add"
        assert json.loads(call.function.arguments) == {"a": 3, "b": 4}
        with client.chat.completions.stream(messages=ASK, **asked) as stream:
            events = [event.type for event in stream]
            final = stream.get_final_completion().choices[0]
        assert "tool_calls.function.arguments.done" in events
        assert final.finish_reason == "tool_calls"
        (streamed_call,) = final.message.tool_calls
        assert streamed_call.function.name == "add"
        assert streamed_call.function.arguments == call.function.arguments
        result = {"role": "tool", "tool_call_id": call.id, "content": "7"}
        talk = [*ASK, choice.message.model_dump(exclude_none=True), result]
        done = client.chat.completions.create(messages=talk, **asked).choices[0]
        assert (done.message.content, done.finish_reason) == ("It is 7.", "stop")
        assert done.message.tool_calls is None
        plain = client.chat.completions.create(messages=ASK, **asked | {"tool_choice": "none"})
        assert plain.choices[0].message.tool_calls is None
    finally:
        found.process.kill()
        found.process.wait()
