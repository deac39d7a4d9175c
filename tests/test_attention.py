"""What is chosen for speed, on machines pretended and real; and that it is exact."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from machines import CPU, card
from transformers import LlamaConfig

import modelforge
from modelforge import RunError, load_config
from modelforge.config import Choice
from modelforge.machine.attention import attention_defaults, machine_problems, warnings
from modelforge.models.providers.huggingface import HuggingFace
from modelforge.models.source import find_model
from modelforge.plan import fit
from modelforge.registry import get_strategy
from modelforge.training.defaults import Facts, fill

pytestmark = pytest.mark.usefixtures("simulated_once")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
FLASH = frozenset({"flash_attention_2"})


def config_of(strategy="sft", **said):
    values = {"strategy": strategy, "model_name": str(TINY / "model"), "dataset": "d"}
    return load_config(values | said)


def chosen(hardware, kernels=FLASH, strategy="sft", **said):
    padding_free = get_strategy(strategy).padding_free
    choices = attention_defaults(
        config_of(strategy, **said), hardware, kernels=kernels, padding_free=padding_free
    )
    assert all(choice.reason for choice in choices.values())
    return {key: choice.value for key, choice in choices.items()}


@pytest.mark.parametrize(
    ("hardware", "kernels", "said", "expected"),
    [
        (CPU, FLASH, {}, "sdpa"),
        (card(24.0), frozenset(), {}, "sdpa"),
        (card(16.0, bf16=False), FLASH, {}, "sdpa"),  # a T4: 7.5
        (card(24.0), FLASH, {}, "flash_attention_2"),
        (card(24.0), FLASH, {"bf16": False}, "sdpa"),
        (card(24.0), FLASH, {"lora_r": 0}, "sdpa"),
    ],
)
def test_flash_attention_only_where_it_is_there_and_runs(hardware, kernels, said, expected):
    assert chosen(hardware, kernels, **said)["attn_implementation"] == expected


def test_an_offloaded_cache_is_refused_without_a_card_to_offload():
    said = {"rewards": ["numeric_answer"], "cache_implementation": "offloaded"}
    (problem,) = machine_problems(config_of("grpo", **said), CPU)
    assert "cache_implementation" in problem.where and "CUDA" in problem.what
    assert not list(machine_problems(config_of("grpo", **said), card(24.0)))


def test_batches_go_without_padding_only_where_the_kernel_skips_it():
    batch = {"per_device_train_batch_size": 4}
    assert chosen(card(24.0), **batch)["padding_free"] is True
    assert chosen(card(24.0))["padding_free"] is True  # transformers trains on 8 rows then
    assert "padding_free" not in chosen(card(24.0), per_device_train_batch_size=1)
    assert "padding_free" not in chosen(card(24.0), strategy="dpo", **batch)
    assert "padding_free" not in chosen(card(24.0), packing=True, **batch)
    assert "padding_free" not in chosen(CPU, **batch)
    assert chosen(card(24.0), provider="unsloth") == {}


def test_what_the_user_said_stays_and_order_and_packing_are_left_alone():
    config = fill(config_of(attn_implementation="eager"), Facts(get_strategy("sft")(), CPU))
    assert config.settings.attn_implementation == "eager"
    for key in ("packing", "padding_free", "train_sampling_strategy", "tf32", "torch_compile"):
        assert config.get(key) is None


@pytest.mark.parametrize(
    ("hardware", "count"), [(CPU, 2), (card(16.0, bf16=False), 2), (card(24.0), 1)]
)
def test_a_kernel_asked_for_that_cannot_run_is_refused(hardware, count):
    config = config_of(attn_implementation="flash_attention_2")
    assert len(list(machine_problems(config, hardware))) == count  # its package is not here
    assert not list(machine_problems(config_of(attn_implementation="eager"), hardware))
    hopper = replace(hardware, compute_capability=(9, 0))
    assert len(list(machine_problems(config, hopper))) <= count


def test_the_refusal_comes_before_a_model_is_loaded(tmp_path):
    rows = str(TINY / "data" / "sft_train.jsonl")
    said = {"dataset": rows, "output_dir": str(tmp_path)}
    with pytest.raises(RunError, match="flash_attention_2 needs"):
        modelforge.train(config_of(attn_implementation="flash_attention_2", **said))
    assert not list(tmp_path.iterdir())


def test_a_model_without_the_kernel_keeps_sdpa_unless_it_was_asked_for(monkeypatch):
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    source = find_model(str(TINY / "model"), base_dir=ROOT, revision=None, where="m")
    config = config_of()
    found = config.with_choices({"attn_implementation": Choice("flash_attention_2", "machine")})
    attention = HuggingFace()._attention
    assert attention(source, config, AutoModelForCausalLM) is None
    assert attention(source, found, AutoModelForCausalLM) == "flash_attention_2"
    monkeypatch.setattr(LlamaForCausalLM, "_supports_flash_attn", False)
    assert attention(source, found, AutoModelForCausalLM) == "sdpa"


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_packed_documents_do_not_see_each_other(kernel):
    from transformers import AutoModelForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    model = AutoModelForCausalLM.from_pretrained(TINY / "model", attn_implementation=kernel).eval()
    rows = [torch.arange(5, 42).tolist(), torch.arange(90, 143).tolist()]
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collate([{"input_ids": row, "labels": row} for row in rows])
    assert batch["input_ids"].shape == (1, 90)
    with torch.no_grad():
        alone = torch.cat([model(input_ids=torch.tensor([row])).logits[0] for row in rows])
        batch.pop("labels")
        packed = model(**batch, use_cache=False).logits[0]
        seen = model(input_ids=batch["input_ids"], use_cache=False).logits[0]
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=0)
    assert (seen - alone).abs().max() > 1  # as they would be if they saw each other


def losses(tmp_path, **said):
    result = modelforge.train(
        config_of(
            dataset=str(TINY / "data" / "sft_train.jsonl"),
            max_seq_length=64,
            per_device_train_batch_size=4,
            max_steps=3,
            logging_steps=1,
            eval_split=8,
            save_strategy="no",
            report_to="none",
            output_dir=str(tmp_path),
            **said,
        )
    )
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [row["loss"] for row in found if "loss" in row] + [result.after["eval_loss"]]


def test_without_padding_the_losses_are_the_same(tmp_path):
    plain = losses(tmp_path / "plain")
    assert len(plain) == 4
    assert losses(tmp_path / "free", padding_free=True) == pytest.approx(plain, abs=1e-4)


def test_what_is_not_exact_or_slow_is_said():
    def said(**values):
        return " ".join(warnings(config_of(**values)))

    assert "see each other" in said(packing=True, packing_strategy="wrapped")
    assert "exact" in said(packing=True, per_device_train_batch_size=4)
    assert not said(packing=True, per_device_train_batch_size=1)
    assert not said(per_device_train_batch_size=4)


@pytest.fixture
def benchmark(monkeypatch):
    """Loads a script of benchmarks/ as a module."""

    def load(name):
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.mark.slow
def test_the_benchmark_gives_both_the_same_tokens_and_prints_a_row_each(benchmark, python):
    script = benchmark("throughput")
    model = str(TINY / "model")
    job = {"strategy": "sft", "cuda": False, "model": model, "steps": 2, "batch": 4}
    job |= {"length": 128, "rank": 4, "short": False}
    found = {name: [script.run(name, python, job)] for name in ("modelforge", "trl")}
    ours, theirs = (found[name][0] for name in ("modelforge", "trl"))
    assert ours["tokens"] == theirs["tokens"] > 0 and ours["supervised"] == theirs["supervised"]
    rows = script.table("sft", found, 2)
    assert "| 1.00 |" in rows[0] and "not installed" in rows[3]
    assert len({row.count("|") for row in [*script.HEAD.splitlines(), *rows]}) == 1


def fitted(model, budget, strategy="sft", **said):
    hardware = card(24.0)
    config = config_of(strategy, model_name=model, max_seq_length=1024, **said)
    config = fill(config, Facts(get_strategy(strategy)(), hardware))
    return fit(config, budget_gb=budget, hardware=hardware)[0]


def test_nothing_is_computed_twice_where_all_fits_without(tmp_path):
    LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        vocab_size=32000,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
    ).save_pretrained(tmp_path)
    model = str(tmp_path)
    roomy = fitted(model, 24.0)
    assert roomy.get("gradient_checkpointing") is False
    assert roomy.choices["gradient_checkpointing"].source == "plan"
    micro, accumulation = (
        roomy.get(key) for key in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    assert micro * accumulation == 16 and micro * 1024 >= 2048
    assert fitted(model, 1.4).get("gradient_checkpointing") is True
    assert fitted(model, 24.0, gradient_checkpointing=True).get("gradient_checkpointing") is True
    assert fitted(model, 24.0, "qlora").get("gradient_checkpointing") is True  # the lean preset


@pytest.mark.slow
def test_the_8b_benchmark_runs_at_a_tiny_size(benchmark, python, capsys, monkeypatch):
    script = benchmark("gpu_8b")
    said = ["--tiny", "--cards", "12", "--steps", "1", "--strategies", "reward", "ppo"]
    monkeypatch.setattr(sys, "argv", ["gpu_8b.py", *said])
    monkeypatch.setattr(sys, "executable", python)
    assert script.main() == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| 12 |")]
    assert [row.split(" | ")[1] for row in rows] == ["reward", "ppo"]
    assert all(float(row.split(" | ")[3]) > 0 and float(row.split(" | ")[4]) > 0 for row in rows)
