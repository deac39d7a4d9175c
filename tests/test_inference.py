"""A trained model used: answers to a file of prompts, and a chat."""

import io
import json
import shutil
from pathlib import Path

import pytest
from tiny import ROOT, few, quick

from modelforge.errors import UserError
from modelforge.inference.answers import Sampling
from modelforge.inference.chat import Chat
from modelforge.inference.generate import generate
from modelforge.inference.trained import find_trained, load_trained

MODEL = str(ROOT / "examples/tiny/model")
PROMPTS = str(few("prompts_eval", 6))
DRAWN = Sampling(max_new_tokens=12, temperature=1.0, top_p=0.9)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inference")
    said = ("system_prompt=Be short.", "eval_dataset=null", "eval_split=0", "save_strategy=no")
    return str(
        quick("sft", folder, *said, max_steps=8, learning_rate=0.02, model_name=MODEL).run_dir
    )


@pytest.fixture(scope="module")
def trained(run):
    return load_trained(find_trained(run))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("sampling", [Sampling(12), DRAWN], ids=["greedy", "drawn"])
def test_an_answer_does_not_depend_on_its_batch(run, tmp_path, sampling):
    made = [
        generate(run, PROMPTS, tmp_path / f"{size}.jsonl", sampling=sampling, batch_size=size)
        for size in (1, 4)
    ]
    one, four = (rows_of(each.file) for each in made)
    assert one == four and len(one) == 6
    assert one[0]["prompt"][0] == {"role": "system", "content": "Be short."}
    assert {row["reference"] for row in one} == {"11", "4", "5"}


def test_a_stopped_job_goes_on_behind_its_last_whole_prompt(run, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    for path in (whole, cut):
        generate(run, PROMPTS, path, sampling=DRAWN, group=2, batch_size=2)
    text = whole.read_text()
    lines = text.splitlines(keepends=True)
    cut.write_text("".join(lines[:5]) + lines[5][:20])  # the third prompt has one of its two
    again = generate(run, PROMPTS, cut, sampling=DRAWN, group=2, batch_size=2)
    assert (again.rows, again.resumed) == (12, 4) and cut.read_text() == text
    assert {row["sample"] for row in rows_of(cut)} == {0, 1}
    said = "another job, which differs in: sampling, base"
    with pytest.raises(UserError, match=said):
        generate(run, PROMPTS, cut, sampling=Sampling(12, 0.5), group=2, base=True)


def test_the_adapter_can_be_left_off(run, tmp_path):
    with_it, without = (
        generate(run, PROMPTS, tmp_path / name, sampling=Sampling(12), base=name == "base")
        for name in ("trained", "base")
    )
    bare = generate(MODEL, PROMPTS, tmp_path / "model", sampling=Sampling(12), system="Be short.")
    texts = [[row["completion"] for row in rows_of(each.file)] for each in (with_it, without, bare)]
    assert texts[0] != texts[1] == texts[2]


def test_a_text_file_holds_a_prompt_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("What is 2 plus 2?\n\nWhat is 3 plus 4?\n")
    made = generate(MODEL, str(path), tmp_path / "a.jsonl", sampling=Sampling(4))
    prompts = [row["prompt"][0]["content"] for row in rows_of(made.file)]
    assert prompts == ["What is 2 plus 2?", "What is 3 plus 4?"]


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model": "./nowhere"}, "there is no folder ./nowhere"),
        ({"prompts": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"group": 2}, "--num: has no effect at temperature 0"),
        ({"base": True, "model": MODEL}, "--base: has no effect"),
        ({"sampling": Sampling(480)}, "jsonl:1: the prompt has .* tokens, and 32 fit"),
    ],
)
def test_what_cannot_be_answered_is_said_before_anything_is_written(run, tmp_path, keys, said):
    given = {"model": run, "prompts": PROMPTS, "system": "short " * 20} | keys
    with pytest.raises(UserError, match=said):
        generate(given.pop("model"), given.pop("prompts"), tmp_path / "a.jsonl", **given)
    assert not (tmp_path / "a.jsonl").exists()


def test_sampling_that_makes_no_sense_is_refused_with_all_that_is_wrong():
    with pytest.raises(UserError) as caught:
        Sampling(0, 0.0, 0.5, -1)
    assert [p.where for p in caught.value.problems] == [
        "--max-new-tokens", "--top-k", "--top-p", "--top-k",
    ]  # fmt: skip


def test_a_folder_that_cannot_answer_says_why(tmp_path):
    (tmp_path / "choices.json").write_text("{}")
    with pytest.raises(UserError, match="holds no trained model: the run is not finished"):
        find_trained(str(tmp_path))
    (tmp_path / "stages.json").write_text("{}")
    (tmp_path / "2-ppo" / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"name one of its stages: .*2-ppo"):
        find_trained(str(tmp_path))


def test_a_chat_answers_as_generate_does_and_is_kept(trained, run, tmp_path):
    written, kept = [], tmp_path / "talk.json"
    chat = Chat(
        trained, Sampling(12), system="Be short.", history=kept, write=written.append,
        beside_base=True,
    )  # fmt: skip
    question = "Can you work out 12 minus 1?"
    chat.talk(iter([question, "/again", "/unknown", "/quit", "never read"]))
    made = generate(run, PROMPTS, tmp_path / "a.jsonl", sampling=Sampling(12))
    expected = rows_of(made.file)[0]["completion"]
    roles = [m["role"] for m in chat.messages]
    assert roles == ["system", "user", "assistant"] and chat.messages[2]["content"] == expected
    assert "".join(written).split("trained: ")[1].splitlines()[0].strip() == expected.strip()
    again = Chat(trained, Sampling(4), history=kept, write=written.append)
    assert again.messages == json.loads(kept.read_text())["messages"] == chat.messages
    again.talk(iter(["And 3 plus 4?", "/undo"]))
    assert again.messages == chat.messages
    again.talk(iter(["/system Be kind."]))
    assert json.loads(kept.read_text())["messages"] == again.messages
    assert again.messages == [{"role": "system", "content": "Be kind."}]


def test_a_model_without_a_template_is_given_plain_text(tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(MODEL, bare)
    about = json.loads((bare / "tokenizer_config.json").read_text())
    about.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(about))
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": "What is 2 plus 2?"}) + "\n")
    made = generate(str(bare), str(asked), tmp_path / "a.jsonl", sampling=Sampling(4))
    assert rows_of(made.file)[0]["prompt"] == "What is 2 plus 2?"
    with pytest.raises(UserError, match="no chat template, so it takes no messages"):
        Chat(load_trained(find_trained(str(bare))), Sampling(4))


def test_what_lies_at_the_output_or_cannot_lie_there_is_said(tmp_path):
    where, folder = tmp_path / "a.jsonl", tmp_path / "folder.jsonl"
    whole = generate(MODEL, PROMPTS, where, sampling=Sampling(2)).file.read_bytes()
    kept = whole.splitlines(keepends=True)[:2]
    where.write_bytes(b"".join(kept) + b'{"row": 2, "completion": "caf\xc3')  # within a character
    again = generate(MODEL, PROMPTS, where, sampling=Sampling(2))
    assert again.resumed == 2 and where.read_bytes() == whole
    (tmp_path / "a.job.json").write_text("{")
    folder.mkdir()
    for place in (where, folder):
        with pytest.raises(UserError, match="is there already"):
            generate(MODEL, PROMPTS, place, sampling=Sampling(2))
    with pytest.raises(UserError, match="cannot be written"):
        generate(MODEL, PROMPTS, where / "below.jsonl", sampling=Sampling(2))
    with pytest.raises(UserError, match="cannot be written"):
        Chat(load_trained(find_trained(MODEL)), Sampling(2), history=where / "below.json")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9?\n")
    with pytest.raises(UserError, match="not UTF-8"):
        generate(MODEL, str(tmp_path / "latin.txt"), tmp_path / "b.jsonl")


def test_a_template_that_refuses_messages_says_so(tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    text = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    text += "{% endif %}{{ m.content }}{% endfor %}"
    (tmp_path / "model/chat_template.jinja").write_text(text)
    with pytest.raises(UserError, match="refuses messages of system, user: no system"):
        generate(str(tmp_path / "model"), PROMPTS, tmp_path / "a.jsonl", system="Be kind.")
    assert not (tmp_path / "a.jsonl").exists()


def test_a_chat_says_what_it_cannot_do(trained, tmp_path, caplog):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(UserError, match="holds no conversation"):
        Chat(trained, Sampling(4), history=Path(tmp_path, "other.json"))
    full = Chat(trained, Sampling(4), write=[].append)
    full.talk(iter(["word " * 600]))
    assert full.messages == []


def test_the_commands_answer_and_chat(run, command, tmp_path, monkeypatch):
    answers = tmp_path / "answers.jsonl"
    said = ("--prompts", PROMPTS, "-o", answers, "--max-new-tokens", 8, "--json")
    code, out, err = command("generate", run, *said)
    assert code == 0, err
    assert json.loads(out)["rows"] == len(rows_of(answers)) == 6
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 2 plus 2?\n/quit\n"))
    code, out, err = command("chat", run, "--max-new-tokens", 8)
    assert code == 0 and out.strip(), err
    code, _, err = command("chat", run, "--top-p", 0.5)
    assert code == 2 and "--top-p: has no effect at temperature 0" in err
