"""Rows scored once and kept, models compared on them, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import ROOT, few, quick
from typer.testing import CliRunner

import modelforge
from modelforge.cli.main import app
from modelforge.errors import ConfigError, DataError, ModelError
from modelforge.evaluation.compare import compare, gate, lines
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.free import longer_and_first
from modelforge.evaluation.items import Answer, Item
from modelforge.evaluation.kept import Evaluation, Rows, read
from modelforge.evaluation.metrics import METRICS
from modelforge.evaluation.opened import Bench, named
from modelforge.evaluation.options import Options

MODEL = str(ROOT / "examples/tiny/model")
PAIRS = str(few("preference_eval", 24))
PROMPTS = str(few("prompts_eval", 12))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A short run of sft, whose adapter is measured."""
    return quick(
        "sft", tmp_path_factory.mktemp("runs"), f"model_name={MODEL}", "max_steps=6"
    ).run_dir


@pytest.fixture(scope="module")
def kept(tmp_path_factory, run):
    """Base and adapter on the same base, scored on pairs, with samples."""
    output = tmp_path_factory.mktemp("kept")
    options = Options(
        PAIRS, output_dir=output, samples=2, max_new_tokens=12, metrics=("accuracy", "margin", "kl",
        "ended", "bits_per_byte", "ppl"),
    )  # fmt: skip
    bench = Bench()
    base = evaluate(MODEL, replace(options, start=MODEL), name="base", bench=bench)
    return base, evaluate(str(run), options, name="sft", bench=bench), options


@pytest.mark.slow
def test_figures_are_those_of_plain_transformers(kept):
    base, _, _ = kept
    from modelforge.tiny.evaluate import load, log_likelihoods

    model, tokenizer = load(Path(MODEL))
    rows = [json.loads(line) for line in Path(PAIRS).read_text().splitlines()]
    prompts = [row["prompt"] for row in rows]
    sums = {}
    for side in ("chosen", "rejected"):
        answers = [row[side][0]["content"] for row in rows]
        sums[side], counts = log_likelihoods(model, tokenizer, prompts, answers)
        if side == "chosen":
            loss = float(-sums[side].sum() / counts.sum())
            size = sum(len(answer.encode()) for answer in answers)
    gaps = (sums["chosen"] - sums["rejected"]).tolist()
    assert [row["margin"] for row in base.rows] == pytest.approx(gaps, abs=1e-4)
    assert base.metrics["accuracy"] == sum(gap > 0 for gap in gaps) / len(gaps)
    bits = float(-sums["chosen"].sum()) / math.log(2) / size
    assert base.metrics["bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert base.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    longer = sum(len(r["chosen"][0]["content"]) > len(r["rejected"][0]["content"]) for r in rows)
    assert base.baselines["always longer"] == pytest.approx(longer / len(rows), abs=0.2)


@pytest.mark.slow
def test_an_adapter_on_a_shared_base_scores_as_one_loaded_alone(kept, run, tmp_path):
    base, tuned, options = kept
    alone = evaluate(str(run), replace(options, output_dir=tmp_path), name="sft")
    assert [row["margin"] for row in alone.rows] == [row["margin"] for row in tuned.rows]
    assert alone.rows == tuned.rows and tuned.rows != base.rows


@pytest.mark.slow
def test_pairs_have_baselines_that_cost_nothing(kept):
    base, tuned, _ = kept
    assert tuned.baselines["the base"] == base.metrics["accuracy"]
    assert "the base" not in base.baselines and base.baselines["a coin"] == 0.5


def test_the_first_answer_is_a_baseline_where_the_file_has_an_order():
    def pairs(*rows):
        return [Item(i, "", "", [], "", tuple(Answer([], [], 0, t) for t in sides), columns)
                for i, (sides, columns) in enumerate(rows)]  # fmt: skip

    first = (("long one", "b"), {"answer": "long one", "a": "long one ", "b": "b", "best": "a"})
    second = (("b", "long one"), {"answer": "b", "a": "long one", "b": "b", "best": "b"})
    told = longer_and_first(pairs(first, first, second, first))
    assert told == {
        "always longer": 0.75, "always shorter": 0.25, "always first": 0.75, "a coin": 0.5
    }  # fmt: skip
    assert "always first" not in longer_and_first(pairs(first, first))  # the column is the label
    assert "always first" not in longer_and_first(pairs(first, second, (("c", "d"), {})))
    assert longer_and_first([]) == {}


@pytest.mark.slow
def test_the_divergence_is_exact_and_that_from_itself_nothing(kept, run):
    base, tuned, _ = kept
    assert base.metrics["kl"] == pytest.approx(0, abs=1e-7) and tuned.metrics["kl"] > 1e-4
    assert tuned.metrics["kl_k3"] == pytest.approx(tuned.metrics["kl"], rel=0.8)
    assert 0 < tuned.metrics["entropy"] < math.log(512)
    row = tuned.rows[0]
    from modelforge.evaluation.opened import load_tokenizer

    model = named(str(run))
    tokenizer = load_tokenizer(model)
    from modelforge.evaluation.items import read_items

    prompt = read_items(tokenizer, max_length=512, dataset=PAIRS)[0].prompt_ids
    total = places = 0.0
    for text in row["resps"][0]:
        answer = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(text) and len(answer) < 12:
            answer = [*answer, tokenizer.eos_token_id]
        ids = torch.tensor([[*prompt, *answer]])
        logps = []
        bench = Bench()
        for each in (model, named(MODEL)):
            with bench.model(each) as opened:
                part = opened(input_ids=ids).logits[0, len(prompt) - 1 : -1]
                logps.append(part.double().log_softmax(-1))
        total += float((logps[0].exp() * (logps[0] - logps[1])).sum())
        places += len(answer)
    assert row["kl"] == pytest.approx(total / places, rel=0.05)


@pytest.mark.slow
def test_batches_change_no_answer_and_no_figure(kept, tmp_path):
    base, _, options = kept
    small = replace(options, output_dir=tmp_path, batch_size=5, start=MODEL)
    again = evaluate(MODEL, small, name="base")
    for one, other in zip(base.rows, again.rows, strict=True):
        assert one["resps"] == other["resps"]
        assert one["margin"] == pytest.approx(other["margin"], abs=1e-4)


@pytest.mark.slow
def test_rows_have_lm_evals_keys(kept):
    base, _, _ = kept
    row = base.rows[0]
    theirs = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter",
              "metrics", "doc_hash", "prompt_hash", "target_hash"}  # fmt: skip
    assert theirs <= row.keys() and set(row["metrics"]) <= row.keys() | {"perplexity"}
    results = json.loads((base.folder / "results.json").read_text())
    assert results["results"][base.task]["accuracy,none"] == base.metrics["accuracy"]
    assert results["n-samples"][base.task]["effective"] == 24
    assert results["higher_is_better"][base.task]["bits_per_byte"] is False


def test_unknown_measures_and_options_are_named_before_a_model_is_loaded(tmp_path):
    options = Options(PAIRS, output_dir=tmp_path)
    with pytest.raises(ConfigError, match="did you mean 'accuracy'"):
        evaluate(MODEL, replace(options, metrics=("acuracy",)))
    with pytest.raises(ConfigError, match="needs a reward model"):
        evaluate(MODEL, replace(options, metrics=("reward_score",)))
    with pytest.raises(ConfigError, match="needs pairs"):
        evaluate(MODEL, replace(options, data=PROMPTS, metrics=("margin",)))
    with pytest.raises(ConfigError, match="--samples"):
        evaluate(MODEL, replace(options, samples=0))
    with pytest.raises(ConfigError, match="all samples of a prompt would be the same"):
        evaluate(MODEL, replace(options, samples=2, temperature=0))
    with pytest.raises(ConfigError, match="name it with --start"):
        evaluate(MODEL, replace(options, metrics=("kl",)))
    with pytest.raises(ConfigError, match="numeric_answer"):
        evaluate(MODEL, replace(options, rewards=("numeric_anser",)))
    with pytest.raises(ModelError, match="no folder"):
        evaluate(str(tmp_path / "nothing"), options)
    with pytest.raises(DataError):
        evaluate(MODEL, replace(options, data=str(tmp_path / "no.jsonl")))
    with pytest.raises(DataError, match="has no column 'topik'"):
        evaluate(MODEL, replace(options, by="topik"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_rewards_pass_at_k_and_slices(tmp_path):
    rows = [json.loads(line) for line in Path(PROMPTS).read_text().splitlines()]
    data = tmp_path / "rows.jsonl"
    rows = [row | {"topic": "ab"[i % 2]} for i, row in enumerate(rows)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [
        *("evaluate", MODEL, "--data", str(data), "--reward", "numeric_answer", "--samples", "3"),
        *("--max-new-tokens", "16", "--by", "topic", "-o", str(tmp_path / "out"), "--json"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    figures = found["metrics"]
    assert figures["pass@1"] == pytest.approx(figures["numeric_answer"])
    assert figures["pass@1"] < figures["pass@3"]
    assert "loss" not in figures  # the answers are for the reward
    parts = found["slices"]
    assert sum(part["rows"] for part in parts.values()) == len(rows) and list(parts) == [
        "topic=a",
        "topic=b",
    ]


@pytest.mark.slow
def test_a_reward_whose_name_is_a_measures_is_called_otherwise(tmp_path):
    """The margin of a pair is in nats, and a user's function may be called so too."""
    file = tmp_path / "mine.py"
    file.write_text("def margin(completions, **columns):\n    return [7.0] * len(completions)\n")
    options = Options(
        str(few("preference_eval", 4)), rewards=(f"{file}:margin",), max_new_tokens=2,
        metrics=("margin", "margin_reward"), output_dir=tmp_path / "out",
    )  # fmt: skip
    found = evaluate(MODEL, options)
    assert found.metrics["margin_reward"] == 7.0 != found.metrics["margin"]
    assert [found.table[name].unit for name in found.metrics] == ["nats", "score"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", [1, 4])
def test_a_cut_evaluation_goes_on_to_the_same_rows(kept, tmp_path, monkeypatch, moment):
    """Cut within a line, as a kill may leave it."""
    _, _, options = kept
    asked = ("accuracy", "ended")
    options = replace(options, output_dir=tmp_path, metrics=asked, batch_size=5)
    append, calls = Rows.append, []

    def cut_short(self, rows):
        append(self, rows)
        calls.append(1)
        if len(calls) == moment:
            text = self.partial.read_text()
            self.partial.write_text(text[: len(text) - 40])  # within a line
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Rows, "append", cut_short)
        with pytest.raises(KeyboardInterrupt):
            evaluate(MODEL, options, name="base")
    (folder,) = tmp_path.iterdir()
    assert len(Rows(folder, "preference_eval").read()) == 5 * moment - 1
    again = evaluate(MODEL, options, name="base")
    whole = evaluate(MODEL, replace(options, output_dir=tmp_path / "whole"), name="base")
    assert list(again.rows) == list(whole.rows)
    assert read(again.folder).rows == again.rows
    assert not Rows(folder, "preference_eval").partial.exists()


def kept_rows(name, values, *, metric="accuracy"):
    """An evaluation of rows with one figure."""
    rows = [{"doc_id": i, "doc_hash": str(i), "doc": {"topic": "a" if i % 2 else "b"}, metric: v}
            for i, v in enumerate(values)]  # fmt: skip
    return Evaluation(name, "task", Path(name), {}, {}, rows, {metric: METRICS[metric]}, {})


def test_the_verdict_says_better_worse_and_not_distinguishable():
    base = kept_rows("base", [0.0, 1.0] * 60)
    better = kept_rows("better", [1.0] * 120)
    worse = kept_rows("worse", [0.0] * 120)
    alike = kept_rows("alike", [1.0, 0.0] * 60)
    found = compare(base, [better, worse, alike])
    assert [v.word for v in found] == ["better", "worse", "not distinguishable"]
    assert [v.change.by for v in found] == [0.5, -0.5, 0.0]
    told = lines(found, "base")
    assert told[0].startswith("better against base: better: pairs whose better answer is likelier")
    assert "0.5 → 1 [+0.4" in told[0]
    sliced = compare(base, [better], by="topic")
    assert [v.part for v in sliced] == ["", "topic=a", "topic=b"]
    assert [v.word for v in sliced] == ["better", "not distinguishable", "better"]
    with pytest.raises(ConfigError, match="did you mean 'topic'"):
        compare(base, [better], by="topc")
    with pytest.raises(DataError, match="other rows"):
        compare(base, [kept_rows("few", [1.0])])


def test_loss_is_worse_where_it_rises_and_is_not_compared_over_two_tokenizers():
    def losses(name, values, tokens):
        found = kept_rows(name, values, metric="loss")
        for row in found.rows:
            row["tokens"] = tokens
        return found

    base = losses("base", [1.0 + i % 3 for i in range(40)], 4)
    up = losses("up", [1.5 + i % 3 for i in range(40)], 4)
    assert compare(base, [up])[0].word == "worse"
    assert compare(base, [losses("other", [1.0] * 40, 5)]) == []


@pytest.mark.parametrize(
    ("second", "code"),
    [
        ([1.0, 0.0] * 300, 0),  # the same
        ([0.0] * 600, 1),  # much worse
        ([1.0, 0.0] * 14 + [0.0, 0.0], 3),  # one row of 30
        ([1.0, 1.0] * 300, 0),  # better
    ],
)
def test_the_gate_has_three_exits(second, code):
    first = kept_rows("base", ([1.0, 0.0] * 300)[: len(second)])
    passed = gate(compare(first, [kept_rows("new", second)]), 0.02)
    assert passed.code == code
    assert (passed.needed > len(second)) == (code == 3)


@pytest.mark.slow
def test_compare_reads_what_is_kept_and_the_gate_sets_the_exit_code(kept, run, monkeypatch):
    _, _, options = kept
    arguments = [
        *("compare", f"base={MODEL}", f"sft={run}", "--data", PAIRS),
        *("--metrics", "accuracy,margin,ended", "--max-new-tokens", "8"),
        *("-o", str(options.output_dir), "--json"),
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["baseline"] == "base" and len(found["verdicts"]) == 3
    monkeypatch.setattr(Bench, "model", None)  # nothing is loaded again
    gated = CliRunner().invoke(app, [*arguments, "--gate", "--needs", "0.05"])
    assert (
        gated.exit_code in (0, 1, 3) and gated.exit_code == json.loads(gated.stdout)["gate"]["code"]
    )
    assert json.loads(gated.stdout)["needs"][0]["rows"] > 24
    seeds = ["compare", "--reference-model", MODEL, "--dpo-model", str(run), *arguments[3:]]
    other = CliRunner().invoke(app, [*seeds, "--num-samples", "5"])
    assert other.exit_code == 1  # a model is needed for other rows, and there is none


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["compare", "a=x"], "two models or more"),
        (["compare", "a=x", "a=y", "--data", "d"], "two models are called 'a'"),
        (["compare", f"a={MODEL}", f"b={MODEL}", "--data", PAIRS, "--margin", "0.1"], "--gate"),
        (["evaluate", MODEL], "--data"),
        (["evaluate", "nothing/at/all", "--data", PAIRS], "no folder"),
        (["evaluate", MODEL, "--data", PAIRS, "--column", "prompt"], "OURS=THEIRS"),
    ],
)
def test_bad_input_is_one_message(arguments, told, tmp_path):
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path), "--json"])
    assert done.exit_code == 2 and told in done.stdout, done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_is_a_function_too(tmp_path):
    found = modelforge.evaluate(
        MODEL, PROMPTS, metrics=["avg_length"], rewards=["numeric_answer"], output_dir=tmp_path,
        max_new_tokens=4, limit=4,
    )  # fmt: skip
    assert list(found.metrics) == ["length"] and found.metrics["length"] <= 4
    assert len(found.rows) == 4
    with pytest.raises(ConfigError, match="did you mean 'limit'"):
        modelforge.evaluate(MODEL, PROMPTS, limt=3)
