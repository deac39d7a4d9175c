"""A simulated step takes what the real trainer's step takes of the real CPU allocator.

Real: TRL's trainer with weights, its own ``train()``, its births and deaths of memory read from
torch's profiler. Simulated: the same trainer on the meta device. No formula of ours in between.
"""

import dataclasses
import gc
import runpy
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
)

from modelforge import registry
from modelforge.configfile.load import load_config
from modelforge.machine.hardware import Hardware
from modelforge.machine.precision import train_in_float32
from modelforge.models.lora import exact_4bit_on_cpu, lora_config, quantization_config
from modelforge.models.providers.huggingface import weights_dtype
from modelforge.plan import reward_models
from modelforge.plan.autocast import replaced
from modelforge.plan.kernels import cpu
from modelforge.plan.meta_run import build_meta_run
from modelforge.plan.model import weights
from modelforge.plan.step import alone, log_steps
from modelforge.rewards.shared_base import SharedBaseReward

# The step runs on the CPU; which types it runs in follows from the machine it is planned for.
IN_32_BITS = Hardware("cpu", "", 0, 0.0, None, False, 16.0, 2)
IN_16_BITS = Hardware("cuda", "", 1, 16.0, (8, 0), True, 16.0, 2)
TOKENIZER = Path(__file__).parents[1] / "examples" / "tiny" / "model"
OWN_STRATEGY = Path(__file__).parents[1] / "examples" / "04_orpo.py"
PPO = {"generation": {"max_new_tokens": 40}, "gradient_accumulation_steps": 2}
RL = {"generation": {"max_new_tokens": 40}, "num_generations": 2}


def architecture() -> LlamaConfig:
    return LlamaConfig(
        hidden_size=256,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=768,
        vocab_size=6000,
        tie_word_embeddings=False,
        pad_token_id=0,
    )


def real_model(config, hardware, folder: Path):
    reward = registry.get_strategy(config.settings.strategy).head == "reward"
    auto = AutoModelForSequenceClassification if reward else AutoModelForCausalLM
    shape, dtype = architecture(), weights_dtype(config, hardware)
    if reward:
        shape.num_labels = 1
    model = auto.from_config(shape, dtype=dtype)
    quantisation = quantization_config(config.settings, dtype)
    if quantisation is None:
        return model
    model.save_pretrained(folder)
    model = auto.from_pretrained(
        folder, dtype=dtype, quantization_config=quantisation, device_map={"": "cpu"}
    )
    exact_4bit_on_cpu(model)
    return model


def save_reward_adapter(folder: Path) -> None:
    """A reward model on the same base, as the reward strategy leaves it."""
    shape = architecture()
    shape.num_labels = 1
    settings = load_config({"strategy": "reward", "model_name": "m", "dataset": "d", "lora_r": 8})
    adapter = lora_config(settings.settings, head="reward")
    base = AutoModelForSequenceClassification.from_config(shape)
    get_peft_model(base, adapter).save_pretrained(folder)


def real_trainer(job, model, config):
    """The job's trainer with real weights, its own loop, and the job's batch in every step."""
    args = job.arguments["args"]
    args.max_steps, args.save_strategy, args.logging_strategy = 2, "no", "no"
    steps = 2 * args.gradient_accumulation_steps

    class Real(job.trainer_class):
        def get_train_dataloader(self):
            return [self.data_collator(job.batch)] * steps

    arguments = dict(job.arguments)
    if getattr(config.settings, "reward_model", None):
        arguments["reward_funcs"] = [lambda completions, **_: scorer(len(completions)) or [1.0] * 4]
    trainer = Real(**(arguments | {"model": model}))
    train_in_float32(trainer.model)
    if getattr(config.settings, "reward_model", None):
        folder = Path(config.settings.reward_model)
        tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
        reward = SharedBaseReward(folder, name="0", tokenizer=tokenizer).attach(trainer.model)
        scorer = reward_models._scorer(reward.score, config, args.per_device_train_batch_size)
    if job.generates:
        _, prompt, new = job.generates
        trainer.model.generate = lambda input_ids, **_: torch.full(
            (len(input_ids), prompt + new), 3
        )
    return trainer


@contextmanager
def as_on_a_card():
    """PEFT asks whether autocast is on, and means CUDA's: it then leaves the input as it is."""
    asked = torch.is_autocast_enabled
    with replaced(torch, "is_autocast_enabled", lambda device="cpu": asked(device)):
        yield


def measured_peak(run) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = []

    def walk(nodes):
        for node in nodes:
            if node.tag == torch._C._profiler._EventType.Allocation:
                events.append((node.start_time_ns, node.extra_fields.alloc_size))
            walk(node.children)

    walk(profiler.profiler.kineto_results.experimental_event_tree())
    now = peak = 0
    for _, size in sorted(events):
        now += size
        peak = max(peak, now)
    return peak


def stored(model) -> int:
    """Bytes of a model's distinct storages."""
    storages = {t.untyped_storage().data_ptr(): t for _, t in weights(model)}
    return sum(t.untyped_storage().nbytes() for t in storages.values())


@pytest.mark.parametrize(
    ("strategy", "hardware", "keys"),
    [
        pytest.param("sft", IN_32_BITS, {}, id="sft-lora-32"),
        pytest.param(
            "sft",
            IN_32_BITS,
            {"gradient_checkpointing": True, "gradient_accumulation_steps": 2},
            id="sft-lora-32-checkpointing-accumulation",
        ),
        pytest.param("sft", IN_32_BITS, {"lora_r": 0}, id="sft-full-32"),
        pytest.param("sft", IN_32_BITS, {"optim": "adamw_8bit"}, id="sft-8bit-adamw"),
        pytest.param("sft", IN_32_BITS, {"packing": True}, id="sft-packed"),
        pytest.param("sft", IN_32_BITS, {"lora_dropout": 0.1}, id="sft-dropout"),
        pytest.param("sft", IN_16_BITS, {"use_4bit": False}, id="sft-lora-16"),
        pytest.param(
            "sft",
            IN_16_BITS,
            {"lora_r": 0, "gradient_checkpointing": True},
            id="sft-full-mixed-checkpointing",
        ),
        pytest.param(
            "sft", IN_16_BITS, {"use_4bit": True, "gradient_checkpointing": True}, id="sft-4bit"
        ),
        pytest.param("dpo", IN_32_BITS, {"gradient_accumulation_steps": 2}, id="dpo-lora-32"),
        pytest.param("dpo", IN_32_BITS, {"lora_r": 0}, id="dpo-full-32"),
        pytest.param(
            "dpo", IN_16_BITS, {"use_4bit": True, "gradient_checkpointing": True}, id="dpo-4bit"
        ),
        pytest.param("orpo", IN_32_BITS, {}, id="a-third-party's-lora-32"),
        pytest.param("reward", IN_32_BITS, {}, id="reward-lora-32"),
        pytest.param("reward", IN_16_BITS, {"use_4bit": True}, id="reward-4bit"),
        pytest.param("grpo", IN_32_BITS, {**RL, "beta": 0.04}, id="grpo-lora-32-reference"),
        pytest.param(
            "grpo",
            IN_16_BITS,
            {**RL, "use_4bit": True, "gradient_accumulation_steps": 2},
            id="grpo-4bit-accumulation",
        ),
        pytest.param("rloo", IN_32_BITS, RL, id="rloo-lora-32"),
        pytest.param("ppo", IN_32_BITS, PPO, id="ppo-lora-32"),
        pytest.param(
            "ppo",
            IN_16_BITS,
            {**PPO, "use_4bit": True, "gradient_checkpointing": True, "reward_model": "reward"},
            id="ppo-4bit-four-roles",
        ),
    ],
)
def test_simulated_and_real_peak_agree(strategy, hardware, keys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_registered", {})
    if strategy == "orpo":
        runpy.run_path(str(OWN_STRATEGY))
    if "reward_model" in keys:
        save_reward_adapter(tmp_path / keys["reward_model"])
    config = load_config(
        {
            "strategy": strategy,
            "model_name": "m",
            "dataset": "d",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "max_seq_length": 96,
            "lora_r": 8,
            "optim": "adamw_torch",
            **keys,
        }
    )
    with alone():
        jobs = [
            build_meta_run(config, architecture(), hardware, adapter=None, output_dir=tmp_path)
            for _ in range(2)
        ]
        # The real rows are of one length: only packed ones, made of several, need a mask.
        padded = bool(keys.get("packing"))
        tracker, _ = log_steps(dataclasses.replace(jobs[0], padded=padded), cpu())
        if "ref_model" in jobs[1].arguments:
            jobs[1].arguments["ref_model"] = real_model(config, hardware, tmp_path / "reference")
        model = real_model(config, hardware, tmp_path / "model")
        trainer = real_trainer(jobs[1], model, config)
        held = stored(trainer.model)
        if getattr(trainer, "ref_model", None) is not None:
            held += stored(trainer.ref_model)
        gc.collect()
        with as_on_a_card():
            measured = held + measured_peak(trainer.train)
    static = sum(size for i, size in tracker.events if i > 0 and tracker.tags[i].phase == "static")
    assert static == held
    assert tracker.peak == pytest.approx(measured, rel=0.005)
    assert tracker.peak > 1.5 * static  # or activations would not be under test


def test_sampling_takes_what_generate_takes(tmp_path):
    """The real ``generate`` on a large rollout: its peak is that of the key-value cache."""
    config = load_config(
        {
            "strategy": "grpo",
            "model_name": "m",
            "dataset": "d",
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 16,
            "gradient_checkpointing": True,
            "max_seq_length": 96,
            "num_generations": 2,
            "generation": {"max_new_tokens": 80},
            "lora_r": 8,
            "optim": "adamw_torch",
        }
    )
    with alone():
        jobs = [
            build_meta_run(config, architecture(), IN_32_BITS, adapter=None, output_dir=tmp_path)
            for _ in range(2)
        ]
        tracker, _ = log_steps(dataclasses.replace(jobs[0], padded=False), cpu())
        rows, prompt, _ = jobs[1].generates
        model = real_model(config, IN_32_BITS, tmp_path / "model")
        model.generation_config.eos_token_id = None
        # Completions of full length, whatever random weights would say.
        jobs[1].arguments["args"].generation_kwargs = {"eos_token_id": None}
        trainer = jobs[1].trainer_class(**(jobs[1].arguments | {"model": model}))
        held = stored(trainer.model)
        ids = [[2] * prompt] * rows
        gc.collect()
        measured = held + measured_peak(lambda: trainer._generate_single_turn(ids, None, {}, 2))
    peaks = tracker.peaks()
    states = sum(size for i, size in tracker.alive_at(tracker.peak_at).items()
                 if tracker.tags[i].phase == "optimizer")  # fmt: skip
    assert peaks["generation"] - states == pytest.approx(measured, rel=0.01)
