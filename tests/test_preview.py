"""`modelforge data`: what it shows is what the model is trained on."""

import json
import re
from pathlib import Path

import pytest
from transformers import AutoTokenizer

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
BAD = "<script>alert(1)</script>\x1b[31m \u202eturned"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def demo(i, answer="The answer is 4."):
    return {"messages": [{"role": "user", "content": f"Question {i}?"},
                         {"role": "assistant", "content": answer}]}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files of demonstrations, pairs and prompts, and a config for each."""
    folder = tmp_path_factory.mktemp("preview")
    rows = [demo(i) for i in range(8)]
    rows[2] = demo(2, "")
    rows[3] = demo(3, "A long answer. " * 6)
    rows[5] = demo(5, BAD)
    write(folder / "sft.jsonl", rows)
    write(folder / "more.jsonl", [demo(9), demo(0)])
    pair = {"prompt": "Which one?", "chosen": "This one.", "rejected": "That one."}
    write(folder / "dpo.jsonl", [pair | {"prompt": f"Which one {i}?"} for i in range(3)])
    write(folder / "grpo.jsonl", [{"prompt": f"What is {i}?", "answer": str(i)} for i in range(8)])
    for strategy in ("sft", "dpo", "grpo"):
        values = {"strategy": strategy, "model_name": str(TINY / "model"), "eval_split": 0,
                  "dataset": f"{strategy}.jsonl", "output_dir": str(folder / "runs"),
                  "max_seq_length": 64}  # fmt: skip
        if strategy == "grpo":
            values |= {"rewards": ["exact_match"], "generation": {"max_new_tokens": 8}}
        (folder / f"{strategy}.json").write_text(json.dumps(values))
    return folder


@pytest.fixture
def shown(place, command):
    def run(strategy, *options, code=0):
        done, out, err = command("data", place / f"{strategy}.json", "--json", *options)
        assert done == code, err
        return json.loads(out), err

    return run


def trained(row, part):
    return "".join(s["text"] for s in row if s["trained"] and s["part"] == part)


def test_the_preview_is_what_is_trained_on_and_is_marked_without_colours(shown):
    found, err = shown("sft", "--rows", "2")
    row, _ = found["preview"]
    assert trained(row, "row") == "The answer is 4.<|eos|>"
    assert all(s["weight"] == float(s["trained"]) for s in row)
    assert found["kept"] == 7  # the ledger stands beside it
    assert found["preview_rows"][0]["row"] == "sft.jsonl:1"
    assert "[[The answer is 4.<|eos|>]]" in err and "between [[ and ]]" in err


def test_pairs_and_prompts_are_shown_as_they_are_read(shown):
    row = shown("dpo")[0]["preview"][0]
    assert trained(row, "chosen").startswith("This one.")
    assert trained(row, "rejected").startswith("That one.")
    (prompt,) = shown("grpo", "--rows", "1")[0]["preview"]
    assert not any(s["trained"] or s["weight"] for s in prompt)
    assert "What is 0?" in "".join(s["text"] for s in prompt)


def test_a_row_is_found_by_its_place_and_so_is_why_it_was_dropped(shown, place):
    found, _ = shown("sft", "--row", "2")
    assert "Question 1?" in "".join(s["text"] for s in found["preview"][0])
    found, err = shown("sft", "--row", "sft.jsonl:3")
    assert found["preview"] == [[]] and "sft.jsonl:3 (dropped: " in err
    assert found["preview_rows"][0]["fate"].startswith("dropped: ")
    refused, _ = shown("sft", "--row", "99", code=2)
    assert "no row begins there" in refused["problems"][0]["what"]
    two = 'dataset=["sft.jsonl", "more.jsonl"]'
    refused, _ = shown("sft", "--row", "2", "--set", two, code=2)
    assert "sft.jsonl:2" in refused["problems"][0]["what"]
    found, _ = shown("sft", "--row", "more.jsonl:2", "--set", two)
    assert found["preview_rows"][0]["row"] == "more.jsonl:2"
    found, _ = shown("sft", "--row", "1", "--set", "eval_split=3")
    assert found["preview_rows"][0]["fate"] in ("held out", "trained on")
    fates = {
        shown("sft", "--row", str(i), "--set", "max_samples=2")[0]["preview_rows"][0]["fate"]
        for i in (1, 2, 4)
    }
    assert "dropped: max_samples drew other rows" in fates


def test_the_longest_and_some_at_random(shown):
    found, _ = shown("sft", "--longest", "--rows", "1")
    assert found["preview_rows"][0]["row"] == "sft.jsonl:4"
    rows = [shown("sft", "--random", "--rows", "3", "--set", f"seed={seed}")[0]["preview_rows"]
            for seed in (1, 1, 2)]  # fmt: skip
    assert rows[0] == rows[1] != rows[2]
    refused, _ = shown("sft", "--random", "--longest", code=2)
    assert "only one" in refused["problems"][0]["what"]


@pytest.mark.parametrize("strategy", ["sft", "dpo", "grpo"])
def test_the_page_shows_each_token_and_runs_nothing(shown, place, tmp_path, strategy):
    page = tmp_path / "page.html"
    found, _ = shown(strategy, "--html", page, "--rows", "8")
    text = page.read_text()
    assert "<script" not in text and "\u202e" not in text and "\x1b" not in text
    assert not re.search(r"(src|href|url|@import|onload)\s*[=(]", text)
    assert text.count("<svg") == 1 + (strategy != "grpo") and "Data report" in text
    tokenizer = AutoTokenizer.from_pretrained(TINY / "model")
    row = found["preview"][0]
    ids = tokenizer("".join(s["text"] for s in row if s["part"] in ("row", "prompt")),
                    add_special_tokens=False).input_ids  # fmt: skip
    assert all(f"<small>{token}</small>" in text for token in ids)
    if strategy == "sft":
        assert "&lt;script&gt;" in text and '<span class="on">' in text


def test_two_sets_are_held_against_each_other_without_a_model(command, place, tmp_path):
    rows = [demo(0), demo(1, "Another answer."), demo(77)]
    write(tmp_path / "other.jsonl", rows)
    for one in (place / "sft.json", place / "sft.jsonl"):
        code, out, err = command("data", one, "--against", tmp_path / "other.jsonl", "--json")
        assert code == 0, err
        assert json.loads(out) == {
            "rows": [8, 3],
            "shared": {
                "the same row": [["sft.jsonl:1" if one.suffix == ".json" else f"{one}:1",
                                  f"{tmp_path / 'other.jsonl'}:1"]],
                "the same prompt, another answer": [
                    [("sft.jsonl" if one.suffix == ".json" else str(one)) + ":2",
                     f"{tmp_path / 'other.jsonl'}:2"]],
            },
        }  # fmt: skip
        assert "the same row: 1 of 8 rows" in err
    code, _, err = command("data", place / "sft.json", "--against", tmp_path / "none.jsonl")
    assert code == 2 and "no such config, data file or folder" in err
    code, _, err = command("data", place / "dpo.jsonl", "--against", place / "grpo.json")
    assert code == 0 and "no row is shared" in err
