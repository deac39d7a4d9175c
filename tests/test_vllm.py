"""vLLM: what is refused before a model is loaded, what is chosen, and what the plan counts."""

from dataclasses import replace
from pathlib import Path

import pytest
from machines import CPU, card
from transformers import AutoModelForCausalLM, LlamaConfig

import modelforge
from modelforge import ConfigError, RunError, load_config, registry
from modelforge.machine import vllm
from modelforge.models.providers.huggingface import HuggingFace
from modelforge.plan import fit, plan
from modelforge.plan.memory import Engine, engine_of
from modelforge.training.defaults import Facts, fill

pytestmark = pytest.mark.usefixtures("simulated_once")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
GIB = 2**30


def config_of(strategy="grpo", **said):
    values = {"strategy": strategy, "model_name": str(TINY / "model"), "dataset": "d"}
    rewards = {} if strategy == "rlhf" else {"rewards": ["numeric_answer"]}
    return load_config(values | {"use_vllm": True} | rewards | said)


@pytest.fixture
def installed(monkeypatch):
    """A machine on which vLLM's package is found."""
    monkeypatch.setattr(vllm, "find_spec", lambda name: object())


def refused(strategy="grpo", **said):
    with pytest.raises(ConfigError) as caught:
        config_of(strategy, **said)
    return {p.where.split(": ")[1]: p.what for p in caught.value.problems}


def test_all_that_cannot_stand_with_vllm_is_said_at_once():
    found = refused(use_4bit=True, vllm_mode="colocated", vllm_gpu_memory_utilization=1.5)
    assert set(found) == {"use_4bit", "vllm_mode", "vllm_gpu_memory_utilization"}
    assert not list(vllm.config_problems(config_of()))
    assert not list(vllm.config_problems(config_of(use_vllm=False, use_4bit=True)))


@pytest.mark.parametrize(("strategy", "said"), [("ppo", {}), ("rlhf", {}), ("rloo", {})])
def test_ppo_is_refused_with_the_reason_and_its_alternatives_are_not(strategy, said):
    if strategy == "rloo":
        assert config_of("rloo").get("use_vllm")
        assert config_of("rlhf", algorithm="grpo").get("use_vllm")
    else:
        assert "value head" in refused(strategy, **said)["use_vllm"]


def test_a_machine_that_lacks_what_vllm_needs_says_so():
    config = config_of()
    problems = list(vllm.machine_problems(config, CPU))
    assert any("CUDA" in p.what for p in problems)
    assert any("pip install 'vllm" in p.fix for p in problems)
    assert len(list(vllm.machine_problems(config, card(24.0)))) == 1
    assert not list(vllm.machine_problems(config_of(use_vllm=False), CPU))


def test_with_vllm_on_a_card_there_is_nothing_to_refuse(installed):
    assert not list(HuggingFace().problems(config_of(), None, card(24.0)))


def test_a_run_is_refused_before_anything_is_written(tmp_path):
    rows = str(TINY / "data" / "prompts_train.jsonl")
    with pytest.raises(RunError, match="use_vllm"):
        modelforge.train(config_of(dataset=rows, output_dir=str(tmp_path)))
    assert not list(tmp_path.iterdir())


def filled(hardware, **said):
    config = config_of(**said)
    grpo = registry.get_strategy("grpo")()
    config = fill(config, Facts(grpo, hardware))
    return config.with_choices(grpo.derived_defaults(config))


def test_what_follows_from_vllm_is_chosen_with_a_reason_where_left_open():
    config = filled(card(16.0))
    assert config.get("use_4bit") is False  # which the card's profile would have
    assert config.get("vllm_enable_sleep_mode") is True
    assert config.get("vllm_max_model_length") == config.settings.max_seq_length
    for key in ("use_4bit", "vllm_enable_sleep_mode", "vllm_max_model_length"):
        assert config.choices[key].reason
    said = filled(card(16.0), vllm_enable_sleep_mode=False, vllm_max_model_length=64)
    assert said.get("vllm_enable_sleep_mode") is False and said.get("vllm_max_model_length") == 64
    assert filled(card(16.0), vllm_mode="server").get("vllm_enable_sleep_mode") is None
    assert filled(card(16.0), use_vllm=False).get("use_4bit") is True


@pytest.fixture
def wide(tmp_path):
    """As wide as an 8B, of two layers: 1.8 GiB in 16 bits."""
    LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        vocab_size=64000,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=False,
    ).save_pretrained(tmp_path)
    return str(tmp_path)


def planned(model, **said):
    hardware = card(24.0)
    config = filled(hardware, model_name=model, max_seq_length=256, **said)
    return plan(config, hardware=hardware, budget_gb=24.0)


def test_the_plan_counts_the_engine_where_and_when_it_is_there(wide):
    share = round(0.3 * 24 * GIB)
    server = planned(wide, vllm_mode="server")
    awake = planned(wide, vllm_enable_sleep_mode=False)
    asleep = planned(wide)
    alone = planned(wide, use_vllm=False, use_4bit=False)  # vLLM does not go with it
    assert "vLLM" not in server.parts and "generation" not in server.parts
    assert awake.peak_allocated == server.peak_allocated + share
    assert asleep.peak_allocated < awake.peak_allocated
    assert asleep.peak_allocated == max(server.peak_allocated, asleep.phases["generation"])
    assert asleep.phases["generation"] == server.phases["generation"] + share
    assert awake.phases["forward"] == server.phases["forward"] + share
    assert sum(asleep.parts.values()) == asleep.peak_allocated
    assert server.phases["generation"] < alone.phases["generation"]


def test_an_engine_that_sleeps_adds_to_the_rollout_alone():
    phases = {"forward": 10, "generation": 4}
    assert Engine(3, sleeps=True).peak(phases) == 10
    assert Engine(8, sleeps=True).peak(phases) == 12
    assert Engine(8, sleeps=False).peak(phases) == 18
    assert engine_of(filled(card(24.0), vllm_mode="server"), card(24.0)) is None
    assert engine_of(filled(card(24.0)), replace(card(24.0), vram_gb=0.0)) is None


def test_a_share_that_does_not_hold_the_weights_is_refused(wide):
    with pytest.raises(RunError, match="does not hold the model's weights"):
        planned(wide, vllm_gpu_memory_utilization=0.05)


def test_fit_leaves_room_for_the_engine_or_refuses(wide):
    hardware = card(12.0)
    said = {"model_name": wide, "vllm_enable_sleep_mode": False}
    config = filled(hardware, vllm_gpu_memory_utilization=0.4, **said)
    fitted, found = fit(config, budget_gb=12.0, hardware=hardware)
    assert found.fits and found.parts["vLLM"] == round(0.4 * 12 * GIB)
    assert fitted.get("vllm_enable_sleep_mode") is False
    config = filled(hardware, vllm_gpu_memory_utilization=0.9, **said)
    with pytest.raises(RunError, match="does not fit"):
        fit(config, budget_gb=12.0, hardware=hardware)


@pytest.mark.parametrize("use_vllm", [False, True])
def test_a_reward_adapter_of_the_same_base_stands_beside_what_vllm_is_sent(tmp_path, use_vllm):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from modelforge.rewards.model import RewardModel
    from modelforge.rewards.of_a_run import build
    from modelforge.rewards.shared_base import SharedBaseReward

    model, folder = str(TINY / "model"), tmp_path / "reward"
    lora = {"r": 4, "target_modules": "all-linear", "task_type": "SEQ_CLS"}
    scorer = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1)
    get_peft_model(scorer, LoraConfig(**lora, modules_to_save=["score"])).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.save_pretrained(folder)
    config = config_of(use_vllm=use_vllm, reward_model=str(folder), rewards=None)
    ((reward, weight),) = build(
        config,
        tokenizer=tokenizer,
        policy=AutoModelForCausalLM.from_pretrained(model),
        adapted=not use_vllm,
        device="cpu",
        batch_size=2,
    )
    assert weight == 1 and isinstance(reward, RewardModel if use_vllm else SharedBaseReward)
