"""The page on which people judge: what is kept, who may come, and what is dealt."""

import json
import re
import sqlite3
import threading
import urllib.error
import urllib.parse
import urllib.request
from contextlib import closing

import pytest
from tiny import ROOT, few

from modelforge.errors import ConfigError
from modelforge.feedback.collected import Collected
from modelforge.feedback.collecting import Collecting, _token, opened
from modelforge.feedback.dealing import Dealer
from modelforge.feedback.tables import LEASE, Said
from modelforge.feedback.trained import TrainOnThese
from modelforge.inference.answers import Sampling

EVIL = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\u202egnp\u200f\x1b[0m"


class Browser:
    """Cookies, forms, and no redirects followed."""

    class _Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    def __init__(self, address, **headers):
        self.address, self.headers, self.cookies = address.rstrip("/"), headers, {}
        self.opener = urllib.request.build_opener(self._Stay)

    def ask(self, path="/", form=None, **headers):
        body = None if form is None else urllib.parse.urlencode(form).encode()
        request = urllib.request.Request(self.address + path, body)
        cookie = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        sent = {"Cookie": cookie, **self.headers, **headers}
        if form is not None and "Origin" not in sent:
            sent["Origin"] = self.address
        for name, value in sent.items():
            if value is not None:
                request.add_header(name.replace("_", "-"), value)
        try:
            answer = self.opener.open(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            for said in answer.headers.get_all("Set-Cookie") or ():
                name, _, value = said.partition(";")[0].partition("=")
                self.cookies[name] = value
            self.last = answer.headers
            return answer.status, answer.read().decode()

    def begin(self, name):
        assert self.ask("/who", {"name": name})[0] == 303
        return self

    def fields(self):
        _, page = self.ask()
        return dict(re.findall(r'type="hidden" name="(\w+)" value="(.*?)"', page))

    def vote(self, choice, **more):
        return self.ask("/vote", {**self.fields(), "choice": choice, "confidence": "3", **more})[0]


def serve(folder, rows, token=None, **options):
    path = folder / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = Collecting(db=folder / "v.sqlite", responses=path, **({"port": 0} | options))
    store = Collected(asked.db, overlap=asked.overlap)
    made, page = opened(asked, store, token)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{made.server_address[1]}", store, made, page


def pairs(count, **more):
    return [{"prompt": f"p{i}", "responses": {"one": f"a{i}", "two": f"b{i}"}, **more}
            for i in range(count)]  # fmt: skip


@pytest.fixture
def served(tmp_path):
    address, store, made, _ = serve(tmp_path, pairs(6))
    yield address, store
    made.shutdown()
    made.server_close()
    store.close()


def test_votes_are_kept_undone_and_said_anew_and_sides_are_turned(served):
    address, store = served
    ann, bo = Browser(address).begin("Ann"), Browser(address).begin("Bo")
    first = ann.fields()
    assert ann.vote("left", better="mine", comment="why") == 303
    (vote,) = store.votes()
    assert vote.ranks[vote.shown[0]] == 1 and (vote.confidence, vote.better) == (3, "mine")
    assert ann.ask("/vote", {**first, "choice": "tie"})[0] == 303  # the back button
    assert [v.ranks for v in store.votes()] == [(1, 1)]
    undo = {"csrf": first["csrf"], "last": first["task"]}
    assert ann.ask("/undo", undo)[0] == 303 and not store.votes()
    assert ann.fields()["task"] == first["task"], "the same pair comes back"
    assert ann.vote("left") == 303
    assert ann.ask("/undo", {**undo, "last": "4"})[0] == 303 and len(store.votes()) == 1
    assert bo.fields()["task"] == first["task"], "what one has judged goes to the next first"
    assert bo.vote("left") == 303
    one, two = store.votes()
    assert one.shown == two.shown[::-1] and one.ranks != two.ranks
    for who in (ann, bo):
        for choice in ("right", "tie", "bad", "skip"):
            assert who.vote(choice) == 303
    kinds = [v.kind for v in store.votes()]
    assert (kinds.count("bad"), kinds.count("skip")) == (2, 2)
    assert "5 votes" in ann.ask()[1]


def test_a_lease_keeps_a_pair_until_it_runs_out(tmp_path, monkeypatch):
    with closing(Collected(tmp_path / "v.sqlite", overlap=1)) as store:
        store.add([({"prompt": "p"}, {"one": "a", "two": "b"})])
        ann, bo = store.register("Ann"), store.register("Ann")
        task = store.deal(ann)
        assert store.deal(bo) is None
        assert not store.vote(bo, task.id, Said("bad")), "it was never dealt to this one"
        now = __import__("time").time
        monkeypatch.setattr("modelforge.feedback.collected.time.time", lambda: now() + LEASE + 1)
        assert store.deal(bo).id == task.id
        assert store.vote(ann, task.id, Said("bad")), "a late vote is not thrown away"


def test_who_may_not_come_gets_nothing(tmp_path, served):
    address, store = served
    ann = Browser(address).begin("Ann")
    form = {**ann.fields(), "choice": "left"}
    port = address.rpartition(":")[2]
    assert ann.ask(Host=f"evil.example:{port}")[0] == 403, "DNS rebinding"
    assert ann.ask(Host="127.0.0.1:1")[0] == 403 and ann.ask(Host=f"localhost:{port}")[0] == 200
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"},
                    {"Origin": None, "Sec_Fetch_Site": "cross-site"},
                    {"Sec_Fetch_Site": "same-site"}):  # fmt: skip
        assert ann.ask("/vote", form, **headers)[0] == 403, headers
    assert ann.ask("/vote", {**form, "csrf": "0" * 64})[0] == 403
    other = Browser(address).begin("Eve")
    assert other.ask("/vote", form)[0] == 403, "a form of another annotator"
    other.cookies = {name: "guessed" for name in other.cookies}
    assert "Your name" in other.ask()[1]
    assert not store.votes()
    assert ann.ask("/nothing")[0] == 404
    for size in (1 << 20, 16 << 20):  # the second is more than the sockets hold
        assert ann.ask("/vote", {"x": "y" * size})[0] == 413
    policy = ann.last if ann.ask() else None
    assert "script-src 'self'" in policy["Content-Security-Policy"]
    assert policy["Referrer-Policy"] == "same-origin"  # no-referrer makes Chromium say Origin: null


def test_outside_loopback_a_token_is_needed_and_annotators_see_no_results(tmp_path, monkeypatch):
    monkeypatch.delenv("MODELFORGE_COLLECT_TOKEN", raising=False)
    assert _token("127.0.0.1") is None and len(_token("0.0.0.0")) >= 32
    monkeypatch.setenv("MODELFORGE_COLLECT_TOKEN", "short")
    with pytest.raises(ConfigError, match="can be guessed"):
        _token("0.0.0.0")
    address, store, made, page = serve(tmp_path, pairs(2), token="a-long-random-word")
    stranger, ann, owner = Browser(address), Browser(address), Browser(address)
    assert stranger.ask()[0] == 403 and stranger.ask("/?token=a-long-random-worm")[0] == 403
    assert stranger.ask("/who", {"name": "Eve"})[0] == 403
    code, body = ann.ask("/?token=a-long-random-word")
    assert code == 303 and ann.last["Location"] == "/" and not body
    assert "SameSite=Lax" in ann.last["Set-Cookie"] and "HttpOnly" in ann.last["Set-Cookie"]
    ann.begin("Ann")
    assert ann.vote("left") == 303 and ann.ask("/results")[0] == 404
    assert owner.ask(f"/results?token={page.owner_token}")[0] == 303
    assert owner.ask("/results")[0] == 200
    made.shutdown()
    made.server_close()
    store.close()


def test_a_token_may_hold_any_letters_and_what_is_no_token_or_number_is_answered(tmp_path):
    token = 'pässwort; "+/=&#%20 ✓'
    address, store, made, _ = serve(tmp_path, pairs(2), token=token)
    ann = Browser(address)
    assert ann.ask("/?token=%C3%A9")[0] == 403
    assert ann.ask(f"/?token={urllib.parse.quote(token, safe='')}")[0] == 303
    form = {**ann.begin("Ann").fields(), "choice": "left"}
    assert ann.ask("/vote", {**form, "csrf": "é"})[0] == 403
    for number in ("²", "9" * 30, "9" * 5000, ""):
        assert ann.ask("/vote", {**form, "task": number})[0] == 409, number
        assert ann.ask("/undo", {**form, "last": number})[0] == 303, number
    assert not store.votes() and ann.ask("/vote", form)[0] == 303
    made.shutdown()
    made.server_close()
    store.close()


def test_an_answer_may_hold_separators_of_lines(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from modelforge.feedback import answering

    said = "one\u2028two\u0085three\nfour"

    def generate(model, prompts, output, **options):
        row = {"row": 0, "completion": said}
        output.write_text(json.dumps(row, ensure_ascii=False) + "\n")
        return SimpleNamespace(file=output)

    monkeypatch.setattr(answering, "generate", generate)
    rows = answering.answered({"one": "m"}, [{"prompt": "p"}], tmp_path, Sampling())
    assert rows == [({"prompt": "p"}, {"one": said})]


def test_what_models_say_is_text_and_no_name_is_shown(tmp_path):
    rows = [{"prompt": EVIL, "responses": {"secret-model": EVIL, "other": "fine"}}]
    address, store, made, _ = serve(tmp_path, rows, guidelines="Be <b>fair</b>.")
    ann = Browser(address).begin(EVIL[:40])
    _, page = ann.ask()
    assert "<script>document" not in page and "<img" not in page and "<b>" not in page
    assert "\\u202egnp\\u200f\\u001b[0m" in page and not {"\u202e", "\u200f", "\x1b"} & set(page)
    assert "secret-model" not in page and "Be &lt;b&gt;fair" in page
    made.shutdown()
    made.server_close()
    store.close()


def test_a_full_disk_is_said_and_nothing_is_half_written(served):
    address, store = served
    ann = Browser(address).begin("Ann")
    ann.fields()
    assert ann.vote("left") == 303
    fields = ann.fields()
    with sqlite3.connect(store.path) as other:
        size = other.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count = {size}")  # SQLite's own limit stands for the disk
    code, page = ann.ask("/vote", {**fields, "choice": "left", "comment": "x" * 100_000})
    assert code == 503 and "Not kept" in page and "full" in page
    assert len(store.votes()) == 1
    store._db.execute("pragma max_page_count = 1000000")
    assert ann.ask("/vote", {**fields, "choice": "left"})[0] == 303
    assert len(store.votes()) == 2


def test_a_ranking_takes_a_place_for_each_answer(tmp_path):
    rows = [{"prompt": "p", "responses": ["x", "y", "z", "y"]}]
    address, store, made, _ = serve(tmp_path, rows, ranked=True)
    ann = Browser(address).begin("Ann")
    assert len(re.findall("<h2 id=", ann.ask()[1])) == 3, "equal answers are one"
    assert ann.vote("ranked", rank0="1", rank1="") == 400 and not store.votes()
    assert ann.vote("left") == 400
    assert ann.vote("ranked", rank0="3", rank1="1", rank2="3") == 303
    (vote,) = store.votes()
    shown = [vote.answers[i] for i in vote.shown]
    assert vote.ranks[vote.answers.index(shown[1])] == 1 and sorted(vote.ranks) == [1, 2, 2]
    made.shutdown()
    made.server_close()
    store.close()


def test_nothing_to_judge_and_options_that_do_not_fit_are_refused(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same = tmp_path / "same.jsonl"
    same.write_text('{"prompt": "p", "responses": {"one": "a", "two": "a"}}\n')
    alone = tmp_path / "alone.jsonl"
    alone.write_text('{"prompt": "p", "responses": {"one": "a"}}\n{"prompt": "q"}\n')
    for arguments, said in (
        ((), "say --prompts FILE --models RUN_A RUN_B"),
        (("--prompts", "p.jsonl", "--models", "x"), "names one model"),
        (("--responses", same, "--models", "x"), "is given with --prompts or --models"),
        (("--responses", same), "there is nothing to judge"),
        (("--responses", alone), "has no responses"),
        (("--responses", "no.jsonl"), "no.jsonl"),
        (("--responses", same, "--set", "beta=1"), "has no effect: nothing is trained"),
        (("--responses", same, "--guidelines", "no.txt"), "no.txt"),
        (("--responses", same, "--reward-model", "x", "--in-order"), "no effect with --in-order"),
        (("--db", "new.sqlite", "--responses", "no.jsonl"), "no.jsonl"),
        (("--db", "new.sqlite"), "holds no answers"),  # the one that was made before
    ):
        code, _, err = command("collect", "--port", "0", *arguments)
        assert code == 2 and said in " ".join(err.split()), (arguments, err)


def test_train_on_these_deals_old_against_new_and_the_rows_train_reward_and_rlhf(
    tmp_path, python, monkeypatch, command
):
    monkeypatch.setattr("sys.executable", python)
    lines = few("preference_train", 12).read_text().splitlines()
    rows = [{"prompt": row["prompt"], "responses": {
        side: row[side][0]["content"] for side in ("chosen", "rejected")}}
        for row in map(json.loads, lines)]  # fmt: skip
    steps = ("max_steps=1", "lora_r=4", "report_to=none", "eval_split=0", "save_strategy=no",
             "warmup_steps=0", "max_seq_length=64", "per_device_train_batch_size=4",
             "optim=adamw_torch")  # fmt: skip
    model = str(ROOT / "examples/tiny/model")
    address, store, made, page = serve(
        tmp_path, rows, overlap=1, train=f"tiny={model}", sampling=Sampling(max_new_tokens=8),
        overrides=(*steps, "learning_rate=0.05"),
    )  # fmt: skip
    ann = Browser(address).begin("Ann")
    csrf = {"csrf": ann.fields()["csrf"]}
    assert "no two answers apart" in ann.ask("/train", csrf)[1]
    better = [row["responses"]["chosen"] for row in rows]
    while task := store.deal(next(iter(ann.cookies.values()))):
        assert ann.vote("left" if task.texts[0] in better else "right") == 303
    assert "Train on these</button>" in ann.ask("/results")[1]
    assert "12 pairs; training begins" in ann.ask("/train", csrf)[1]
    assert "is going on" in ann.ask("/train", csrf)[1]
    page.training._work.join(240)
    assert not page.training._work.is_alive()
    said = ann.ask("/results")[1]
    assert "Round 1 is trained" in said, said
    assert page.training.base[0] == "round-1"
    assert {"tiny", "round-1"} <= {name for *_, names in store.texts().values() for name in names}
    made.shutdown()
    made.server_close()
    store.close()

    # Killed after the training and before its answers: they are made, and nothing is trained anew.
    with closing(Collected(tmp_path / "again.sqlite", overlap=1)) as again:
        again.add(({"prompt": row["prompt"]}, row["responses"]) for row in rows)
        training = TrainOnThese(again, Dealer(again), base=("tiny", model),
                                folder=page.training.folder, sampling=Sampling(8))  # fmt: skip
        assert training.round == 1
        assert training._round([]).startswith("Round 1 is trained")
        assert "round-1" in {name for *_, names in again.texts().values() for name in names}
    out = tmp_path / "rows.jsonl"
    assert command("feedback", "export", tmp_path / "v.sqlite", "-o", out, "--for", "rlhf")[0] == 0
    assert len(out.read_text().splitlines()) == 12
    said = [part for step in steps for part in ("--set", step)]
    said += ["--set", f"dataset={out}", "--set", "eval_dataset=null"]
    for name, more in (("reward", ()), ("rlhf", ("reward_stage.max_steps=1",
                                                 "reward_stage.warmup_steps=0",
                                                 "generation.max_new_tokens=4"))):  # fmt: skip
        config = ROOT / "configs" / "tiny" / f"{name}.json"
        more = [part for each in more for part in ("--set", each)]
        code, _, err = command("train", config, *said, *more, "--set", f"output_dir={tmp_path}",
                               "--set", f"run_name=a-{name}")  # fmt: skip
        assert code == 0, err[-2000:]
        assert list((tmp_path / f"a-{name}").glob("**/model/*.safetensors"))
