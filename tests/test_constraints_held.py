"""A model held to constraints: in generate, chat and a run's samples; as a reward and a measure."""

import json

import pytest
from tiny import ROOT, few, quick

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
    path.write_text(json.dumps(entries))
    return str(path)


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was trained with constraints, of which one has a file beside it."""
    held = [{"name": "no minus", "banned": ["MINUS"]},
            {"name": "no digit", "pattern": r"\d", "action": "log", "on": "both"}]  # fmt: skip
    said = (f"constraints={json.dumps(held)}", "eval_split=0", "save_strategy=no", "max_steps=2")
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
