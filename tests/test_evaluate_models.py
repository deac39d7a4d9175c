"""Other models than one that answers: a classifier of texts, a reward model, a start."""

import json
import shutil
from dataclasses import replace

import pytest
from tiny import ROOT, few, held_out, quick
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from modelforge.errors import ConfigError, DataError, ModelError
from modelforge.evaluation.classifier import toxicity_by
from modelforge.evaluation.compare import compare
from modelforge.evaluation.evaluate import evaluate
from modelforge.evaluation.options import Options

MODEL = str(ROOT / "examples/tiny/model")


def with_head(folder, labels):
    """A folder of the tiny shape with a head for these labels."""
    config = AutoConfig.from_pretrained(MODEL, id2label=dict(enumerate(labels)))
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config.pad_token_id = tokenizer.pad_token_id
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_toxicity_is_the_classifiers_probability_of_each_answer(tmp_path):
    classifier = with_head(tmp_path / "classifier", ["toxic", "clean"])
    options = Options(
        str(few("prompts_eval", 5)), metrics=("toxicity",), classifier=str(classifier),
        max_new_tokens=6, output_dir=tmp_path / "out",
    )  # fmt: skip
    found = evaluate(MODEL, options)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    for row in found.rows:
        (text,) = row["resps"][0]
        logits = model(**tokenizer(text, return_tensors="pt")).logits
        assert row["toxicity"] == pytest.approx(float(logits.softmax(-1)[0, 0]), abs=1e-5)
    assert "loss" not in found.rows[0]
    config = json.loads((classifier / "config.json").read_text())
    (classifier / "config.json").write_text(json.dumps(config | {"id2label": {0: "x", 1: "y"}}))
    assert evaluate(MODEL, options).folder != found.folder  # other files are another classifier


def test_a_model_without_a_trained_head_is_no_classifier(tmp_path):
    with pytest.raises(ModelError, match="has no weights for score"):
        toxicity_by(MODEL)
    with pytest.raises(ModelError, match="no usable classifier there"):
        toxicity_by(str(tmp_path))


@pytest.mark.slow
def test_a_reward_model_scores_pairs_and_is_refused_what_it_cannot_score(tmp_path):
    scorer = with_head(tmp_path / "scorer", ["score"])
    pairs = Options(str(few("preference_eval", 6)), output_dir=tmp_path / "out")
    found = evaluate(str(scorer), pairs)
    assert list(found.metrics) == ["accuracy", "margin"]
    assert found.table["margin"].unit == "score"
    for row in found.rows:
        assert row["margin"] == row["score_chosen"] - row["score_rejected"]
    for data in ("sft_eval", "prompts_eval"):
        with pytest.raises(DataError, match="holds no pairs"):
            evaluate(str(scorer), replace(pairs, data=str(few(data, 3))))
    for answering in ({"classifier": str(scorer)}, {"samples": 2}):
        with pytest.raises(ConfigError, match="is a reward model, and answers nothing"):
            evaluate(str(scorer), replace(pairs, **answering))
    with pytest.raises(ConfigError, match="loss: is none of a reward model → it has accuracy and"):
        evaluate(str(scorer), replace(pairs, metrics=("loss",)))
    plain = evaluate(MODEL, replace(pairs, metrics=("accuracy", "margin")))
    assert [v.metric.name for v in compare(plain, [found])] == ["accuracy"]  # nats and scores


def test_a_start_that_does_nothing_or_has_another_vocabulary_is_refused(tmp_path):
    options = Options(str(few("prompts_eval", 3)), output_dir=tmp_path, start=MODEL)
    with pytest.raises(ConfigError, match="has no effect"):
        evaluate(MODEL, options)
    other = tmp_path / "other"
    shutil.copytree(MODEL, other)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.add_tokens(["<|more|>"])
    tokenizer.save_pretrained(other)
    with pytest.raises(ConfigError, match="another vocabulary"):
        evaluate(MODEL, replace(options, start=str(other), metrics=("kl",)))
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


REWARDS = """
def some(completions, **columns):
    return [0.5 if i % 3 else 1.0 for i in range(len(completions))]


async def later(completions, **columns):
    return [float(len(text) % 2) for text in map(str, completions)]
"""


@pytest.mark.slow
def test_pass_at_k_is_of_right_and_wrong_alone_and_a_reward_may_be_awaited(tmp_path):
    file = tmp_path / "rewards.py"
    file.write_text(REWARDS)
    options = Options(
        str(few("prompts_eval", 4)), samples=2, max_new_tokens=4, output_dir=tmp_path / "out"
    )
    some = evaluate(MODEL, replace(options, rewards=(f"{file}:some",)))
    assert "some" in some.metrics and not [n for n in some.metrics if n.startswith("pass@")]
    later = evaluate(MODEL, replace(options, rewards=(f"{file}:later",)))
    assert later.metrics["pass@1"] == later.metrics["later"]


@pytest.mark.slow
def test_a_run_in_4_bit_is_measured_as_it_was_trained_and_a_whole_stands_for_its_last(tmp_path):
    result = quick("qlora", tmp_path / "whole", "max_steps=2", "use_4bit=true", run_name="last")
    data = str(held_out("sft"))
    options = Options(data, metrics=("loss",), output_dir=tmp_path / "out")
    found = evaluate(str(result.run_dir), options)
    assert found.model == "last"
    assert found.metrics["loss"] == pytest.approx(result.after["eval_loss"], rel=1e-5)
    whole = tmp_path / "whole"
    (whole / "stages.json").write_text("{}")
    with pytest.raises(ModelError, match=r"the run in .*whole has not ended"):
        evaluate(str(whole), options)
    (whole / "results.json").write_text('{"model": "last/model"}')
    of_the_whole = evaluate(str(whole), options)
    assert of_the_whole.model == "whole" and of_the_whole.rows == found.rows
    with pytest.raises(ModelError, match=r"results.json is a file, and a model is a folder"):
        evaluate(str(whole / "results.json"), options)
    shutil.rmtree(result.model_dir)
    with pytest.raises(ModelError, match="has not ended, and holds no model yet"):
        evaluate(str(result.run_dir), options)
