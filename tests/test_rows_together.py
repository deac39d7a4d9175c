"""Rows that share a sequence, on plain PyTorch: exact by architecture, or refused."""

import copy
import json
from pathlib import Path

import pytest
import torch
from machines import CPU
from tiny import few, resumed_bitwise
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import modelforge
from modelforge.config import Choice
from modelforge.machine.attention import BY_ROW, together_problems
from modelforge.models import documents
from modelforge.models.documents import register, rows_apart
from modelforge.registry import get_strategy
from modelforge.training.defaults import Facts, fill
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

TINY = Path(__file__).parents[1] / "examples" / "tiny"
SHAPE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 64,
    "sliding_window": 5, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}


def shape(name, **more):
    """A small config of a family, with the fields of `SHAPE` that it has."""
    plain = CONFIG_MAPPING[name]()
    known = {key: value for key, value in SHAPE.items() if hasattr(plain, key)}
    return CONFIG_MAPPING[name](**known, **more)


@pytest.mark.parametrize(
    ("name", "by", "more"),
    [
        ("llama", "row", {}),
        ("qwen2", "row", {"use_sliding_window": True, "max_window_layers": 0}),
        ("qwen3_moe", "row", {}),
        ("gemma3_text", "row", MIXED),
        ("mistral", "row", {}),
        ("phi3", "row", {}),
        ("gpt2", "row", {}),
        ("opt", "row", {}),  # makes its mask without position ids
        ("gemma2", "mask", MIXED),
    ],
)
def test_a_row_gets_in_a_sequence_of_several_what_it_gets_alone(name, by, more):
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    config = shape(name, **more)
    assert rows_apart(config).by == by
    register()
    torch.manual_seed(0)
    kernel = BY_ROW if by == "row" else None
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=kernel)
    plain = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    plain.load_state_dict(model.state_dict())
    rows = [torch.randint(3, 60, (length,)).tolist() for length in (9, 1, 17, 4)]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row} for row in rows])
    batch.pop("labels")
    with torch.no_grad():
        alone = [plain.eval()(input_ids=torch.tensor([row])).logits[0] for row in rows]
        together = model.eval()(**batch, use_cache=False).logits[0]
        padded = model(input_ids=torch.tensor([rows[0]] * 2), use_cache=False).logits[1]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    torch.testing.assert_close(padded, alone[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("mamba", {}, "state"),
        ("qwen3_5_text", {}, "linear_attention"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "conv layers"),
        ("bloom", {}, "position ids"),
        ("gpt_oss", {}, "without position ids"),
    ],
)
def test_what_is_not_exact_is_left_off_and_refused_with_the_reason(name, more, why):
    apart = rows_apart(shape(name, **more))
    assert apart.by is None and why in apart.why
    known = (apart.by, apart.why)
    filled = fill(config_of(), Facts(get_strategy("sft")(), CPU, apart=known))
    assert filled.get("padding_free") is None
    assert filled.get("train_sampling_strategy") == "group_by_length"
    (problem,) = together_problems(config_of(packing=True), *known)
    assert "packing" in problem.where and why in problem.what and "group_by_length" in problem.fix
    assert len(list(together_problems(config_of(attn_implementation=BY_ROW), *known))) == 1


def config_of(folder="runs", **said):
    values = {
        "strategy": "sft", "model_name": str(TINY / "model"), "dataset": str(few("sft_train", 48)),
        "eval_split": 4, "report_to": "none", "output_dir": str(folder), "max_steps": 3,
        "logging_steps": 1, "save_strategy": "no", "max_seq_length": 64,
    }  # fmt: skip
    return modelforge.load_config(values | said)


def test_dropout_and_a_user_who_says_no_leave_batches_padded():
    facts = Facts(get_strategy("sft")(), CPU, apart=("row", "each alone"))
    chosen = fill(config_of(), facts)
    assert chosen.get("padding_free") is True
    assert chosen.settings.attn_implementation == BY_ROW
    assert "same" in chosen.choices["padding_free"].reason
    for said in ({"padding_free": False}, {"lora_dropout": 0.1}, {"attn_implementation": "sdpa"},
                 {"per_device_train_batch_size": 1}, {"torch_compile": True}):  # fmt: skip
        assert not fill(config_of(**said), facts).get("padding_free"), said


def test_a_packed_step_sees_as_many_rows_as_another_loses_none_and_has_their_loss(tmp_path):
    prepared = prepare(config_of(tmp_path, packing=True, max_seq_length=256))
    prepared.run.path.mkdir(parents=True, exist_ok=True)
    trainer = build_trainer(prepared, load(prepared))
    args, blocks = prepared.args, trainer.train_dataset
    assert sum(len(block["seq_lengths"]) for block in blocks) == len(prepared.data.train)
    batches = args.per_device_train_batch_size * args.gradient_accumulation_steps
    rows = batches * len(prepared.data.train) / len(blocks)
    assert 11 <= rows <= 22
    assert "rows a step" in prepared.config.choices["gradient_accumulation_steps"].reason
    assert prepared.config.settings.attn_implementation == BY_ROW
    block = blocks[0]
    lengths = block["seq_lengths"]
    assert len(lengths) > 1
    ids, labels = (torch.tensor(block[key]).split(lengths) for key in ("input_ids", "labels"))
    counts = [int((row[1:] != -100).sum()) for row in labels]
    model = trainer.model.eval()
    with torch.no_grad():
        alone = [
            float(model(input_ids=row[None], labels=label[None], use_cache=False).loss)
            for row, label in zip(ids, labels, strict=True)
        ]
        together = float(trainer.compute_loss(model, trainer.data_collator([block])))
    mean = sum(loss * count for loss, count in zip(alone, counts, strict=True)) / sum(counts)
    assert together == pytest.approx(mean, abs=1e-5)


def test_an_open_block_holds_several_rows_and_a_said_one_stays(tmp_path):
    said = {"max_seq_length": None, "packing": True}
    config = prepare(config_of(tmp_path, **said)).config
    assert config.settings.max_seq_length == 512  # the model's context, below 16 rows of 45 tokens
    assert config.micro_batch * config.get("gradient_accumulation_steps") == 1


def logged(result):
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_run_without_padding_learns_as_a_padded_one_and_says_what_it_holds(tmp_path, caplog):
    free = modelforge.train(config_of(tmp_path / "free"))
    told = caplog.text
    caplog.clear()
    assert "a step learns from 16 rows" in told and "in one pass" in told
    assert "get the logits that they get alone" in told
    padded = modelforge.train(config_of(tmp_path / "padded", padding_free=False))
    assert "in 2 passes" in caplog.text
    assert logged(free) == pytest.approx(logged(padded), abs=1e-4)
    assert free.after["eval_loss"] == pytest.approx(padded.after["eval_loss"], abs=1e-4)


def test_a_model_that_mixes_rows_all_the_same_ends_before_its_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "_lengths", lambda begins, _: [int(begins[-1])])  # as one row
    with pytest.raises(modelforge.ModelError, match="mixes rows that share a sequence"):
        modelforge.train(config_of(tmp_path))


def test_packed_rows_resume_bit_for_bit(tmp_path, monkeypatch):
    said = ("packing=true", "max_steps=3", "save_steps=1", f"eval_dataset={few('sft_eval', 2)}")
    resumed_bitwise("sft", tmp_path, monkeypatch, *said, stop=2)


def test_a_plan_of_rows_together_takes_no_mask():
    strategy = get_strategy("sft")()
    facts = Facts(strategy, CPU, apart=("row", "each alone"))
    config = fill(config_of(packing=True), facts)
    args = strategy.build_args(config, output_dir=Path("runs"), device={"use_cpu": True})
    batch = strategy.longest_batch(config, args)
    assert not batch.padded and not args.packing and "seq_lengths" not in batch.rows[0]
    masked = config.with_choices({"attn_implementation": Choice("sdpa", "config")})
    args = strategy.build_args(masked, output_dir=Path("runs"), device={"use_cpu": True})
    assert strategy.longest_batch(masked, args).padded
