"""Pairs that a machine makes: every step is kept, and a job that was killed goes on."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import ROOT, few
from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

MODEL = str(ROOT / "examples/tiny/model")
PRINCIPLES = [
    {"name": name, "critique": f"Say what of your answer is not {name}.",
     "revision": f"Write it anew so that it is {name}."}
    for name in ("short", "kind")
]  # fmt: skip


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    """A reward model of random weights."""
    folder = tmp_path_factory.mktemp("reward")
    torch.manual_seed(0)
    config = LlamaConfig.from_pretrained(MODEL, num_labels=1, num_hidden_layers=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(MODEL).save_pretrained(folder)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_best_and_worst_by_a_reward_model_go_on_after_a_kill(reward, tmp_path, command):
    out = tmp_path / "pairs.jsonl"
    said = ("feedback", "pairs", MODEL, "--prompts", few("prompts_train", 4), "-o", out,
            "--by", reward, "--num", "3", "--max-new-tokens", "8")  # fmt: skip
    assert command(*said)[0] == 0
    rows, files = rows_of(out), tmp_path / "pairs.files"
    assert rows and all(r["chosen_score"] > r["rejected_score"] for r in rows)
    assert all(r["chosen"] != r["rejected"] and r["prompt"][0]["role"] == "user" for r in rows)
    (scores,) = files.glob("scores-*.jsonl")
    answers = files / "answers.jsonl"
    whole = out.read_bytes(), scores.read_bytes(), answers.read_bytes()
    scores.write_bytes(whole[1][: len(whole[1]) // 2])  # killed amid a line
    answers.write_bytes(whole[2][: len(whole[2]) // 2])
    code, _, err = command(*said)
    assert code == 0 and "answers already" in err
    assert (out.read_bytes(), scores.read_bytes(), answers.read_bytes()) == whole
    head = load_file(reward / "model.safetensors")
    head["score.weight"] = -head["score.weight"]
    save_file(head, reward / "model.safetensors", {"format": "pt"})  # trained again, in its place
    assert command(*said)[0] == 0
    assert [row["chosen"] for row in rows_of(out)] == [row["rejected"] for row in rows]
    code, _, err = command(*said, "--rounds", "2")
    assert code == 2 and "--rounds: has no effect without --principles" in " ".join(err.split())


def test_a_judge_has_to_pass_its_audit(tmp_path, command):
    (tmp_path / "judges.py").write_text(
        "def polite(prompts, firsts, seconds):\n"
        "    worth = lambda text: text.startswith(('Sure', 'Gladly', 'Of'))\n"
        "    return [0.5 + (worth(a) - worth(b)) / 2 for a, b in zip(firsts, seconds)]\n"
        "def first(prompts, firsts, seconds):\n    return [1.0 for _ in prompts]\n"
        "def longer(prompts, firsts, seconds):\n"
        "    return [0.5 + ((len(a) > len(b)) - (len(a) < len(b))) / 2"
        " for a, b in zip(firsts, seconds)]\n"
    )
    pairs = tmp_path / "people.jsonl"
    pairs.write_text("".join(
        json.dumps({"prompt": f"q{i}", "chosen": f"{i} " + "x" * (i % 7 + 9), "rejected": "x" * 8})
        + "\n" for i in range(40)))  # fmt: skip
    said = ("feedback", "pairs", MODEL, "--prompts", few("prompts_train", 3), "--num", "2",
            "--max-new-tokens", "6", "-o", tmp_path / "pairs.jsonl")  # fmt: skip
    judge = f"{tmp_path}/judges.py"
    code, _, err = command(*said, "--judge", f"{judge}:first", "--audit", pairs)
    assert code == 2 and "takes the first answer 100% of the time" in " ".join(err.split())
    from modelforge.feedback.machine import by_judge

    people = few("preference_train", 80)
    score = by_judge(f"{judge}:polite", model=None, audit=str(people))
    assert score("Hi", ["Sure!", "No.", "No."]) == [1.0, 0.25, 0.25]
    assert score("Hi", ["No.", "No."]) == [0.5, 0.5]


def test_a_rule_says_which_answers_are_best_and_which_revisions_count(tmp_path, command):
    rules, out = tmp_path / "rules.json", tmp_path / "pairs.jsonl"
    rules.write_text(json.dumps([{"name": "no groan", "banned": ["oh", "ugh", "again"]}]))
    said = ("feedback", "pairs", MODEL, "--prompts", few("prompts_train", 8), "-o", out,
            "--max-new-tokens", "10")  # fmt: skip
    assert command(*said, "--constraints", rules, "--num", "6", "--temperature", "1.2")[0] == 0
    rows = rows_of(out)
    assert rows and {(r["chosen_score"], r["rejected_score"]) for r in rows} == {(0.0, -1.0)}
    for row in rows:
        texts = [row[side][0]["content"].lower() for side in ("chosen", "rejected")]
        assert [any(w in t for w in ("oh", "ugh", "again")) for t in texts] == [False, True]
    rules.write_text(json.dumps([{**PRINCIPLES[0], "required": ["zebra"]}]))
    out.with_suffix(".files").rename(tmp_path / "old")
    code, _, err = command(*said, "--principles", rules)
    assert code == 2 and "without: the revision breaks its rule" in " ".join(err.split())


def test_critique_and_revision_keep_every_step_and_go_on(tmp_path, command):
    principles = tmp_path / "principles.json"
    principles.write_text(json.dumps(PRINCIPLES))
    out = tmp_path / "pairs.jsonl"
    said = ("feedback", "pairs", MODEL, "--prompts", few("prompts_train", 3), "-o", out,
            "--principles", principles, "--max-new-tokens", "6")  # fmt: skip
    assert command(*said)[0] == 0
    files = tmp_path / "pairs.files"
    steps = {name: rows_of(files / f"{name}.jsonl")
             for name in ("answers", "critique-1", "revision-1")}  # fmt: skip
    assert [len(rows) for rows in steps.values()] == [3, 3, 3]
    asked = rows_of(files / "revision-1.prompts.jsonl")[0]["prompt"]
    assert [turn["role"] for turn in asked] == ["user", "assistant"] * 2 + ["user"]
    assert asked[1]["content"] == steps["answers"][0]["completion"]
    assert asked[3]["content"] == steps["critique-1"][0]["completion"]
    for row in rows_of(out):
        assert row["chosen"] != row["rejected"] and row["principles"][0] in ("short", "kind")
    whole = {path.name: path.read_bytes() for path in files.iterdir()}
    for name in ("critique-1.jsonl", "revision-1.jsonl"):
        (files / name).write_bytes(whole[name][: len(whole[name]) // 2])
    kept = out.read_bytes()
    assert command(*said)[0] == 0
    assert out.read_bytes() == kept
    assert {path.name: path.read_bytes() for path in files.iterdir()} == whole
    shutil.rmtree(files)


def test_what_does_not_fit_is_said_before_a_model_is_loaded(tmp_path, command):
    wrong = tmp_path / "principles.json"
    wrong.write_text('[{"name": "short", "critique": "?"}, 7]')
    said = ("feedback", "pairs", MODEL, "--prompts", few("prompts_train", 3))
    for more, what in (
        ((), "say one of --by REWARD_MODEL"),
        (("--by", "x", "--principles", wrong), "--by and --principles are given"),
        (("--judge", "x"), "say --audit PAIRS"),
        (("--by", MODEL), "name the run of a reward model"),
        (("--principles", wrong, "--judge-model", "x"), "--judge-model: has no effect without"),
        (("--principles", wrong), "principles.json[1]: is no object"),
        (("--principles", tmp_path / "no.json"), "cannot be read"),
    ):
        code, _, err = command(*said, *more)
        assert code == 2 and what in " ".join(err.split()), (more, err)


def test_the_file_of_the_prompts_is_not_written_over(tmp_path, command):
    prompts = shutil.copy(few("prompts_train", 2), tmp_path / "p.jsonl")
    rules = tmp_path / "rules.json"
    rules.write_text('[{"name": "a", "banned": ["7"]}]')
    before = prompts.read_bytes()
    for output in (prompts, rules):
        code, _, error = command("feedback", "pairs", MODEL, "--prompts", str(prompts), "-o",
                                 str(output), "--constraints", str(rules))  # fmt: skip
        assert code == 2 and "is a file that this command reads" in error, error
    assert prompts.read_bytes() == before and len(list(tmp_path.iterdir())) == 2
