"""Random configs and damaged files are accepted or refused, and nothing else: `benchmarks/fuzz.py`.

The full command: ``python benchmarks/fuzz.py --configs 10000 --data 10000``.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

import pytest

import modelforge
from modelforge.data import load_data

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "examples" / "tiny" / "model"
SHARED = Path(os.environ.get("MODELFORGE_SHARED", ROOT.parent / "shared"))


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    module = importlib.import_module("fuzz")
    before = signal.signal(signal.SIGALRM, module.too_long)
    yield module
    signal.signal(signal.SIGALRM, before)
    for name in ("fuzz", "fuzz_configs", "fuzz_files"):
        sys.modules.pop(name, None)


def test_random_configs(fuzz):
    loaded, prepared = fuzz.fuzz_config(300, seed=1, first=0, prepare_every=15)
    assert not loaded.failures and not prepared.failures
    assert loaded.cases == 300 and loaded.accepted > 20 and prepared.cases


def test_damaged_data_files(fuzz):
    tally = fuzz.fuzz_data(500, seed=1, first=0, real=None)
    assert not tally.failures
    assert tally.cases == 500 and tally.accepted > 50


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="needs the folder of real data")
def test_damaged_copies_of_real_files(fuzz):
    tally = fuzz.fuzz_data(200, seed=1, first=0, real=SHARED / "data")
    assert not tally.failures
    assert tally.cases == 200


# What the fuzzer found, each by itself.


def config(**values):
    return {"strategy": "grpo", "model_name": str(MODEL), "dataset": "data.jsonl"} | values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"accelerator_config": "no-such-file"}, "no-such-file"),
        ({"num_generations": None}, "TRL refuses it"),
        ({"parallelism_config": {}}, "accelerate launch"),
        ({"memory_budget_gb": 10**400}, "64 bits"),
        ({"max_seq_length": 1e29}, "max_seq_length"),
        ({"model_name": "a\0b"}, "NUL"),
        ({"output_dir": "\ud800"}, "surrogate"),
        ({"dataset": "~nosuchuser/x"}, "there is no user ~nosuchuser"),
        ({"dataset": "x" * 300}, "longer than a path can be"),
    ],
)
def test_a_config_that_once_ended_in_a_traceback(values, says, tmp_path, monkeypatch):
    from modelforge.training.prepare import prepare

    monkeypatch.chdir(tmp_path)
    rows = [f'{{"prompt": "What is {i}?", "answer": "{i}"}}' for i in range(8)]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    with pytest.raises(modelforge.UserError, match=says):
        prepare(modelforge.load_config(config(**values)))


def test_a_column_whose_name_holds_nul(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "data.jsonl").write_text('{"prompt": "a", "\\u0000": "b", "": "c"}\n')
    with pytest.raises(modelforge.DataError, match="NUL"):
        load_data(
            dataset="data.jsonl", kind="prompt", max_length=None, seed=0, base_dir=tmp_path,
            tokenizer=AutoTokenizer.from_pretrained(MODEL),
        )  # fmt: skip


def test_a_column_nested_deeper_than_a_data_set_may(tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "data.jsonl").write_text(
        '{"prompt": "a", "deep": ' + '{"a":[' * 45 + "1" + "]}" * 45 + "}"
    )
    data = load_data(
        dataset="data.jsonl", kind="prompt", max_length=None, seed=0, base_dir=tmp_path,
        tokenizer=AutoTokenizer.from_pretrained(MODEL),
    )  # fmt: skip
    assert data.train[0]["deep"].startswith('{"a": [{"a":')


def test_a_score_beyond_any_float_is_no_score():
    from modelforge.data.convert import number
    from modelforge.data.dialogue import Skip

    with pytest.raises(Skip):
        number(10**400)
