"""Packing: nothing is lost by default, and what TRL drops by the user's wish is counted."""

import json
from pathlib import Path

import pytest

import modelforge
from modelforge.training.prepare import prepare

TINY = Path(__file__).parents[1] / "examples" / "tiny"
BLOCK = 64
LONG, SHORT = " ".join(f"w{i}" for i in range(60)), "w0 w1 w2"


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A prepared run on rows of which every fourth is longer than the block."""
    folder = tmp_path_factory.mktemp("packing")
    rows = [{"prompt": f"q {i}", "completion": SHORT if i % 4 else LONG} for i in range(16)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ready(**keys):
        values = {
            "strategy": "sft", "model_name": str(TINY / "model"), "max_seq_length": BLOCK,
            "dataset": str(folder / "train.jsonl"), "eval_split": 4, "report_to": "none",
            "output_dir": str(folder / "runs"), "per_device_train_batch_size": 4,
        }  # fmt: skip
        return prepare(modelforge.load_config({**values, **keys}))

    return ready


def packed(ready):
    """The sets as TRL's trainer packs them: token ids of train and eval, and the ledger."""
    from trl import pack_dataset

    class Parts:
        config, data, args = ready.config, ready.data, ready.args

    sets = ready.strategy.datasets(Parts)
    args = ready.args
    packs = (args.packing, args.packing if args.eval_packing is None else args.eval_packing)
    found = []
    for rows, packs_them in zip(sets, packs, strict=True):
        if packs_them:
            rows = pack_dataset(rows, args.max_length, args.packing_strategy)
        found.append(rows["input_ids"][:])
    return found


def count(blocks):
    return sum(map(len, blocks))


def test_packing_loses_no_token_by_default_and_says_why(ready):
    run = ready(packing=True)
    choice = run.config.choices["packing_strategy"]
    assert choice.value == "bfd_split" and "bfd throws away" in choice.reason
    train, evaluation = packed(run)
    ledger = run.data.ledger
    assert (
        count(train) == ledger.tokens["total"] == sum(len(r.ids[0]) for r in run.data.train_tokens)
    )
    assert max(map(len, train + evaluation)) <= BLOCK
    assert ledger.split.count == 4
    assert any(
        f"split by packing: {ledger.split.count} rows" in line for line in ledger.fact_lines()
    )


def test_what_bfd_throws_away_is_counted(ready):
    run = ready(packing=True, packing_strategy="bfd")
    train, evaluation = packed(run)
    ledger = run.data.ledger
    whole = [len(r.ids[0]) for r in (*run.data.train_tokens, *run.data.eval_tokens)]
    assert ledger.truncated.count == 4 and ledger.split.count == 0
    assert count(train) == ledger.tokens["total"]
    assert count(train) + count(evaluation) + ledger.truncated_tokens == sum(whole)
    assert any(f"loses {ledger.truncated_tokens} tokens" in line for line in ledger.fact_lines())
    assert any("cut at max_seq_length" in warning for warning in ledger.warnings)


def test_held_out_rows_are_not_packed_and_what_is_cut_of_them_is_counted(ready, tmp_path):
    rows = [{"prompt": f"held {i}", "completion": SHORT if i else LONG} for i in range(4)]
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ready(packing=True, eval_split=0, eval_dataset=str(held))
    ledger = run.data.ledger
    _, evaluation = packed(run)
    whole = [len(row.ids[0]) for row in run.data.eval_tokens]
    assert len(evaluation) == len(whole) == 4
    lost = sum(length - BLOCK for length in whole if length > BLOCK)
    assert lost > 0 and ledger.truncated_tokens == lost
    assert count(evaluation) == sum(whole) - lost
    with pytest.raises(modelforge.ConfigError, match="eval_packing: has no effect"):
        ready(eval_packing=True)


@pytest.mark.parametrize("strategy", ["sft", "dpo"])
def test_cutting_at_the_front_is_refused(ready, strategy):
    with pytest.raises(modelforge.ConfigError, match="truncation_mode"):
        ready(strategy=strategy, truncation_mode="keep_end")
