"""The recipe: what is learned is the same on every card, and each default says where it is from."""

import importlib.util
import json
from pathlib import Path

import pytest
from tiny import few

import modelforge
from modelforge import UserError, load_config
from modelforge.models.rates import sft_rate
from modelforge.plan.planner import card
from modelforge.registry import get_strategy
from modelforge.strategies.dpo import DPO
from modelforge.strategies.sft import SFT
from modelforge.training.fit import fit
from modelforge.training.read import read
from modelforge.training.recipe import Size, rank, rate
from modelforge.training.resolve import resolve

pytestmark = pytest.mark.usefixtures("simulated_once")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "kto": "labelled", "grpo": "prompts", "rloo": "prompts", "ppo": "prompts"}  # fmt: skip
# How a run computes; everything else is what it learns.
MEMORY = {
    *("hardware_profile", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("per_device_eval_batch_size", "gradient_checkpointing", "optim", "use_4bit"),
    *("steps_per_generation", "attn_implementation", "bf16", "fp16", "provider", "padding_free"),
}


def values_of(strategy, **said):
    data = few(f"{DATA[strategy]}_eval", 80)
    rewards = {"rewards": ["numeric_answer"]} if strategy == "ppo" else {}
    base = {"strategy": strategy, "model_name": str(TINY / "model"), "dataset": str(data)}
    return base | rewards | said


def learned(strategy, vram, **said):
    """What a card of this size would learn, and the rows of a step."""
    resolved = resolve(load_config(values_of(strategy, **said)), planned_for=card(vram))
    config = fit(resolved, read(resolved)).config
    rows = config.micro_batch * config.get("gradient_accumulation_steps")
    return {k: c.value for k, c in config.choices.items() if k not in MEMORY} | {"rows": rows}


@pytest.mark.parametrize("strategy", DATA)
def test_what_is_learned_is_the_same_on_every_card(strategy):
    small, large = learned(strategy, 8.0), learned(strategy, 24.0)
    assert small == large
    assert small["lora_alpha"] == 32 and small["lora_r"] == 16
    if strategy in ("grpo", "rloo"):
        assert small["prompts_per_step"] == 16 and small["num_generations"] == 8
        assert small["rows"] == 128


@pytest.mark.slow
def test_two_budgets_train_to_the_same_losses(tmp_path):
    losses = []
    for budget in (8, 24):
        values = values_of("sft", memory_budget_gb=budget, max_steps=2, logging_steps=1)
        values |= {"output_dir": str(tmp_path), "run_name": str(budget), "report_to": "none"}
        run = modelforge.train(values | {"save_strategy": "no"}).run_dir
        rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == losses[1] and len(losses[0]) == 2


def test_a_preset_is_one_word_and_the_file_comes_over_it():
    high = resolve(load_config(values_of("sft", preset="high"))).config
    assert (high.settings.lora_r, high.settings.lora_alpha) == (64, 128)
    assert (high.micro_batch, high.get("gradient_accumulation_steps")) == (2, 4)
    assert high.choices["lora_r"].source == "preset"
    said = resolve(load_config(values_of("sft", preset="mid", lora_r=8))).config
    assert (said.settings.lora_r, said.settings.lora_alpha) == (8, 32)


def test_the_rank_follows_the_tokens_that_are_learned():
    size = Size("llama", 135_000_000, 300_000)
    ranks = [rank(SFT(), size, tokens)["lora_r"] for tokens in (1e5, 5e6, 8e6, 1e9)]
    assert [choice.value for choice in ranks] == [16, 32, 32, 64]
    assert "8,000,000 tokens are trained on" in ranks[2].reason


@pytest.mark.parametrize(
    ("family", "weights", "rate", "says"),
    [
        ("llama", 1.2e9, 5e-4, "seen on Llama-3.2-1B"),
        ("llama", 8e9, 1.5e-4, "seen on Llama-3.1-8B"),
        ("qwen3", 8.2e9, 5e-4, "seen on Qwen3-4B"),
        ("qwen3", 32.8e9, 1.5e-4, "seen on Qwen3-32B"),
        ("gpt_oss", 21e9, 5e-5, "seen on gpt-oss-20b"),
        ("mistral", 7e9, 1.5e-4, "taken over for mistral"),
        ("llama", 260_000, 8e-3, "benchmarks/defaults.py"),
    ],
)
def test_the_rate_follows_family_and_size(family, weights, rate, says):
    found, why = sft_rate(family, weights)
    assert found == pytest.approx(rate) and says in why


@pytest.mark.parametrize(
    ("strategy", "small", "large"),
    [("reward", 1e-3, 1e-4), ("dpo", 3e-4, 5e-6), ("kto", 3e-4, 5e-6),
     ("grpo", 2e-3, 1e-5), ("rloo", 2e-3, 1e-5), ("ppo", 3e-4, 1e-5)],
)  # fmt: skip
def test_a_rate_falls_from_the_measured_end_to_the_published_one(strategy, small, large):
    sizes = (1e5, 2.6e5, 1.35e8, 4e8, 3e9, 8e9)
    found = [get_strategy(strategy)().learning_rate("llama", weights) for weights in sizes]
    rates = [value for value, _ in found]
    assert rates[:2] == [small] * 2 and rates[4:] == [large] * 2
    assert small > rates[2] > rates[3] > large
    assert "benchmarks/defaults.py" in found[0][1] and "interpolated" in found[2][1]
    assert "on L" in found[4][1] or "on Q" in found[4][1]  # the models of the recipes


def test_a_model_of_unknown_size_takes_the_rate_of_a_large_one():
    """transformers cannot make a model whose code is its own, so its weights count as 0."""
    assert sft_rate("own", 0)[0] == sft_rate("own", 8e9)[0]
    assert get_strategy("dpo")().learning_rate("own", 0)[0] == 5e-6


def test_a_rate_among_a_strategys_defaults_holds_for_every_model():
    class Mine(DPO):
        defaults = {**DPO.defaults, "learning_rate": (3e-5, "the paper's")}

    config = load_config(values_of("dpo"))
    assert rate(config, Mine(), Size("llama", 260_000))["learning_rate"].value == 3e-5
    assert rate(config, DPO(), Size("llama", 260_000))["learning_rate"].value == 3e-4


def test_all_weights_take_a_tenth_of_the_rate():
    adapter, whole = (resolve(load_config(values_of("dpo", lora_r=r))).config for r in (8, 0))
    rates = [config.get("learning_rate") for config in (adapter, whole)]
    assert rates[1] == pytest.approx(rates[0] / 10)
    assert "a tenth" in whole.choices["learning_rate"].reason


@pytest.mark.parametrize(
    "said",
    [
        {"prompts_per_step": 6, "per_device_train_batch_size": 32},
        {
            "prompts_per_step": 8,
            "per_device_train_batch_size": 8,
            "gradient_accumulation_steps": 2,
        },
        {"prompts_per_step": 3, "distributed": {"num_processes": 16}},  # 24 answers
    ],
)
def test_numbers_that_contradict_the_prompts_of_a_step_are_refused(said):
    with pytest.raises(UserError, match=r"prompts_per_step: says \d × 8 answers a step"):
        load_config(values_of("grpo", **said))


MICRO, ACCUMULATION = "per_device_train_batch_size", "gradient_accumulation_steps"


@pytest.mark.parametrize(
    ("strategy", "said", "rows"),
    [
        ("grpo", {"distributed": {"num_processes": 3}}, (1, 48)),  # 144 answers: 18 whole groups
        ("grpo", {ACCUMULATION: 3}, (48, 3)),
        ("grpo", {ACCUMULATION: 3, "prompts_per_step": 6}, (16, 3)),
        ("grpo", {"preset": "mid", "prompts_per_step": 8}, (8, 8)),
        ("dpo", {ACCUMULATION: 16, "loss_type": ["aot"]}, (2, 16)),  # its loss sorts rows
        ("dpo", {"distributed": {"num_processes": 16}, "loss_type": ["aot"]}, (2, 1)),
        ("dpo", {"preset": "mid", "loss_type": ["aot"]}, (2, 4)),
        ("kto", {"preset": "mid"}, (2, 4)),
        ("kto", {ACCUMULATION: 16}, (2, 16)),
        ("sft", {ACCUMULATION: 32}, (1, 32)),
    ],
)
def test_the_rows_of_a_step_are_whole_groups_that_the_loss_is_right_for(strategy, said, rows):
    config = resolve(load_config(values_of(strategy, **said))).config
    assert (config.micro_batch, config.get(ACCUMULATION)) == rows


def test_few_prompts_are_warned_of_and_said_ones_are_filled_up(capsys):
    few = values_of("grpo", per_device_train_batch_size=16, num_generations=8)
    resolved = resolve(load_config(few))
    assert fit(resolved, read(resolved)).config.get("prompts_per_step") == 2
    assert "a step learns from 2 prompts" in capsys.readouterr().err
    said = values_of("grpo", per_device_train_batch_size=16, prompts_per_step=8)
    assert resolve(load_config(said)).config.get("gradient_accumulation_steps") == 4


def test_the_page_of_defaults_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("defaults", ROOT / "benchmarks" / "defaults.py")
    defaults = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(defaults)
    assert (ROOT / "docs" / "defaults.md").read_text() == defaults.page()
