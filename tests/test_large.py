"""Data that memory does not hold: the same rows, tokens and ledger as if it did."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from modelforge.common.sources import DatasetSource
from modelforge.data import encode, load_data, load_tokenizer_template, sources
from modelforge.data.fingerprint import fingerprint
from modelforge.data.spool import Spool, written
from modelforge.errors import DataError, RunError

TINY = Path(__file__).parents[1] / "examples" / "tiny" / "model"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
ROWS = {
    "demonstration": [
        {"messages": [{"role": "user", "content": f"What is {i} and {{{{x}}}}?"},
                      {"role": "assistant", "content": f"It is {i}. " * (1 + i % 5), "weight": 2}],
         "source": "made"}
        for i in range(700)
    ],
    "preference": [
        {"prompt": f"Say {i % 50}", "chosen": f"Here is {i % 50}.", "rejected": "No." * (i % 7),
         "margin": i / 10}
        for i in range(120)
    ],
    "labelled": [
        {"prompt": f"Say {i}", "completion": f"Here is {i}.", "label": i % 3 > 0}
        for i in range(60)
    ],
    "prompt": [
        {"prompt": f"Count to {i}", "answer": [str(i), i][i % 2], "level": [i, "high", None][i % 3]}
        for i in range(60)
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(TINY)
    load_tokenizer_template(
        tokenizer, chat_template="chatml", task="text-generation", base_dir=Path()
    )
    return tokenizer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "modelforge"


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def outcome(data):
    evaluation = data.eval and data.eval.to_list()
    return [
        *(data.train.to_list(), evaluation, data.ledger.to_dict()),
        *(list(data.train_tokens), list(data.eval_tokens)),
    ]


@pytest.mark.parametrize("kind", ROWS)
def test_what_does_not_fit_the_memory_gives_the_same(tmp_path, cache, monkeypatch, tokenizer, kind):
    put(tmp_path / "a.jsonl", ROWS[kind] + [ROWS[kind][3], {}])
    put(tmp_path / "b.jsonl", ROWS[kind][:30])
    asked = [DatasetSource(path="a.jsonl", weight=2), DatasetSource(path="b.jsonl", max_samples=20)]

    def load(processes=1):
        return load_data(
            dataset=asked, kind=kind, tokenizer=tokenizer, base_dir=tmp_path, max_length=150,
            eval_split=9, system_prompt="Be brief.", processes=processes,
        )  # fmt: skip

    few = load()
    monkeypatch.setattr(sources, "LARGE", -1)
    many = load(processes=2)
    if kind == "prompt":  # rewards get what the file holds, not one type for all rows
        assert few.train["prompt"][:] == many.train["prompt"][:]
        expected = [(str(row["answer"]), row["level"]) for row in ROWS[kind]]
        found = {(str(row["answer"]), row["level"]) for row in many.train}
        assert found <= set(expected)
        assert outcome(few)[3:] == outcome(many)[3:]
        return
    assert outcome(few) == outcome(many)
    for length in (None, 140):
        pair = [d.tokenised(train_length=length, eval_length=None) for d in (few, many)]
        assert pair[0][0].to_list() == pair[1][0].to_list()
    assert many.train.cache_files and fingerprint(many.train) == fingerprint(load().train)


def test_tokens_are_found_again_and_never_those_of_other_rows(
    tmp_path, cache, monkeypatch, tokenizer, capsys
):
    monkeypatch.setattr(sources, "LARGE", -1)
    made = []
    work = encode.Work.batch
    monkeypatch.setattr(encode.Work, "batch", lambda *args: made.append(1) or work(*args))

    def load(**keys):
        capsys.readouterr()
        made.clear()
        data = load_data(
            dataset="a.jsonl", kind="demonstration", tokenizer=tokenizer, base_dir=tmp_path,
            max_length=99, processes=1, **keys,
        )  # fmt: skip
        return (
            outcome(data),
            bool(made),
            "are in the cache, and are used" in capsys.readouterr().err,
        )

    put(tmp_path / "a.jsonl", ROWS["demonstration"][:50])
    first, made_first, said = load()
    assert made_first and not said
    assert load() == (first, False, True)
    _, made_other, _ = load(system_prompt="Be brief.")
    assert made_other
    put(tmp_path / "a.jsonl", ROWS["demonstration"][1:51])
    other, made_other, _ = load()
    assert made_other and other != first
    kept = [path for path in cache.iterdir() if not path.name.startswith("tmp-")]
    assert not kept[3:]
    for path in kept:  # as the machine may leave it that loses power
        os.truncate(path / "0.arrow", 100)
    assert load() == (other, True, False)
    assert load() == (other, False, True)


def test_a_template_without_a_place_refuses_the_row_by_its_number(
    tmp_path, cache, monkeypatch, tokenizer
):
    monkeypatch.setattr(sources, "LARGE", -1)
    row = {"role": "assistant", "content": "", "tool_calls": [CALL], "weight": 2}
    rows = [*ROWS["demonstration"], {"messages": [{"role": "user", "content": "?"}, row]}]
    put(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"a.jsonl:701: the row holds calls of functions"):
        load_data(
            dataset="a.jsonl", kind="demonstration", tokenizer=tokenizer, base_dir=tmp_path,
            max_length=99, processes=2,
        )  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process is started")
def test_a_process_that_is_killed_ends_the_run_with_a_message(
    tmp_path, cache, monkeypatch, tokenizer
):
    monkeypatch.setattr(sources, "LARGE", -1)
    monkeypatch.setattr(encode.Work, "batch", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    put(tmp_path / "a.jsonl", ROWS["demonstration"])
    with pytest.raises(RunError, match="one of its processes was killed"):
        load_data(
            dataset="a.jsonl", kind="demonstration", tokenizer=tokenizer, base_dir=tmp_path,
            max_length=99, processes=2,
        )  # fmt: skip


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path, cache, monkeypatch, tokenizer):
    monkeypatch.setattr(sources, "LARGE", -1)
    cache.parent.write_text("a file")
    put(tmp_path / "a.jsonl", ROWS["labelled"])
    with pytest.raises(RunError, match=r"cache/modelforge: .*set HF_DATASETS_CACHE"):
        load_data(
            dataset="a.jsonl", kind="labelled", tokenizer=tokenizer, base_dir=tmp_path,
            max_length=99, processes=1,
        )  # fmt: skip


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_is_said_and_freed(tmp_path, cache):
    folder = tmp_path / "scratch"
    folder.mkdir()
    with pytest.raises(RunError, match="No space left on device"), written(folder):
        Spool(Path("/dev/full"), ROWS["labelled"])
    assert not folder.exists()
