"""kto: answers labelled good or bad, one by one."""

import json

import pytest
from datasets import Dataset
from tiny import ROOT, held_out, resumed_bitwise
from transformers import AutoTokenizer

import modelforge
from modelforge.data import read_rows
from modelforge.plan import plan
from modelforge.strategies.kto import KTO, with_others
from modelforge.training.recovery import _smaller

TINY = ROOT / "examples" / "tiny"
CONFIG = ROOT / "configs" / "tiny" / "kto.json"
LOSSES = ("kto", "apo_zero_unpaired")
ASKED, GOOD, POOR = "How many legs has a cat?", "It has four legs.", "Two legs."


def labels(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_rows(
        dataset=str(path), kind="labelled", tokenizer=AutoTokenizer.from_pretrained(TINY / "model")
    )
    train = found.within(128).train
    return [(row["completion"][-1]["content"], row["label"]) for row in train]


def two(name, good, poor, *, asked="prompt", answered="completion"):
    return [
        {asked: ASKED, answered: GOOD, name: good},
        {asked: ASKED, answered: POOR, name: poor},
    ]


@pytest.mark.parametrize(
    "rows",
    [
        two("label", True, False),
        two("kto_tag", "true", "false", asked="instruction", answered="output"),
        two("thumbs", "👍", "👎"),
        two("feedback", "thumbs up", "Thumbs-Down", answered="response"),
        two("rating", 1, -1),
        two("score", "1", "0", asked="question", answered="answer"),
        [{"prompt": ASKED, "chosen": GOOD, "rejected": POOR}],
        [{"prompt": ASKED, "response_a": POOR, "response_b": GOOD, "winner": "b"}],
        [
            {
                "instruction": ASKED,
                "completions": [
                    {"response": POOR, "overall_score": 2.0},
                    {"response": GOOD, "overall_score": 8.5},
                    {"response": "Some.", "overall_score": 5},
                ],
            }
        ],
        [
            {
                "messages": [
                    {"role": "user", "content": ASKED},
                    {"role": "assistant", "content": answer},
                ],
                "label": label,
            }
            for answer, label in ((GOOD, 1), (POOR, 0))
        ],
    ],
)
def test_labelled_answers_are_read_from_many_layouts(tmp_path, rows):
    assert labels(tmp_path, rows) == [(GOOD, True), (POOR, False)]


def test_each_answer_stands_beside_another_prompt_as_trl_pairs_them():
    rows = Dataset.from_dict({"completion_ids": [[n] for n in range(7)], "label": [True] * 7})
    # TRL's own rotation within each batch; the last, of one row, has no other answer there.
    assert with_others(rows, 3)["KL_completion_ids"][:] == [[2], [0], [1], [5], [3], [4], [5]]
    assert with_others(rows, 7)["KL_completion_ids"][:] == [[6], [0], [1], [2], [3], [4], [5]]


def test_a_micro_batch_of_one_row_is_refused_or_raised():
    said = ["per_device_train_batch_size=1"]
    with pytest.raises(modelforge.ConfigError, match="the KL term is estimated from the other"):
        modelforge.load_config(CONFIG, overrides=said)
    modelforge.load_config(CONFIG, overrides=[*said, "loss_type=apo_zero_unpaired"])
    assert [_smaller(n, 2) for n in (8, 4, 2, 3)] == [4, 2, 2, 3]


def test_both_labels_count_alike_and_one_alone_is_refused():
    config = modelforge.load_config(CONFIG)
    with pytest.raises(modelforge.ConfigError, match="all 2 training answers are labelled good"):
        KTO().check_data(config, Dataset.from_dict({"label": [True, True]}))
    chosen = KTO().check_data(config, Dataset.from_dict({"label": [True, False, False]}))
    assert {key: choice.value for key, choice in chosen.items()} == {"desirable_weight": 2.0}


def test_the_plan_counts_both_passes():
    configs = [modelforge.load_config(CONFIG, overrides=[f"loss_type={loss}"]) for loss in LOSSES]
    kto, apo = (plan(config, budget_gb=8) for config in configs)
    assert kto.parts["LoRA"] == apo.parts["LoRA"] > 0
    assert kto.flops_per_step > 1.2 * apo.flops_per_step


@pytest.mark.slow
def test_it_learns_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    rows = f"eval_dataset={held_out('labelled', 16)}"
    result = resumed_bitwise(
        "kto", tmp_path, monkeypatch, "max_steps=12", "save_steps=4", rows, stop=6
    )
    assert result.before["eval_rewards/accuracies"] == 0.5
    assert result.after["eval_rewards/accuracies"] > 0.55
    assert result.after["eval_loss"] < result.before["eval_loss"]
    choices = json.loads((result.run_dir / "choices.json").read_text())["choices"]
    # 67 good and 133 bad answers: the file has two bad ones for each good one
    assert choices["desirable_weight"]["value"] == round(133 / 67, 4)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (['loss_type=["robust"]'], "the share of pairs that are labelled the wrong way round"),
        (['loss_type=["robust"]', "label_smoothing=0.5"], "at least 0 and below 0.5"),
        (['loss_type=["exo_pair"]'], "exo_pair takes its logarithm"),
        (['loss_type=["ipo"]', "loss_weights=[1.0, 0.5]"], "2 numbers for 1 losses"),
        (['loss_type=["aot"]', "per_device_train_batch_size=1"], "one row has no order"),
    ],
)
def test_what_a_loss_of_dpo_cannot_take_is_refused(said, message):
    options = said if any("loss_weights" in each for each in said) else [*said, "loss_weights=[1]"]
    with pytest.raises(modelforge.ConfigError) as caught:
        modelforge.load_config(CONFIG.with_name("dpo.json"), overrides=options)
    assert message in str(caught.value)
