"""What is recorded is what trains: read back from the built trainer, for every strategy."""

import json
import logging
import re
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from tiny import DATA
from transformers import AutoModelForCausalLM

from modelforge import UserError, load_config
from modelforge.ppo.settings import TRL_NAMES
from modelforge.runs.folder import choices_json
from modelforge.training.effects import recorded, without_effect
from modelforge.training.prepare import prepare, show_choices
from modelforge.training.run import build_trainer, load

TINY = Path(__file__).parents[1] / "examples" / "tiny"
STRATEGIES = ("sft", "qlora", "reward", "dpo", "grpo", "rloo", "ppo")
STEPS = 20

#: What ModelForge calls otherwise than TRL, or passes on changed: read back by hand below.
OURS = {
    *(
        "output_dir",
        "warmup_ratio",
        "max_seq_length",
        "generation",
        "ppo",
        "rewards",
        "reward_model",
    ),
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
}
SAID = {
    "learning_rate": st.sampled_from([1e-5, 3e-4]),
    "lr_scheduler_type": st.sampled_from(["linear", "constant", "constant_with_warmup", "cosine"]),
    "warmup_ratio": st.sampled_from([0.0, 0.2]),
    "warmup_steps": st.sampled_from([0, 3, 0.5]),
    "weight_decay": st.sampled_from([0.0, 0.1]),
    "optim": st.sampled_from(["adamw_torch", "adamw_torch_fused", "adafactor", "sgd"]),
    "adam_beta1": st.sampled_from([0.8]),
    "adam_beta2": st.sampled_from([0.95]),
    "adam_epsilon": st.sampled_from([1e-6]),
    "max_grad_norm": st.sampled_from([0.0, 0.5]),
    "max_steps": st.sampled_from([STEPS]),
    "num_train_epochs": st.sampled_from([2, 1.5]),
    "lora_r": st.sampled_from([0, 4, 16]),
    "lora_alpha": st.sampled_from([8, 64]),
    "lora_dropout": st.sampled_from([0.0, 0.1]),
    "lora_target_modules": st.sampled_from(["all-linear", ["q_proj"], "q_proj"]),
    "max_seq_length": st.sampled_from([64, 100_000]),
    "per_device_train_batch_size": st.sampled_from([4, 8]),
    "gradient_accumulation_steps": st.sampled_from([1, 2]),
    "hardware_profile": st.sampled_from(["auto", "low", "high"]),
    "gradient_checkpointing": st.booleans(),
    "gradient_checkpointing_kwargs": st.sampled_from([{"use_reentrant": False}]),
    "load_best_model_at_end": st.booleans(),
    "eval_steps": st.sampled_from([4, 0.5]),
    "save_steps": st.sampled_from([4, 0.5]),
    "eval_strategy": st.sampled_from(["no", "steps", "epoch"]),
    "save_strategy": st.sampled_from(["no", "steps", "epoch", "best"]),
    "save_total_limit": st.sampled_from([1, 3]),
    "logging_steps": st.sampled_from([1, 0.1]),
    "disable_dropout": st.booleans(),
    "seed": st.integers(0, 3),
    "max_length": st.just(64),
}


@st.composite
def configs(draw):
    """Some keys of any strategy, whether or not they can stand together."""
    strategy = draw(st.sampled_from(STRATEGIES))
    keys = draw(st.lists(st.sampled_from(sorted(SAID)), unique=True, max_size=6))
    values = {key: draw(SAID[key]) for key in keys}
    if strategy in ("grpo", "rloo") and draw(st.booleans()):
        values["num_generations"] = 4
    if strategy == "ppo" and draw(st.booleans()):
        values["ppo"] = {"kl_coef": 0.2, "ppo_epochs": 2}
    if strategy == "dpo" and draw(st.booleans()):
        values["beta"] = 0.3
    return strategy, values


def config(folder, strategy, **values):
    kind = DATA.get(strategy, "prompts")
    rewards = {"rewards": ["numeric_answer"]} if kind == "prompts" else {}
    lines = (TINY / "data" / f"{kind}_eval.jsonl").read_text().splitlines()[:24]
    data = Path(folder, f"{kind}.jsonl")
    data.write_text("\n".join(lines) + "\n")
    base = {"strategy": strategy, "model_name": str(TINY / "model"), "dataset": str(data)}
    place = {"output_dir": str(folder), "eval_split": 8, "report_to": "none"}
    return load_config(base | place | rewards | values)


def built(made):
    """The trainer as a run builds it, with the optimiser and scheduler of its steps."""
    prepared = prepare(made)
    trainer = build_trainer(prepared, load(prepared))
    trainer.create_optimizer_and_scheduler(STEPS)
    return prepared, trainer


def plain(value):
    """As JSON has it."""
    return json.loads(json.dumps(getattr(value, "value", value), default=str))


class Heard(logging.Handler):
    """What is said, line by line."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines += record.getMessage().splitlines()


def shown(prepared):
    """The rows of the printed table, with ``--verbose``."""
    heard, logger = Heard(), logging.getLogger("modelforge")
    before = logger.level
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    try:
        show_choices(prepared.config)
    finally:
        logger.setLevel(before)
        logger.removeHandler(heard)
    return heard.lines


def see_that_all_agree(prepared, trainer):
    made, args = prepared.config, trainer.args
    choices = choices_json(made)["choices"]
    written = plain(recorded(made, prepared.strategy))
    assert not without_effect(made, prepared.strategy)
    table = shown(prepared)
    for key, choice in choices.items():
        # choices.json, config.json and the printed table
        if isinstance(choice["value"], dict) and key in written:  # a section, with its defaults
            assert plain(choice["value"]).items() <= written[key].items()
        elif choice["value"] not in (None, False, 0) or key in written:
            assert written[key] == plain(choice["value"]), key
        if choice["source"] not in ("config", "--set"):
            assert f"{key}  {choice['value']}  {choice['source']}: {choice['reason']}" in table
        # TRL's arguments
        if hasattr(args, key) and key not in OURS:
            wanted, found = plain(choice["value"]), plain(getattr(args, key))
            if key == "report_to":
                wanted = [] if wanted == "none" else wanted
            assert found == wanted, key
    see_that_the_adapter_agrees(made, trainer)
    see_that_the_optimiser_agrees(made, trainer)
    own = made.settings
    limit = getattr(args, "max_length", None) or getattr(args, "max_completion_length", None)
    assert limit is None or limit <= own.max_seq_length
    if hasattr(own, "generation"):
        assert args.max_completion_length == own.generation.max_new_tokens
        assert (args.temperature, args.top_p) == (own.generation.temperature, own.generation.top_p)
    if made.settings.strategy == "ppo":
        section = own.ppo.model_dump(exclude={"reference"})
        if section["rollout_size"] is None:  # one step's, since the batch is given
            del section["rollout_size"]
        if section["value_mode"] == "auto":  # decided by the rewards, once they are built
            assert section.pop("value_mode") != args.value_mode
        scaled = section["reward_normalization"] == "reference"
        assert scaled == (not made.get("rewards"))  # reward models alone
        assert section["missing_eos_penalty"] == (1.0 if scaled else None)
        assert all(getattr(args, TRL_NAMES.get(k, k)) == v for k, v in section.items())


def see_that_the_adapter_agrees(made, trainer):
    own, model = made.settings, trainer.accelerator.unwrap_model(trainer.model)
    if own.lora_r == 0:
        assert not hasattr(model, "peft_config")
        return
    shape = model.peft_config["default"]
    assert (shape.r, shape.lora_alpha) == (own.lora_r, own.lora_alpha)
    assert shape.lora_dropout == own.lora_dropout
    said = own.lora_target_modules
    names = shape.target_modules
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    wanted = linear if said == "all-linear" else {said} if isinstance(said, str) else set(said)
    assert re.fullmatch(names, "q_proj") if isinstance(names, str) else set(names) == wanted
    layer = next(m for m in model.modules() if hasattr(m, "lora_dropout") and len(m.lora_A))
    dropout = getattr(layer.lora_dropout["default"], "p", 0.0)
    assert dropout == own.lora_dropout, "the dropout that trains"
    assert layer.scaling["default"] == own.lora_alpha / own.lora_r


def see_that_the_optimiser_agrees(made, trainer):
    args = trainer.args
    rate = made.get("learning_rate")
    groups = trainer.optimizer.param_groups
    policy = [g for g in groups if g.get("initial_lr", g["lr"]) == rate]
    assert policy and (made.settings.strategy == "ppo" or policy == groups)
    decays = {group["weight_decay"] for group in policy}
    assert decays <= {0.0, args.weight_decay} and args.weight_decay == (
        made.get("weight_decay") or 0
    )
    if "betas" in groups[0]:
        assert groups[0]["betas"] == (made.get("adam_beta1", 0.9), made.get("adam_beta2", 0.999))
        assert groups[0]["eps"] == made.get("adam_epsilon", 1e-8)
    said = made.get("warmup_steps") or made.settings.warmup_ratio
    steps = args.get_warmup_steps(STEPS)
    assert steps == (said if said >= 1 else round(STEPS * said + 0.499))
    rates = []
    for _ in range(STEPS):
        rates.append(policy[0]["lr"])
        trainer.lr_scheduler.step()
    assert rates[0] == (0.0 if steps else rate) and rates[steps] == pytest.approx(rate)
    if str(made.get("lr_scheduler_type", "linear")).startswith("constant"):
        assert set(rates[steps:]) == {rate}


@settings(max_examples=14, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=configs())
@example(asked=("grpo", {"per_device_train_batch_size": 4}))
@example(asked=("rloo", {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}))
def test_what_is_recorded_is_what_trains(asked):
    strategy, values = asked
    with tempfile.TemporaryDirectory() as folder:
        try:
            prepared, trainer = built(config(folder, strategy, **values))
        except UserError as refused:
            # Of the keys that were said, or of what they make of TRL's own.
            assert all(any(key in str(p) for key in values) for p in refused.problems)
            return
        for key, value in values.items():  # and what was said is there
            if key != "ppo" and prepared.config.choices[key].source in ("config", "--set"):
                assert plain(prepared.config.get(key)) == plain(value)
        see_that_all_agree(prepared, trainer)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_of_every_strategy_with_its_defaults(tmp_path, strategy):
    see_that_all_agree(*built(config(tmp_path, strategy, max_steps=STEPS)))


@pytest.mark.parametrize("strategy", ["sft", "dpo", "reward", "grpo", "ppo"])
def test_of_an_adapter_that_goes_on_training(tmp_path, strategy):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY / "model")
    shape = LoraConfig(r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"])
    shape.task_type = "CAUSAL_LM"
    get_peft_model(model, shape).save_pretrained(tmp_path / "adapter")
    made = config(tmp_path, strategy, model_name=str(tmp_path / "adapter"), max_steps=STEPS)
    prepared, trainer = built(made)
    assert trainer.model.peft_config["default"].r == 4
    see_that_all_agree(prepared, trainer)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_trains_beside_packed_weights_is_of_32_bits(tmp_path, strategy):
    """TRL casts it to bfloat16, in which the steps of a small rate round away."""
    _, trainer = built(config(tmp_path, strategy, max_steps=STEPS, use_4bit=True))
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert trained and {p.dtype for p in trained} == {torch.float32}
