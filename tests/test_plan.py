"""What a plan says, and what a fitted config keeps."""

import dataclasses
import importlib.util
import json
import os
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from modelforge import registry
from modelforge.config import Choice
from modelforge.configfile.load import load_config
from modelforge.errors import ModelError, RunError
from modelforge.plan import Calibration, fit, plan
from modelforge.plan.allocator import GIB
from modelforge.plan.architectures import (
    _preset,
    find_architecture,
    layer_period,
    list_architectures,
    with_layers,
)
from modelforge.plan.fitting import _levers
from modelforge.plan.memory import PARTS, probe, simulate
from modelforge.plan.model import meta_model
from modelforge.plan.planner import card, find
from modelforge.plan.shards import shard, sharding_stage
from modelforge.training.defaults import Facts, fill

pytestmark = pytest.mark.usefixtures("simulated_once")

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
RL = {"generation": {"max_new_tokens": 128}, "num_generations": 2}


def config_of(strategy, *, vram=None, model=LLAMA, **said):
    """A config as a run has it before its data is read."""
    config = load_config({"strategy": strategy, "model_name": str(model), "dataset": "d", **said})
    return fill(config, Facts(registry.get_strategy(strategy)(), card(vram or 12.0)))


def of_1024(strategy, **said):
    """The same with rows of up to 1024 tokens, which nobody asked for."""
    return config_of(strategy, **said).with_choices({"max_seq_length": Choice(1024, "default")})


@pytest.fixture
def wide(tmp_path):
    """A model of few layers as wide as an 8B's: cheap to simulate, dear to run."""
    return save(tmp_path, hidden_size=4096, intermediate_size=14336, vocab_size=64000)


def save(folder, *, layers=2, heads=32, kv=8, **shape):
    LlamaConfig(
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        tie_word_embeddings=False,
        **shape,
    ).save_pretrained(folder)
    return folder


def test_presets_have_the_published_number_of_parameters():
    """Counted on two short models: what layers add is the same for each period of them."""
    from transformers import AutoConfig

    settings_ = config_of("sft", use_4bit=False).settings

    def count(shape):
        model = meta_model(shape, settings_, head="causal-lm", dtype=torch.bfloat16)
        return sum(p.numel() for p in model.parameters())

    for preset in list_architectures():
        values = dict(preset["config"])
        shape = AutoConfig.for_model(values.pop("model_type"), **values)
        whole, period = shape.get_text_config().num_hidden_layers, layer_period(shape)
        if preset["published"] is None:  # the hub counts pictures and sound too
            nominal = float(re.search(r"e?([\d.]+)b$", preset["name"])[1])
            low, high = (2, 2.5) if "-e" in preset["name"] else (0.9, 1.1)
            assert low < count(shape) / 1e9 / nominal < high, preset["name"]
            continue
        few, more = (count(with_layers(shape, n * period)) for n in (1, 2))
        slope = (more - few) / period
        assert few + slope * (whole - period) == preset["published"], preset["name"]


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        (LLAMA, "llama-3.1-8b"),
        ("unsloth/Meta-Llama-3.1-8B-Instruct-bnb-4bit", "llama-3.1-8b"),
        ("Qwen/Qwen3-4B-Instruct-2507", "qwen3-4b"),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistral-7b"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b-v0.1"),
        ("microsoft/Phi-4-mini-instruct", "phi-4-mini"),
        ("google/gemma-2-2b-it", "gemma-2-2b"),
        ("meta-llama/Llama-2-7b-chat-hf", "llama-2-7b"),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "tinyllama-1.1b"),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "qwen3-30b-a3b"),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "deepseek-r1-distill-qwen-7b"),
        ("mistralai/Mistral-Nemo-Instruct-2407", "mistral-nemo"),
        ("unsloth/gpt-oss-20b-unsloth-bnb-4bit", "gpt-oss-20b"),
        ("openai-community/gpt2", "gpt2"),
    ],
)
def test_hub_ids_find_their_preset(name, preset, tmp_path):
    found = find_architecture(name, base_dir=tmp_path, revision=None, where="model_name")
    assert found.source == f"shipped preset {preset}"


@pytest.mark.parametrize(
    "name",
    ["microsoft/Phi-4-multimodal-instruct", "Qwen/Qwen3-8B-AWQ", "Qwen/Qwen3-Coder-480B-A35B",
     "google/gemma-3-1b-it-qat-q4_0-gguf", "meta-llama/Llama-3.2-11B-Vision", "gpt2-chinese"],
)  # fmt: skip
def test_another_model_of_a_like_name_has_no_preset(name):
    assert _preset(name) is None


def test_an_adapter_is_planned_on_its_base_from_its_config_alone(tmp_path):
    from peft import LoraConfig

    base = save(tmp_path / "base", hidden_size=256, intermediate_size=512, vocab_size=1000)
    adapter = tmp_path / "adapter"
    LoraConfig(
        r=24, target_modules=["q_proj"], base_model_name_or_path=str(base), task_type="CAUSAL_LM"
    ).save_pretrained(adapter)
    found = find_architecture(str(adapter), base_dir=tmp_path, revision=None, where="model_name")
    assert (found.adapter, found.architecture.hidden_size) == (adapter, 256)
    made = plan(config_of("dpo", model=adapter, use_4bit=True))
    # DPO goes on from it, and keeps a copy of how it began as the reference.
    assert made.parts["LoRA"] > 0
    assert made.parts["reference, reward, value"] > 0


def test_an_unknown_model_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(ModelError, match=r"did you mean 'qwen3-4b'"):
        find_architecture("Qwen/Qwen3-4", base_dir=tmp_path, revision=None, where="model_name")


@pytest.mark.parametrize(
    ("name", "period"), [("llama-3.1-8b", 1), ("gemma-2-2b", 2), ("gemma-3-1b", 6)]
)
def test_layers_repeat_with_their_kinds(name, period, tmp_path):
    found = find_architecture(name, base_dir=tmp_path, revision=None, where="model_name")
    assert layer_period(found.architecture) == period
    shorter = with_layers(found.architecture, 2 * period)
    assert shorter.num_hidden_layers == 2 * period < found.architecture.num_hidden_layers


@pytest.mark.parametrize("strategy", ["sft", "qlora", "dpo", "reward", "grpo", "ppo", "rlhf"])
@pytest.mark.parametrize(("vram", "length"), [(12.0, 1024), (16.0, 2048)])
def test_an_8b_stays_below_12_and_16_gb_at_useful_lengths(strategy, vram, length):
    config = config_of(strategy, vram=vram)
    few = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    few |= {"max_seq_length": length, "gradient_checkpointing": True}
    config = config.with_choices({key: Choice(value, "plan") for key, value in few.items()})
    peak = probe(config, find(config), card(vram))
    # With what the allocator and CUDA hold on top, and in a vendor's GB of 10⁹ bytes.
    assert 1.08 * peak + 0.5 * GIB < vram * 1e9


def test_a_plan_adds_up_and_is_json(wide):
    made = plan(config_of("sft", model=wide), budget_gb=12, num_processes=2)
    assert sum(made.parts.values()) == made.peak_allocated <= made.peak_reserved
    assert made.headroom == 12 * GIB - made.total
    assert made.tokens_per_step == 2 * 16 * 2048
    assert made.seconds_per_step is None
    assert set(made.parts) - {"communication"} <= set(PARTS)
    again = json.loads(json.dumps(made.to_dict()))
    assert again["fits"] is True
    text = "\n".join(made.lines())
    assert "quantised weights" in text
    assert "fits" in text


def test_calibration_moves_the_plan(wide):
    config = config_of("sft", model=wide)
    plain = plan(config)
    taught = plan(
        config,
        calibration=Calibration(
            context_gb=0.3, reserved=1.1, flops_per_second=1e14, source="3 runs"
        ),
    )
    assert taught.peak_reserved == pytest.approx(1.1 * plain.peak_reserved)
    assert taught.context == round(0.3 * GIB)
    assert taught.seconds_per_step == pytest.approx(plain.flops_per_step / 1e14)
    assert "CUDA context 0.3 GiB: 3 runs" in taught.notes


def test_flops_are_those_of_the_textbook(wide):
    """6 · parameters · tokens for full training, with attention on top."""
    made = plan(of_1024("sft", model=wide, lora_r=0, use_4bit=False, gradient_checkpointing=False))
    shape = find(config_of("sft", model=wide)).architecture
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    weights = shape.num_hidden_layers * layer + 64000 * 4096
    attention = shape.num_hidden_layers * 2 * 1024 * 4096 * 3.5 / 6
    head_again = 2 * 64000 * 4096  # TRL's fused head recomputes its logits
    expected = 16 * 1024 * (6 * (weights + attention) + head_again)
    assert made.flops_per_step == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("strategy", "vocabulary", "said"),
    [
        ("sft", 512, {}),
        ("sft", 128000, {"gradient_checkpointing": False}),
        ("sft", 32000, {"lora_r": 0, "use_4bit": False}),
        ("sft", 128000, {"use_8bit": True, "use_4bit": False, "max_seq_length": 256}),
        ("dpo", 32000, {}),
        ("reward", 32000, {"use_4bit": False}),
        ("grpo", 512, {**RL, "beta": 0.04, "max_seq_length": 512}),
        ("grpo", 128000, {**RL, "max_seq_length": 512}),
    ],
)
def test_two_short_models_tell_the_peak_of_a_deep_one(strategy, said, vocabulary, tmp_path):
    shape = {"hidden_size": 512, "intermediate_size": 2048, "heads": 8, "kv": 4}
    model = save(tmp_path, layers=7, vocab_size=vocabulary, **shape)
    config = config_of(strategy, model=model, **said)
    found, hardware = find(config), card(12)
    assert probe(config, found, hardware) == simulate(config, found, hardware).tracker.peak


def test_paged_states_do_not_count_and_checkpointing_shows(wide):
    def peak(**said):
        return plan(config_of("sft", model=wide, lora_r=64, **said)).peak_allocated

    assert peak(optim="paged_adamw_8bit") < peak(optim="adamw_8bit") < peak(optim="adamw_torch")
    assert peak(gradient_checkpointing=True) < peak(gradient_checkpointing=False)


def test_fit_takes_the_largest_micro_batch_and_keeps_the_effective_batch(wide):
    config = of_1024("sft", model=wide)
    small, tight = fit(config, budget_gb=3)
    large, roomy = fit(config, budget_gb=24)
    for fitted, made in ((small, tight), (large, roomy)):
        micro = fitted.get("per_device_train_batch_size")
        assert micro * fitted.get("gradient_accumulation_steps") == 16
        assert made.fits
    assert large.get("per_device_train_batch_size") == 16
    assert small.get("per_device_train_batch_size") < 16
    choice = large.choices["per_device_train_batch_size"]
    assert (choice.source, choice.reason) == ("plan", "the largest that fits")


def test_fit_never_touches_what_the_user_set(wide):
    said = {
        "per_device_train_batch_size": 4,
        "max_seq_length": 1536,
        "lora_r": 64,
        "gradient_checkpointing": False,
        "optim": "adamw_torch",
    }
    with pytest.raises(RunError) as refused:
        fit(config_of("sft", model=wide, **said), budget_gb=3)
    fitted, _ = fit(config_of("sft", model=wide, **said), budget_gb=24)
    assert {key: fitted.get(key) for key in said} == said
    (problem,) = refused.value.problems
    assert (
        "so that the plan can set them: per_device_train_batch_size, max_seq_length" in problem.fix
    )


def test_the_smallest_budget_that_a_refusal_names_does(wide):
    config = of_1024("sft", model=wide, per_device_train_batch_size=1)
    with pytest.raises(RunError, match="does not fit in 1 GiB") as refused:
        fit(config, budget_gb=1)
    named = float(refused.value.problems[0].what.rpartition("need ")[2].split()[0])
    fitted, made = fit(config, budget_gb=named + 0.1)
    assert made.fits
    assert fitted.settings.max_seq_length < 512
    assert fitted.settings.lora_r == 16
    with pytest.raises(RunError):
        fit(config, budget_gb=named - 0.1)


def test_fit_turns_the_levers_in_order(wide):
    open_ = of_1024("sft", model=wide).with_choices(
        {"gradient_checkpointing": Choice(False, "profile"), "lora_r": Choice(64, "strategy")}
    )
    fitted = [fit(open_, budget_gb=budget)[0] for budget in (4.0, 2.3, 2.26, 2.1)]
    levers = [
        (
            config.get("gradient_checkpointing"),
            config.get("optim") == "paged_adamw_8bit",
            config.settings.max_seq_length < 1024,
        )
        for config in fitted
    ]
    assert levers == [tuple(i < turned for i in range(3)) for turned in range(4)]
    assert {config.settings.lora_r for config in fitted} == {64}  # what is learned stays


def test_the_longest_row_sets_the_length_that_is_wanted(wide):
    fitted, _ = fit(config_of("sft", model=wide), budget_gb=16, longest_row=300)
    assert fitted.settings.max_seq_length == 320
    assert fitted.choices["max_seq_length"].reason == "the longest row"


def test_a_rollout_shrinks_with_its_length_unless_set(wide):
    said = {"num_generations": 2, "per_device_train_batch_size": 8}
    said |= {"gradient_accumulation_steps": 1}

    def rollout(budget, **more):
        """Length and answers on this card, where prompts are up to 576 tokens, answers 512."""
        config = config_of("grpo", model=wide, **said, **more)
        generation = config.get("generation").model_copy(update={"max_new_tokens": 512})
        found = {"max_seq_length": Choice(1088, "data")}
        found |= {} if more else {"generation": Choice(generation.model_dump(), "default")}
        fitted, _ = fit(config.with_choices(found), budget_gb=budget)
        return fitted.settings.max_seq_length, fitted.get("generation").max_new_tokens

    assert rollout(4.0) == (832, 832 - 576)  # the prompts stay whole
    assert rollout(3.5) == (512, 512 // 4)  # a quarter is left to the answers
    assert rollout(3.5, generation={"max_new_tokens": 500}) == (500 + 64, 500)


def test_planning_leaves_no_trace(wide, monkeypatch):
    from accelerate.state import PartialState

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = dict(PartialState._shared_state), torch.get_rng_state(), random.getstate()
    patched = torch.is_autocast_enabled, torch.nn.functional.scaled_dot_product_attention
    plan(config_of("sft", model=wide, lora_r=12))  # which no other test has simulated
    assert dict(PartialState._shared_state) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert random.getstate() == before[2]
    assert (torch.is_autocast_enabled, torch.nn.functional.scaled_dot_product_attention) == patched
    assert os.environ["WORLD_SIZE"] == "2"
    assert not torch.distributed.is_initialized()


def test_shards_divide_what_their_stage_divides(tmp_path):
    parts = {"other weights": 800, "gradients": 80, "optimiser": 160, "activations": 50}
    assert shard(parts, processes=1, stage=0) == parts
    assert shard(parts, processes=4, stage=0) == {**parts, "communication": 80}
    three = shard(parts, processes=4, stage=3)
    assert (three["other weights"], three["optimiser"]) == (200, 40)
    assert three["activations"] == 50
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    config = dataclasses.replace(config_of("sft", deepspeed="zero.json"), base_dir=tmp_path)
    assert sharding_stage(config) == 2


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parents[1] / "benchmarks" / "memory_fit.py"
    spec = importlib.util.spec_from_file_location("memory_fit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", range(5))
def test_an_emulated_card_never_runs_out_on_what_fit_accepted(benchmark, seed):
    """Raises where it does; `benchmarks/memory_fit.py` does the same for 200 configs."""
    benchmark.try_card(random.Random(seed))


def test_an_8b_of_two_rows_is_planned_at_seven_to_nine_gib():
    """`benchmarks/plan_seconds.py` says how long this takes."""
    said = {"use_4bit": True, "gradient_checkpointing": True, "max_seq_length": 2048}
    made = plan(config_of("qlora", per_device_train_batch_size=2, **said), budget_gb=12)
    assert made.fits and made.headroom == 12 * GIB - made.total
    assert 7 * GIB < made.total < 9 * GIB


@pytest.mark.parametrize("strategy", ["dpo", "grpo"])
def test_a_plan_of_all_weights_reads_none(strategy):
    """DPO's log-probabilities are computed once; GRPO's reference is loaded by the model's name."""
    said = {"precompute_ref_log_probs": True} if strategy == "dpo" else {"beta": 0.1, **RL}
    tiny = Path(__file__).parents[1] / "examples" / "tiny" / "model"
    said |= {"lora_r": 0, "max_seq_length": 256, "per_device_train_batch_size": 2}
    planned = plan(config_of(strategy, model=tiny, **said))
    assert planned.parts["trained weights"] > 0
    beside = planned.parts.get("reference, reward, value", 0)
    assert (beside == 0) == (strategy == "dpo")


def test_a_rollout_that_does_not_fit_is_made_smaller_unless_the_user_said_its_size():
    values = {"strategy": "ppo", "model_name": "m", "dataset": "d", "rewards": ["format"]}
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    choices = {key: Choice(value, "strategy") for key, value in batch.items()}

    def sizes(**section):
        config = load_config(values | ({"ppo": section} if section else {}))
        config = config.with_choices(choices)
        section = config.settings.ppo.model_copy(update={"rollout_size": 128}).model_dump()
        config = config.with_choices({"ppo": Choice(section, "default")})
        return [made.settings.ppo.rollout_size for made, _ in _levers(config, card(24))]

    assert list(dict.fromkeys(sizes(kl_coef=0.3))) == [128, 64, 32]
    assert set(sizes(rollout_size=128)) == {128}
