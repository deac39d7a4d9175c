"""The shipped schemas are what the installed TRL gives, and what the code accepts."""

import json

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelforge import ConfigError, list_strategies, load_config
from modelforge.configfile import schema
from modelforge.registry import STRATEGIES, get_strategy

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5000),
    st.floats(-2, 5000, allow_nan=False),
    st.sampled_from(["auto", "nf4", "cpu", "steps", "cosine", "adamw_torch", "", "sigmoid"]),
    st.lists(st.sampled_from(["q_proj", 1, "sigmoid"]), max_size=2),
    st.dictionaries(
        st.sampled_from(["a", "max_new_tokens", "top_p"]), st.integers(0, 9), max_size=2
    ),
)


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_the_shipped_schema_is_what_the_installed_trl_gives(name):
    strategy = get_strategy(name)
    assert schema.load(strategy) == json.loads(json.dumps(schema.build(strategy)))


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_the_shipped_schema_is_a_schema_and_documents_its_keys(name):
    document = schema.load(get_strategy(name))
    jsonschema.Draft202012Validator.check_schema(document)
    own = get_strategy(name).settings.model_fields
    assert all(document["properties"][key].get("description") for key in own)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_schema_and_the_code_accept_the_same(data):
    name = data.draw(st.sampled_from(list(STRATEGIES)))
    document = schema.load(get_strategy(name))
    keys = sorted(set(document["properties"]) - {"strategy", "$schema", "rewards", "columns"})
    drawn = data.draw(st.dictionaries(st.sampled_from([*keys, "typo"]), VALUES, max_size=4))
    config = {"strategy": name, "model_name": "m", "dataset": "d.jsonl"} | drawn
    left_open = schema.left_open(config, get_strategy(name))
    said = {key: value for key, value in config.items() if key not in left_open}
    fits = jsonschema.Draft202012Validator(document).is_valid(said)
    try:
        load_config(config)
        accepted = True
    except ConfigError as error:
        # Beyond the schema the code refuses only keys that contradict each other, and names.
        together = ("keep one", "cannot be trained", "is left for the prompt", "does not drive",
                    "has no effect", "trains nothing", "which sets it", "0 stays 0", "cut at their",
                    "unknown reward", "alone where nothing is padded",
                    "on this machine, with your rights")  # fmt: skip
        texts = [str(problem) for problem in error.problems]
        accepted = all(any(word in text for word in together) for text in texts)
    assert accepted == fits, config


def test_every_listed_strategy_has_a_schema_that_refuses_typos():
    for name in list_strategies():
        assert schema.load(get_strategy(name))["additionalProperties"] is False
