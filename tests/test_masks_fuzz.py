"""Random dialogues: what is trained on is what the assistant says, and nothing vanishes unsaid.

The full command: ``python benchmarks/fuzz_masks.py --cases 5000``.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data_tokens import toy_tokenizer

from modelforge.data import built_in_templates, load_data

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def fuzz():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("fuzz_masks")
    sys.path.remove(str(ROOT / "benchmarks"))
    sys.modules.pop("fuzz_masks", None)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_trained_spans_are_the_words_of_the_assistant(fuzz, seed):
    random = Random(seed)
    name = random.choice(sorted(fuzz.templates()))
    tokens = sorted(set(fuzz.SPECIAL.findall(fuzz.templates()[name])))
    row = fuzz.dialogue(random, tokens)
    _, wrong = fuzz.flaw(name, row)
    assert not wrong, (name, row)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
CELLS = st.one_of(
    st.text(min_size=1, max_size=8).filter(str.strip),
    st.integers(),
    st.lists(st.integers(), min_size=1),
)
KEYS = st.dictionaries(NAMES.map("x-{}".format), CELLS, max_size=3)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(columns=KEYS, keys=KEYS, turn=st.integers(0, 1))
def test_no_column_and_no_key_vanishes_unsaid(columns, keys, turn):
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    messages[turn] |= keys
    tokenizer = toy_tokenizer()
    tokenizer.chat_template = built_in_templates()["plain"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.jsonl")
        path.write_text(json.dumps({**columns, "messages": messages}) + "\n")
        unused = load_data(
            dataset=path, kind="demonstration", tokenizer=tokenizer, max_length=None, seed=0,
            eval_split=0,
        ).ledger.unused  # fmt: skip
    assert set(unused) == {*columns, *(f"messages[].{key}" for key in keys)}
