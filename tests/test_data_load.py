"""`load_data` as a whole: ledger, checks, split, mixture; and real data in its own layouts."""

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelforge.common.sources import DatasetSource
from modelforge.data import load_data, load_tokenizer_template, write_normal_form
from modelforge.data.divide import eval_count
from modelforge.data.ledger import quantiles
from modelforge.errors import DataError
from modelforge.evaluation.samples import prompt_and_reference

SHARED = Path(os.environ.get("MODELFORGE_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="module")
def tokenizer():
    """Characters as tokens, <s> before plain text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bare = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bare.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture
def load(tmp_path, tokenizer):
    """Write rows to files and load them."""

    def load(rows, kind="demonstration", *, template="plain", name="rows.jsonl", **options):
        choice = load_tokenizer_template(
            tokenizer, chat_template=template, task="text-generation", base_dir=tmp_path
        )
        if rows is not None:
            put(tmp_path / name, rows)
        given = {"max_length": 200, "seed": 0, "eval_split": 0, "dataset": name, **options}
        return load_data(
            kind=kind, tokenizer=tokenizer, base_dir=tmp_path, chat_template=choice, **given
        )

    load.folder = tmp_path
    return load


def put(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def sources(*paths):
    return [DatasetSource(path=path) for path in paths]


def demo(i, answer="yes"):
    return {"prompt": f"question {i}", "completion": answer}


# --- the ledger --------------------------------------------------------------------------------


def test_every_row_is_accounted_for(load):
    rows = [
        demo(0),
        demo(0),
        {"prompt": "p" * 300, "completion": "a"},
        {"prompt": "", "completion": "a"},
        {"prompt": "long", "completion": "a" * 300},
    ]
    data = load(rows)
    ledger = data.ledger
    assert ledger.kept == len(data.train) == 3
    assert {r: (t.count, t.first) for r, t in ledger.dropped.items()} == {
        "prompt fills max_seq_length": (1, ["rows.jsonl:3"]),
        "empty cell: prompt": (1, ["rows.jsonl:4"]),
    }
    assert ledger.duplicates.first == ["rows.jsonl:2"]
    assert (ledger.truncated.first, ledger.truncated_share) == (["rows.jsonl:5"], 1 / 3)
    # <s>User: question 0\nAssistant: yes</s>: 1 + 16 + 11 + 4 + 1 tokens, 5 of them supervised.
    assert ledger.tokens == {"total": 266, "mean": 266 / 3, "p50": 33, "p95": 200, "max": 200}
    cut_supervised = 200 - len("User: long\nAssistant:") - 1
    assert ledger.supervised_share == (5 + 5 + cut_supervised) / 266
    assert ledger.eos_supervised_share == 1.0
    assert ledger.eval_reason == "eval_split is 0"
    assert [w.split()[0] for w in ledger.warnings] == ["2", "33%"]
    (source,) = ledger.sources
    assert (source["format"], source["rows"], source["kept"]) == ("prompt/completion", 5, 3)
    assert ledger.chat_template == {"name": "plain", "reason": "chosen in the config"}
    assert json.loads(json.dumps(ledger.to_dict()))["dropped"]["empty cell: prompt"]["count"] == 1
    text = "\n".join(ledger.summary_lines())
    for part in (
        "rows.jsonl: 5 rows, read as prompt/completion",
        "95 % have at most 200",
        "cut at max_seq_length: 1 (33.3%)",
        "kept 3, dropped 2",
        "1 × empty cell: prompt (rows.jsonl:4)",
        "warning: 2 of 5",
    ):
        assert part in text


def test_pairs_are_cut_for_dpo_and_dropped_for_reward(load):
    rows = [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a" * 300, "rejected": "b"},
        {"prompt": "q" * 300, "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
    ]
    dpo = load(rows, "preference")
    assert dpo.train.column_names == ["prompt", "chosen", "rejected"]
    assert {r: t.count for r, t in dpo.ledger.dropped.items()} == {
        "prompt fills max_seq_length": 1,
        "chosen equals rejected": 1,
    }
    assert dpo.ledger.truncated.first == ["rows.jsonl:2"]
    reward = load(rows, "preference", long_rows="drop")
    assert reward.ledger.dropped["longer than max_seq_length"].count == 2
    assert len(reward.train) == 1 and not reward.ledger.truncated.count


def test_margins_are_kept_only_where_all_rows_have_one(load):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert load([{**pair, "margin": 1}] * 2, "preference").train["margin"][:] == [1.0, 1.0]
    mixed = load([{**pair, "margin": 1}, pair], "preference")
    assert "margin" not in mixed.train.column_names
    assert any("1 of 2 pairs have a margin" in note for note in mixed.ledger.notes)


def test_a_margin_is_said_and_a_score_is_none(load):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    said = load([{**pair, "margin": 2}, {**pair, "margin": 8}], "preference").ledger.notes
    assert any("2 to 8, 5 on average" in note for note in said)
    rated = load([{**pair, "score_chosen": 9, "score_rejected": 4}] * 2, "preference")
    assert "margin" not in rated.train.column_names
    assert any("score_chosen and score_rejected are no margin" in n for n in rated.ledger.notes)
    several = {"prompt": "q", "responses": ["a", "b"], "ratings": [1, 9]}
    assert "margin" not in load([several] * 2, "preference").train.column_names


def test_several_right_answers_stay_several(load):
    mixed = [{"prompt": "p", "answer": "4"}, {"prompt": "q", "answer": ["4", "four"]}]
    data = load(mixed, "prompt")
    assert data.train["answer"][:] == [["4"], ["4", "four"]]
    assert any("lists of text" in note for note in data.ledger.notes)
    several = load([{"prompt": "p", "answer": [4, "four"]}] * 2, "prompt")
    assert several.train["answer"][0] == ["4", "four"]
    named = load([{"question": "p", "answers": ["4", "four"]}] * 2, "prompt")
    assert named.train["answer"][0] == ["4", "four"]


@pytest.mark.parametrize(
    ("answer", "shown"),
    [(["4", "four"], "4 or four"), (0, "0"), (False, "False"), (None, ""), ([], ""),
     ({"x": 1}, '{"x": 1}'), ([{"role": "assistant", "content": "hi"}], "hi")],
)  # fmt: skip
def test_a_reference_of_any_kind_is_shown(answer, shown):
    assert prompt_and_reference({"prompt": "p", "answer": answer}) == ("p", shown)


def test_too_few_rows_are_refused_with_counts_and_advice(load):
    rows = [demo(0), {"prompt": "q" * 300, "completion": "a"}, {"prompt": "q", "completion": ""}]
    with pytest.raises(DataError) as caught:
        load(rows, min_rows=2)
    head, *reasons = map(str, caught.value.problems)
    assert "1 of 3 rows can be used, at least 2 needed" in head
    assert "rows.jsonl:2: 1 row: prompt fills max_seq_length → raise `max_seq_length`" in reasons
    with pytest.raises(DataError, match="needs a chat template"):
        load([{"messages": [{"role": "user", "content": "a"}]}], template="none")
    with pytest.raises(DataError, match="no partner"):
        load([{"prompt": "a", "completion": "b", "label": True}], "preference")


def test_a_template_that_never_ends_a_reply_is_refused(load, tokenizer):
    endless = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (load.folder / "endless.jinja").write_text(endless)
    with pytest.raises(DataError, match=r"endless\.jinja.*never learn to stop.*eos_token"):
        load([demo(0)], template="endless.jinja")
    data = load([{"input_ids": [20, 30], "labels": [-100, 30]}], template="endless.jinja")
    assert any("of this model's tokenizer" in warning for warning in data.ledger.warnings)
    stop = {"prompt": "q", "completion": "done!"}
    data = load([stop], template="endless.jinja", eos_token_ids=tokenizer("!").input_ids[1:])
    assert data.ledger.eos_supervised_share == 1.0


def test_rows_a_template_refuses_are_dropped_and_double_bos_is_seen(load):
    strict = (
        "{{ bos_token }}{{ bos_token }}"
        "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}"
        "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    )
    (load.folder / "strict.jinja").write_text(strict)
    talk = [{"role": r, "content": r} for r in ("user", "assistant", "user", "assistant")]
    data = load([{"messages": talk}, {"messages": talk[:2]}], template="strict.jinja")
    assert data.ledger.dropped["template fails: too long"].first == ["rows.jsonl:1"]
    assert data.ledger.double_bos == 1
    assert any("two BOS" in warning for warning in data.ledger.warnings)


def test_all_broken_files_are_told_at_once(load):
    put(load.folder / "a.jsonl", [{"foo": 1}])
    (load.folder / "b.jsonl").write_text("{")
    with pytest.raises(DataError) as caught:
        load(None, dataset=sources("b.jsonl", "c.jsonl", "b.jsonl"))
    assert len(caught.value.problems) == 3
    with pytest.raises(DataError) as caught:
        load(None, dataset=sources("a.jsonl"), eval_dataset="a.jsonl")
    assert len(caught.value.problems) == 2


# --- normal form -------------------------------------------------------------------------------


def test_prompt_rows_keep_their_columns(load):
    rows = [
        {"question": "1+1", "answer": 2, "Level": "easy", "messages": "x", "odd": 1},
        {"question": "1+2", "answer": 3, "Level": None, "messages": "y", "odd": {"a": "b"}},
    ]
    data = load(rows, "prompt")
    assert data.train[1] == {
        "prompt": [{"role": "user", "content": "1+2"}],
        "question": "1+2",
        "answer": 3,
        "Level": None,
        "odd": '{"a": "b"}',
    }
    assert data.ledger.supervised_share is None
    assert any("odd" in note for note in data.ledger.notes)
    named = load([{"q": "1", "sol": "2"}], "prompt", columns={"prompt": "q", "solution": "sol"})
    assert named.train[0]["solution"] == "2"


def test_several_formats_end_in_one_schema(load):
    put(load.folder / "a.jsonl", [demo(1)])
    put(
        load.folder / "b.jsonl",
        [{"messages": [{"role": "user", "content": "hi"}, {"role": "gpt", "content": "yo"}]}],
    )
    data = load(None, dataset=sources("a.jsonl", "b.jsonl"))
    assert data.train.column_names == ["messages"]
    assert [len(m) for m in data.train["messages"]] == [2, 2]
    put(load.folder / "c.jsonl", [{"text": "words"}])
    with pytest.raises(DataError, match="plain text cannot be mixed"):
        load(None, dataset=sources("a.jsonl", "c.jsonl"))


def test_normal_form_written_and_read_again_is_the_same(load):
    cases = {
        "demonstration": [demo(i) for i in range(3)],
        "preference": [{"prompt": "é", "chosen": "a", "rejected": "b", "margin": 2}],
        "prompt": [{"prompt": "q", "answer": "a", "n": 1}],
    }
    for kind, rows in cases.items():
        first = load(rows, kind)
        assert write_normal_form(first.train, load.folder / "again.jsonl") == len(rows)
        again = load(None, kind, dataset="again.jsonl")
        assert again.train.to_list() == first.train.to_list()
    with pytest.raises(DataError, match="cannot be written"):
        write_normal_form([], load.folder / "no" / "folder.jsonl")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
cells = st.fixed_dictionaries(
    {"prompt": json_values | st.text(min_size=1)},
    optional={name: json_values for name in ("completion", "chosen", "rejected", "x", "margin")},
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(cells, min_size=1, max_size=4),
    kind=st.sampled_from(["demonstration", "preference", "prompt"]),
    template=st.sampled_from(["plain", "none"]),
)
def test_any_rows_load_or_are_refused(load, rows, kind, template):
    try:
        data = load(rows, kind, template=template, max_length=40)
    except DataError as error:
        assert error.problems
    else:
        assert len(data.train) == data.ledger.kept > 0
        assert data.ledger.rows_read >= len(rows)


# --- split and mixture -------------------------------------------------------------------------


@given(rows=st.integers(1, 10_000), share=st.floats(0.001, 0.999))
def test_eval_counts(rows, share):
    automatic, _ = eval_count(rows, None)
    assert automatic == 0 if rows < 40 else 8 <= automatic <= min(256, rows // 4)
    assert 1 <= eval_count(rows, share)[0] <= max(1, rows)
    assert eval_count(rows, 7)[0] == 7 and eval_count(rows, 0)[0] == 0


def test_the_split_is_the_seeds(load):
    rows = [demo(i) for i in range(100)]
    splits = [load(rows, eval_split=0.1, seed=seed) for seed in (0, 0, 1)]
    asked = [[row[0]["content"] for row in data.eval["prompt"]] for data in splits]
    assert asked[0] == asked[1] != asked[2]
    assert len(asked[0]) == 10 and len(splits[0].train) == 90
    trained = {row[0]["content"] for row in splits[0].train["prompt"]}
    assert not trained & set(asked[0])
    assert load(rows, eval_split=None).ledger.eval_rows == 8
    with pytest.raises(DataError, match="would leave 0 of 100"):
        load(rows, eval_split=100)
    with pytest.raises(DataError, match="eval_split"):
        load(rows, eval_split=-1)


def test_weights_are_shares_and_every_row_is_drawn(load):
    put(load.folder / "a.jsonl", [demo(f"a{i}") for i in range(60)])
    put(load.folder / "b.jsonl", [demo(f"b{i}") for i in range(60)])
    spec = [DatasetSource(path="a.jsonl", weight=3), DatasetSource(path="b.jsonl", weight=1)]
    data = load(None, dataset=spec, eval_split=20)
    asked = [row[0]["content"].split()[1] for row in data.train["prompt"]]
    counts = Counter(name[0] for name in asked)
    assert 0.65 < counts["a"] / len(asked) < 0.85
    held_out = {row[0]["content"].split()[1] for row in data.eval["prompt"]}
    assert len(set(asked)) == 100 and not held_out & set(asked)
    assert data.ledger.train_rows == len(asked) and data.ledger.kept == 120
    again = load(None, dataset=spec, eval_split=20)
    assert again.train.to_list() == data.train.to_list()
    joined = load(None, dataset=sources("a.jsonl", "b.jsonl"))
    assert len(joined.train) == 120


@given(lengths=st.lists(st.integers(1, 1000), min_size=1))
def test_quantiles_are_rows_of_the_data(lengths):
    found = quantiles(np.array(lengths))
    assert found["total"] == sum(lengths) and found["max"] == max(lengths)
    assert {found["p50"], found["p95"]} <= set(lengths)
    assert min(lengths) <= found["p50"] <= found["p95"] <= found["max"]


# --- real data ---------------------------------------------------------------------------------

# File → the kinds it serves, each with the rows that survive at 512 tokens of stories260K.
REAL = {
    "advbench": {"demonstration": 100, "prompt": 100},
    "anthropic_agreeableness": {"demonstration": 300, "preference": 300, "prompt": 300},
    "gpteacher_codegen": {"demonstration": 1000, "prompt": 1000},
    "gpteacher_roleplay": {"demonstration": 1000, "prompt": 1000},
    "gsm8k_test": {"demonstration": 200, "prompt": 200},
    "gsm8k_train": {"demonstration": 999, "prompt": 999},
    "hh_harmless_base_test": {"demonstration": 336, "preference": 336, "prompt": 336},
    "hh_harmless_base_train": {"demonstration": 1011, "preference": 1010, "prompt": 1012},
    "hh_helpful_base_test": {"demonstration": 316, "preference": 315, "prompt": 317},
    "hh_helpful_base_train": {"demonstration": 943, "preference": 937, "prompt": 945},
    "lf_dpo_en": {"demonstration": 103, "preference": 103, "prompt": 103},
    "lf_kto_en": {"demonstration": 61, "prompt": 111},
    # lf_toolcall_en and lf_reason_tool_use call functions, for which the tiny model's template has
    # no place: they are refused, and serve no kind.
    "mt_bench": {"prompt": 73},
    "self_instruct_user": {"demonstration": 142, "prompt": 142},
    "svamp": {"demonstration": 500, "prompt": 500},
    "truthfulqa": {"demonstration": 200, "preference": 200, "prompt": 200},
    "xstest": {"prompt": 200},
}


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason="no folder of real data")
@pytest.mark.parametrize("kind", ["demonstration", "preference", "prompt"])
def test_real_files_serve_every_kind_they_can(kind):
    from transformers import AutoTokenizer

    stories = AutoTokenizer.from_pretrained(SHARED / "models" / "stories260K")
    load_tokenizer_template(stories, chat_template="auto", task="text-generation", base_dir=Path())
    found = {}
    for path in sorted((SHARED / "data").glob("*.jsonl")):
        try:
            data = load_data(dataset=path, kind=kind, tokenizer=stories, max_length=512, seed=0)
        except DataError:
            continue
        ledger = data.ledger
        found[path.stem] = ledger.kept
        read = sum(source["rows"] for source in ledger.sources)
        print(f"{path.stem}: {ledger.sources[0]['format']}, kept {ledger.kept} of {read}")
        assert ledger.rows_read == read
        assert ledger.eos_supervised_share in (None, 1.0)
    assert found == {name: kinds[kind] for name, kinds in REAL.items() if kind in kinds}
