"""Each key of ModelForge's own does what it says, measured where it takes effect, or is refused."""

import inspect
import json
from pathlib import Path

import pytest
import tiny
import torch

from modelforge import ConfigError, UserError, load_config
from modelforge.common.sections import Section
from modelforge.models.lora import lora_config, quantization_config
from modelforge.ppo.settings import TRL_NAMES, PPOSection
from modelforge.registry import get_strategy
from modelforge.training.prepare import prepare

STRATEGIES = ["sft", "qlora", "reward", "dpo", "kto", "grpo", "rloo", "ppo", "rlhf"]
MODEL = str(tiny.ROOT / "examples" / "tiny" / "model")
STEPS = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 1}

# key → another value, where it shows, and what the config says beside it
SHOWN = {
    "dataset": ("turns.jsonl", "rows", {}),
    "dataset_split": ("dev", "rows", {"dataset": "folder"}),
    "max_samples": (20, "rows", {}),
    "streaming": (True, "rows", STEPS | {"eval_split": 4}),
    "eval_dataset": ("turns.jsonl", "held out", {}),
    "eval_split": (5, "held out", {}),
    "columns": ({"prompt": "b", "completion": "a"}, "rows", {"dataset": "columns.jsonl",
                "columns": {"prompt": "a", "completion": "b"}}),
    "seed": (7, "held out", {}),
    "system_prompt": ("Be short.", "rows", {}),
    "chat_template": ("plain", "rows", {"max_seq_length": 256}),
    "prompt_layout": ("alpaca", "rows", {"max_seq_length": 256}),
    "chat_template_kwargs": ({"mood": "x"}, "rows", {"chat_template": "own.jinja"}),
    "train_on": ("last", "rows", {"dataset": "turns.jsonl"}),
    "max_seq_length": (32, "rows", {}),
    "eos_token": ("<|user|>", "tokenizer", {}),
    "pad_token": ("<|user|>", "tokenizer", {}),
    "add_tokens": (["<new>"], "vocabulary", {}),
    "add_special_tokens": (["<new>"], "vocabulary", {}),
    "train_tokens": (["<|user|>"], "vocabulary", {}),
    "lora_r": (4, "adapter", {}),
    "lora_alpha": (7, "adapter", {}),
    "lora_dropout": (0.25, "adapter", {}),
    "lora_target_modules": (["q_proj"], "adapter", {}),
    "lora": ({"use_rslora": True}, "adapter", {}),
    "lora_modules_to_save": (["lm_head"], "adapter", {}),
    "use_4bit": (True, "weights", {}),
    "bnb_4bit_quant_type": ("fp4", "weights", {"use_4bit": True}),
    "use_double_quant": (False, "weights", {"use_4bit": True}),
    "attn_implementation": ("eager", "attention", {}),
    "warmup_ratio": (0.5, "warmup_steps", {}),
    "report_to": ("tensorboard", "report_to", {}),
    "early_stopping": ({}, "load_best_model_at_end", {}),
    "hardware_profile": ("low", "per_device_train_batch_size", {}),
    "preset": ("mid", "gradient_accumulation_steps", {}),
    "memory_budget_gb": (4.0, "plan", {}),
    "output_dir": ("elsewhere", "place", {}),
    "run_name": ("named", "place", {}),
}  # fmt: skip
# key → a value that is refused where this is tested, and what is said
REFUSED = {
    "strategy": ("stf", "sft"),
    "model_name": ("nowhere/model", "nowhere"),
    "model_revision": ("main", "revisions are the hub's"),
    "trust_remote_code": (True, "--trust-remote-code"),
    "provider": ("unsloth", "Unsloth"),
    "task": ("summarization", "has no effect: the chat template is"),
    "held_out_as": ("nowhere", "is no run of ours"),
}
# key → the test file that shows what it does while a run trains, or before it starts
ELSEWHERE = {
    "use_8bit": "test_keys.py",
    "dtype": "test_dtype.py",
    "constraints": "test_constraints_held.py",
    "resize_vocab": "test_vocabulary.py",
    "resume": "test_rlhf.py",
    "judge_model": "test_rlhf.py",
    "reward_models": "test_rlhf.py",
    "average_reward_models": "test_rlhf.py",
    "dynamic_sampling": "test_refill.py",
    "prompts_per_step": "test_recipe.py",
    "reward_model": "test_rewards.py",
    "rewards": "test_rewards.py",
    "tools": "test_tools.py",
    "environment": "test_tools.py",
    "rewards.name": "test_rewards.py",
    "rewards.weight": "test_rewards.py",
    "rewards.arguments": "test_rewards.py",
    "eval_prompts": "test_rewards_tried.py",
    "early_stopping.metric": "test_longer.py",
    "early_stopping.patience": "test_longer.py",
    "early_stopping.min_delta": "test_longer.py",
    "algorithm": "test_rlhf.py",
    "stages": "test_rlhf.py",
    "sft_stage": "test_rlhf.py",
    "reward_stage": "test_rlhf.py",
    "min_reward_accuracy": "test_rlhf.py",
    **{f"distributed.{key}": "test_distributed.py"
       for key in ("backend", "config", "num_processes", "num_machines", "machine_rank",
                   "main_address", "main_port")},
}  # fmt: skip
# key → the field of TRL's config that holds it, and another value
ARGUMENTS = {
    "generation.max_new_tokens": ("max_completion_length", 7),
    "generation.temperature": ("temperature", 0.5),
    "generation.top_k": ("top_k", 5),
    "generation.top_p": ("top_p", 0.5),
}


def sections(model, before=""):
    """All keys of a section, those of sections in it with their path."""
    for name, field in model.model_fields.items():
        inner = getattr(field.annotation, "__args__", (field.annotation,))
        found = [each for each in inner if isinstance(each, type) and issubclass(each, Section)]
        for each in found:
            yield from sections(each, f"{name}.")
        if not found or name == "early_stopping":
            yield f"{before}{name}"


def test_each_key_stands_in_one_of_the_tables():
    known = {*SHOWN, *REFUSED, *ELSEWHERE, *ARGUMENTS}
    ours = {key for name in STRATEGIES for key in sections(get_strategy(name).settings)}
    ours = {key for key in ours if not key.startswith("ppo.")}
    assert ours <= known, sorted(ours - known)
    assert {key for key in known if not key.startswith("rewards.")} <= ours
    for key, file in ELSEWHERE.items():
        assert key.rpartition(".")[2] in (Path(__file__).parent / file).read_text(), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Few rows in several files, and a template that reads an argument."""
    made = tmp_path_factory.mktemp("keys")
    rows = tiny.few("sft_train", 48).read_text()
    (made / "rows.jsonl").write_text(rows)
    (made / "folder").mkdir()
    (made / "folder" / "train.jsonl").write_text(rows)
    (made / "folder" / "dev.jsonl").write_text(rows[: len(rows) // 2].rpartition("\n")[0])
    turn = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    (made / "turns.jsonl").write_text(json.dumps({"messages": turn * 2}) + "\n")
    cells = [{"a": f"x {i}", "b": f"y {i}"} for i in range(8)]
    (made / "columns.jsonl").write_text("\n".join(map(json.dumps, cells)))
    text = "{{ mood }}{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}"
    (made / "own.jinja").write_text(
        text + "{% if m.role != 'user' %}<|eos|>{% endif %}{% endfor %}"
    )
    return made


def observed(values, folder):
    """What follows from a config in each of the places where a key may show."""
    base = {"strategy": "sft", "model_name": MODEL, "report_to": "none", "max_seq_length": 64,
            "output_dir": "runs", "dataset": "rows.jsonl"} | values  # fmt: skip
    paths = ("dataset", "eval_dataset", "output_dir", "chat_template")
    there = (key for key in paths if key in base and (folder / base[key]).exists())
    base |= {key: str(folder / base[key]) for key in there}
    made = prepare(load_config(base | {"output_dir": str(folder / base["output_dir"])}))
    settings, args = made.config.settings, made.args
    return {
        **args.to_dict(),
        "rows": [(each.ids, each.spans) for each in made.data.train_tokens],
        "held out": [each.ids for each in made.data.eval_tokens],
        "tokenizer": (made.tokenizer.eos_token, made.tokenizer.pad_token),
        "vocabulary": made.vocabulary,
        "adapter": lora_config(settings, head="causal-lm").to_dict(),
        "weights": str(quantization_config(settings, torch.float32)),
        "attention": settings.attn_implementation,
        "plan": made.plan is None,
        "place": (made.run.path.parent, made.run.path.name.startswith("named")),
    }


@pytest.fixture(scope="module")
def bases():
    """What was observed already, by the config."""
    return {}


@pytest.mark.parametrize("key", SHOWN)
def test_a_key_changes_what_it_says(key, folder, bases):
    value, where, beside = SHOWN[key]
    said = json.dumps(beside, sort_keys=True)
    if said not in bases:
        bases[said] = observed(beside, folder)
    assert observed(beside | {key: value}, folder)[where] != bases[said][where]


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_cannot_be_kept_is_refused(key, folder):
    value, says = REFUSED[key]
    with pytest.raises(UserError, match=says):
        observed({key: value}, folder)


def sources(name):
    """The files of a strategy's trainer and what it stands on."""
    return {inspect.getfile(cls) for cls in get_strategy(name).trl_trainer_class().__mro__[:-1]}


def test_keys_of_sampling_and_ppo_reach_the_arguments(tmp_path):
    base = {"strategy": "grpo", "model_name": "m", "dataset": "d", "rewards": ["numeric_answer"]}

    def arguments(values):
        config = load_config(base | values)
        strategy = get_strategy(config.settings.strategy)()
        return strategy.build_args(config, output_dir=tmp_path, device={"use_cpu": True})

    plain = arguments({})
    for key, (field, value) in ARGUMENTS.items():
        name, _, inner = key.partition(".")
        found = arguments({name: {inner: value} if inner else value})
        assert getattr(found, field) != getattr(plain, field), key
    files = [*(tiny.ROOT / "modelforge/ppo").glob("*.py"), *map(Path, sources("ppo"))]
    code = "".join(path.read_text() for path in files)
    plain = arguments({"strategy": "ppo"})
    for key in PPOSection.model_fields:
        field = TRL_NAMES.get(key, key)
        assert hasattr(plain, field), key
        assert any(f".{field}" in code for field in (field, key)), f"nothing reads ppo.{key}"


def test_what_no_strategy_knows_is_refused():
    with pytest.raises(ConfigError, match="is not a key of this strategy"):
        load_config({"strategy": "sft", "model_name": "m", "dataset": "d", "ppo": {}})
