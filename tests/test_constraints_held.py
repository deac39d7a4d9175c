"""A model held to constraints: in generate, chat and a run's samples; as a reward and a measure."""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import torch
from filelock import FileLock
from tiny import ROOT, few, quick
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
from typer.testing import CliRunner

import modelforge
from modelforge.cli.main import app
from modelforge.errors import UserError
from modelforge.inference.answers import Sampling
from modelforge.inference.chat import Chat
from modelforge.inference.generate import generate
from modelforge.inference.trained import find_trained, load_trained
from modelforge.safety import Constraints

MODEL = str(ROOT / "examples/tiny/model")
PROMPTS = str(few("prompts_eval", 12))
DRAWN = Sampling(max_new_tokens=16, temperature=1.0)


def file_of(path, *entries):
    path.write_text(json.dumps(entries), encoding="utf-8-sig")  # as some editors begin a file
    return str(path)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained with constraints, of which one has a file beside it."""
    held = [{"name": "no minus", "banned": ["MINUS"]},
            {"name": "no digit", "pattern": r"\d", "action": "log", "on": "both"}]  # fmt: skip
    said = (
        f"constraints={json.dumps(held)}",
        f"model_name={MODEL}",
        "eval_split=0",
        "save_strategy=no",
        "max_steps=2",
    )
    return quick("sft", tmp_path_factory.mktemp("held"), *said, eval_dataset="null")


@pytest.fixture(scope="module")
def trained(run):
    return load_trained(find_trained(str(run.run_dir)))


def test_a_run_holds_its_samples_and_its_answers_to_its_own_constraints(run, tmp_path):
    samples = rows_of(run.run_dir / "samples.jsonl")
    shown = [s[key].lower() for s in samples for key in ("completion", "completion_before")]
    assert samples[0]["violations"] == [] and not any("minus" in text for text in shown)
    own = rows_of(generate(str(run.run_dir), PROMPTS, tmp_path / "a", sampling=DRAWN).file)
    assert not any("minus" in row["completion"].lower() for row in own)
    broken = [(v["constraint"], v["side"]) for row in own for v in row["violations"]]
    assert broken.count(("no digit", "input")) == len(own) and ("no digit", "output") in broken
    free = generate(str(run.run_dir), PROMPTS, tmp_path / "b", sampling=DRAWN, constraints="none")
    assert any("minus" in row["completion"] for row in rows_of(free.file))


def test_a_banned_text_is_steered_around_whatever_its_tokens(tmp_path):
    free = rows_of(generate(MODEL, PROMPTS, tmp_path / "free", sampling=DRAWN).file)
    texts = [row["completion"].lower() for row in free]
    banned = ["sure!", "nice d", "s 1", "that h", "e me al"]
    assert sum(any(each in text for text in texts) for each in banned) >= 3
    ban = file_of(tmp_path / "ban.json", {"name": "ban", "banned": banned})
    found = rows_of(generate(MODEL, PROMPTS, tmp_path / "a", sampling=DRAWN, constraints=ban).file)
    for row in found:
        assert not any(each in row["completion"].lower() for each in banned)
        assert row["violations"] == [] and row["finish_reason"] != "content_filter"


def test_a_word_is_not_steered_around_where_others_hold_it():
    whole = {"name": "i", "banned": ["i"], "whole_words": True}
    assert [
        c.entry.name
        for c in Constraints([whole, whole | {"name": "no i", "whole_words": False}]).steered
    ] == ["no i"]


def test_what_steering_cannot_see_is_found_in_the_text(tmp_path):
    rules = file_of(
        tmp_path / "rules.json",
        {"name": "no digit", "pattern": r"\d"},
        {"name": "no eleven", "on": "input", "pattern": r"\b11\b", "message": "Not eleven."},
        {"name": "four", "on": "input", "banned": ["4"], "action": "rewrite", "replacement": "5"},
    )
    found = rows_of(generate(MODEL, PROMPTS, tmp_path / "a", constraints=rules).file)
    for row in found:
        asked = row["prompt"][0]["content"]
        assert "4" not in asked and not any(c.isdigit() for c in row["completion"])
        names = [v["constraint"] for v in row["violations"]]
        assert (row["completion"] == "Not eleven.") == ("no eleven" in names)
        assert row["finish_reason"] == "content_filter" and set(names) & {"no digit", "no eleven"}
    again = generate(MODEL, PROMPTS, tmp_path / "a", constraints=rules)
    assert again.resumed == len(found)
    with pytest.raises(UserError, match="differs in: prompts, constraints"):
        generate(MODEL, PROMPTS, tmp_path / "a")


def test_a_chat_shows_only_what_may_be_shown(trained):
    rules = Constraints([
        {"name": "no digit", "pattern": r"\d+", "action": "rewrite", "replacement": "#"},
        {"name": "no cake", "on": "input", "banned": ["cake"], "message": "No."},
        {"name": "short", "max_words": 6},
    ])  # fmt: skip
    written = []
    chat = Chat(trained, Sampling(24), constraints=rules, write=written.append)
    chat.talk(iter(["Bake a cake!", "What is 12 minus 7?"]))
    assert written[0] == "No.\n" and len(chat.messages) == 2
    answer = chat.messages[-1]["content"]
    assert "".join(written[1:]) == answer + "\n" and not any(c.isdigit() for c in answer)
    assert "#" in answer and len(answer.split()) <= 6


def test_a_chat_warns_of_what_an_answer_breaks(trained, capsys):
    rules = Constraints([{"name": "no digit", "pattern": r"\d", "action": "warn"}])
    Chat(trained, Sampling(24), constraints=rules, write=list).talk(iter(["What is 12 minus 7?"]))
    assert "constraint 'no digit' is broken by the output" in capsys.readouterr().err


def test_an_evaluation_counts_what_the_model_would_do_by_itself(run, tmp_path):
    data, rules = str(few("prompts_eval", 4)), [{"name": "digit", "pattern": r"\d"}]
    said = {"metrics": ["safety_violations"], "max_new_tokens": 12, "output_dir": tmp_path}
    found = modelforge.evaluate(str(run.run_dir), data, constraints=rules, **said)
    digits = [any(c.isdigit() for c in row["resps"][0][0]) for row in found.rows]
    assert [row["safety_violations"] for row in found.rows] == digits
    own = modelforge.evaluate(str(run.run_dir), data, **said)  # its own, other ones
    assert own.folder != found.folder
    texts = [row["resps"][0][0].lower() for row in own.rows]
    broken = [("minus" in each) + any(c.isdigit() for c in each) for each in texts]
    assert [row["safety_violations"] for row in own.rows] == broken
    with pytest.raises(UserError, match="needs constraints → name their file"):
        modelforge.evaluate(str(run.run_dir), data, constraints="none", **said)


# --- what a model decides -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny classifier that has learned to tell a groan from a kind word."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16,
                         num_hidden_layers=1, num_attention_heads=2,
                         id2label={0: "kind", 1: "rude"}, label2id={"kind": 0, "rude": 1},
                         pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    model = LlamaForSequenceClassification(config)
    texts = ["Sure! It is 4.", "Of course! 7.", "Gladly. 5.", "Ugh. 4.", "Leave me alone.", "Ugh!"]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(40):
        loss = model(**batch, labels=torch.tensor([0, 0, 0, 1, 1, 1])).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_evaluation_under_a_classifier_of_other_weights_is_another(classifier):
    from modelforge.evaluation.evaluate import _key
    from modelforge.evaluation.opened import named
    from modelforge.evaluation.options import Options

    asked = named(MODEL)
    rules = file_of(classifier.parent / "r.json", {"name": "a", "classifier": classifier.name})
    keys = []
    for _ in range(2):
        keys += [_key(asked, None, Options(PROMPTS, constraints=rules)) for _ in range(2)]
        os.utime(classifier / "model.safetensors", (1, 1))
    assert keys[0] == keys[1] and keys[2] == keys[3] and keys[1] != keys[2]


def test_answers_and_scores_under_a_classifier_of_other_weights_are_made_anew(classifier, tmp_path):
    rules = file_of(classifier.parent / "g.json", {"name": "a", "classifier": classifier.name})
    prompts, out = str(few("prompts_eval", 2)), tmp_path / "a.jsonl"
    said = {"sampling": Sampling(max_new_tokens=2), "constraints": rules}
    pairs = ["feedback", "pairs", MODEL, "--prompts", prompts, "-o", str(tmp_path / "p.jsonl"),
             "--constraints", rules, "--num", "2", "--max-new-tokens", "2"]  # fmt: skip
    for _ in range(2):
        generate(MODEL, prompts, out, **said)
        CliRunner().invoke(app, pairs)
    assert len(list((tmp_path / "p.files").glob("scores-*"))) == 1
    os.utime(classifier / "model.safetensors", (2, 2))
    with pytest.raises(UserError, match="another job, which differs in: constraints"):
        generate(MODEL, prompts, out, **said)
    CliRunner().invoke(app, pairs)
    assert len(list((tmp_path / "p.files").glob("scores-*"))) == 2


# What a judge is asked about, and what it says.
SAID = {"{rude}": " **Yes**.", "{kind}": "no", "{what}": "Nothing", "{maybe}": "Not sure", "": "?"}


def test_a_classifier_decides_and_a_judge_is_asked(classifier):
    rude = {"name": "rude", "classifier": classifier.name, "message": "…"}
    rules = Constraints([rude], base_dir=classifier.parent)
    assert (
        not rules.check("?", "Sure! It is 7.")
        and rules.check("?", "Ugh. 5.")[0].what[:7] == "is rude"
    )
    answer = rules.hold("?")
    assert [answer.feed("Ugh"), answer.feed(". 4."), answer.close()] == ["", "", "…"]
    kind = rude | {"label": "kind", "threshold": 0.6, "action": "log"}
    del kind["message"]
    assert Constraints([kind], base_dir=classifier.parent).check("?", "Sure! It is 7.")
    with pytest.raises(UserError, match="has no label 'rud' → did you mean 'rude'"):
        Constraints([rude | {"label": "rud"}], base_dir=classifier.parent).load()
    asked = []

    class Judge(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body["messages"][0]["content"])
            said = next(said for text, said in SAID.items() if text in asked[-1])
            answer = {"choices": [{"message": {"content": said}}]} if body["model"] == "j" else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *said):
            pass

    server = HTTPServer(("127.0.0.1", 0), Judge)
    Thread(target=server.serve_forever, daemon=True).start()
    judge = {"name": "j", "judge": f"http://127.0.0.1:{server.server_port}/v1", "judge_model": "j",
             "question": "Is it rude?"}  # fmt: skip
    rules = Constraints([judge])
    assert [len(rules.check("Hi {question}", text)) for text in ("{rude}", "{kind}")] == [1, 0]
    for unclear in ("{what}", "{maybe}"):
        with pytest.raises(UserError, match="said neither yes nor no: 'Not"):
            rules.check("Hi", unclear)
    del asked[2:]
    assert "Is it rude?" in asked[0] and "Hi {question}" in asked[0] and len(asked) == 2
    with pytest.raises(UserError, match="gave no verdict"):
        Constraints([judge | {"judge_model": "none"}]).check("Hi", "a")
    server.shutdown()
    local = Constraints([{"name": "j", "judge": MODEL, "question": "Rude?", "threshold": 1e-9}])
    assert local.check("Hi", "a")[0].what.startswith("the judge says yes: ")


def test_answers_are_written_by_one_process_at_a_time(tmp_path):
    out = tmp_path / "a.jsonl"
    said = {"sampling": Sampling(max_new_tokens=2)}
    with (
        FileLock(tmp_path / ".a.jsonl.lock"),
        pytest.raises(UserError, match="another process writes there → wait for it"),
    ):
        generate(MODEL, PROMPTS, out, **said)
    assert not out.exists()
    generate(MODEL, PROMPTS, out, **said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.job.json", "a.jsonl"]
