"""What the user says of a key holds, or is refused: before a model is loaded, nothing written."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import DATA
from transformers import AutoModelForCausalLM

from modelforge import ConfigError, UserError, load_config
from modelforge.plan.fitting import fit as fit_to_card
from modelforge.training.effects import RULES, recorded
from modelforge.training.prepare import prepare
from modelforge.training.resolve import resolve

TINY = Path(__file__).parents[1] / "examples" / "tiny"
BEST = {"load_best_model_at_end": True}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Few rows for each strategy: none of them is read twice."""
    folder = tmp_path_factory.mktemp("keys")
    for name in set(DATA.values()):
        lines = (TINY / "data" / f"{name}_eval.jsonl").read_text().splitlines()[:12]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def config(place, strategy="sft", **values):
    data = "prompts" if strategy == "rloo" else DATA[strategy]
    rewards = {"rewards": ["numeric_answer"]} if data == "prompts" else {}
    group = {"num_generations": 4} if strategy == "grpo" else {}
    if "model_name" not in values:
        values["model_name"] = str(TINY / "model")
    data = {"dataset": str(place / f"{data}.jsonl"), "eval_split": 4}
    base = {"strategy": strategy, "output_dir": str(place / "runs"), "max_seq_length": 64}
    return load_config(base | data | rewards | group | values)


def resolved(place, strategy="sft", **values):
    return resolve(config(place, strategy, **values)).config


def problems(place, strategy="sft", **values):
    with pytest.raises(UserError) as caught:
        prepare(config(place, strategy, **values))
    assert not (place / "runs").exists()
    return [str(problem) for problem in caught.value.problems]


# --- warm-up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["sft", "qlora", "dpo", "reward", "grpo", "ppo"])
@pytest.mark.parametrize(
    ("said", "steps"),
    [
        ({"warmup_steps": 10}, 10),
        ({"warmup_steps": 10, "warmup_ratio": 0}, 10),
        ({"warmup_steps": 0}, 0),
        ({"warmup_ratio": 0.0}, 0),
        ({"warmup_ratio": 0.2}, 8),
        ({"warmup_ratio": 0.2, "warmup_steps": 0}, 8),
        ({"warmup_steps": 0.2}, 8),
    ],
)
def test_the_warm_up_is_the_users_whichever_way_it_is_said(place, strategy, said, steps):
    found = resolve(config(place, strategy, **said))
    args = found.strategy.build_args(found.config, output_dir=place, device={"use_cpu": True})
    assert args.get_warmup_steps(40) == steps
    if "warmup_ratio" not in said:
        assert "warmup_ratio" not in found.config.choices


# --- keys without effect --------------------------------------------------------------------------

HIDDEN = [
    ("sft", {"lora_r": 0, "lora_alpha": 32}, "lora_alpha"),
    ("sft", {"lora_r": 0, "lora_target_modules": "all-linear"}, "lora_target_modules"),
    ("sft", {"lora_r": 0, "lora_dropout": 0.1}, "lora_dropout"),
    ("sft", {"use_4bit": False, "bnb_4bit_quant_type": "nf4"}, "bnb_4bit_quant_type"),
    ("sft", {"use_double_quant": True}, "use_double_quant"),
    ("qlora", {"use_4bit": False, "bnb_4bit_quant_type": "fp4"}, "bnb_4bit_quant_type"),
    ("sft", {"lr_scheduler_type": "constant", "warmup_steps": 5}, "warmup_steps"),
    ("dpo", {"lr_scheduler_type": "constant", "warmup_ratio": 0.1}, "warmup_ratio"),
    ("sft", {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"a": 1}},
     "lr_scheduler_kwargs"),
    ("sft", {"save_strategy": "epoch", "save_steps": 5}, "save_steps"),
    ("sft", {"save_strategy": "no", "save_total_limit": 2}, "save_total_limit"),
    ("sft", {"eval_strategy": "no", "eval_steps": 5}, "eval_steps"),
    ("sft", {"eval_strategy": "epoch", "eval_steps": 5}, "eval_steps"),
    ("sft", {"metric_for_best_model": "loss"}, "metric_for_best_model"),
    ("sft", {"eval_delay": 5}, "eval_delay"),
    ("sft", {"logging_strategy": "epoch", "logging_steps": 5}, "logging_steps"),
    ("sft", {"gradient_checkpointing": False,
             "gradient_checkpointing_kwargs": {"use_reentrant": True}},
     "gradient_checkpointing_kwargs"),
    ("sft", {"optim": "adafactor", "adam_beta1": 0.8}, "adam_beta1"),
    ("sft", {"optim": "sgd", "adam_epsilon": 1e-6}, "adam_epsilon"),
    ("sft", {"optim_args": "a=1"}, "optim_args"),
    ("sft", {"optim_target_modules": ["q_proj"]}, "optim_target_modules"),
    ("sft", {"loss_type": "dft", "label_smoothing_factor": 0.1}, "label_smoothing_factor"),
    ("sft", {"length_column_name": "n"}, "length_column_name"),
    ("sft", {"dataloader_persistent_workers": True}, "dataloader_persistent_workers"),
    ("sft", {"prediction_loss_only": True}, "prediction_loss_only"),
    ("dpo", {"liger_kernel_config": {"rope": True}}, "liger_kernel_config"),
    ("sft", {"hub_model_id": "a/b"}, "hub_model_id"),
    ("sft", {"project": "mine"}, "project"),
    ("sft", {"packing_strategy": "wrapped"}, "packing_strategy"),
    ("dpo", {"disable_dropout": True, "lora_dropout": 0.1}, "lora_dropout"),
    ("ppo", {"lora_dropout": 0.1}, "lora_dropout"),
    ("dpo", {"f_alpha_divergence_coef": 0.7}, "f_alpha_divergence_coef"),
    ("dpo", {"precompute_ref_batch_size": 2}, "precompute_ref_batch_size"),
    ("dpo", {"ref_model_sync_steps": 64}, "ref_model_sync_steps"),
    ("dpo", {"label_smoothing": 0.1}, "label_smoothing"),
    ("dpo", {"discopop_tau": 0.1}, "discopop_tau"),
    ("grpo", {"sapo_temperature_pos": 2.0}, "sapo_temperature_pos"),
    ("grpo", {"vespo_k_pos": 3.0}, "vespo_k_pos"),
    ("grpo", {"vllm_mode": "server"}, "vllm_mode"),
    ("grpo", {"entropy_target": 1.0}, "entropy_target"),
    ("grpo", {"use_bias_correction_kl": True}, "use_bias_correction_kl"),
    ("grpo", {"num_completions_to_print": 3}, "num_completions_to_print"),
    ("sft", {"task": "summarization"}, "task"),
    ("dpo", {"model_revision": "v1"}, "model_revision"),
    ("reward", {"constraints": [{"name": "a", "banned": ["x"]}]}, "constraints"),
]  # fmt: skip


@pytest.mark.parametrize(("strategy", "values", "key"), HIDDEN)
def test_a_key_that_another_leaves_without_effect_is_refused(place, strategy, values, key):
    (found,) = problems(place, strategy, **values)
    assert found.startswith(f"config: {key}: has no effect") and "→ " in found


def test_each_rule_has_a_case():
    cases = {key for _, _, key in HIDDEN} | {"warmup_ratio", "num_train_epochs"}
    for rule in RULES:
        stems = [key.removesuffix("*") for key in rule.keys.split()]
        assert any(case.startswith(stem) for case in cases for stem in stems), rule.keys


def test_a_default_without_effect_is_neither_chosen_nor_written_down(place):
    found = resolve(config(place, lora_r=0, max_steps=4, save_strategy="no", warmup_steps=2))
    idle = {"lora_alpha", "lora_dropout", "lora_target_modules", "bnb_4bit_quant_type",
            "use_double_quant", "num_train_epochs", "save_steps", "save_total_limit",
            "warmup_ratio"}  # fmt: skip
    assert not idle & set(found.config.choices)
    written = recorded(found.config, found.strategy)
    assert not {key for key in idle if written.get(key)}
    # What is written down trains the same run again.
    again = resolve(load_config(written))
    assert recorded(again.config, again.strategy) == written


# --- defaults make way ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ({"eval_steps": 5}, {"eval_strategy": "steps", "save_steps": 0.1}),
        (BEST | {"eval_strategy": "steps", "eval_steps": 5}, {"save_steps": 5}),
        (BEST | {"eval_steps": 5}, {"eval_strategy": "steps", "save_steps": 5}),
        (BEST, {"eval_strategy": "steps", "eval_steps": 0.1, "save_steps": 0.1}),
        (BEST | {"save_steps": 6}, {"eval_strategy": "steps", "eval_steps": 6}),
        (BEST | {"save_steps": 6, "eval_steps": 3}, {"eval_strategy": "steps"}),
        (BEST | {"eval_strategy": "epoch"}, {"save_strategy": "epoch", "save_steps": None}),
        (BEST | {"save_strategy": "epoch"}, {"eval_strategy": "epoch", "save_steps": None}),
        (BEST | {"save_strategy": "best", "eval_steps": 5}, {"save_steps": None}),
        ({"save_strategy": "best"}, {"eval_strategy": "steps", "eval_steps": 0.1}),
        ({"lr_scheduler_type": "reduce_lr_on_plateau"}, {"eval_strategy": "steps"}),
    ],
)
def test_evaluating_and_saving_follow_from_what_the_user_said(place, said, holds):
    prepared = prepare(config(place, max_steps=12, **said))
    assert all(prepared.config.get(key) == value for key, value in (said | holds).items())
    chosen = prepared.config.choices
    assert all(chosen[k].reason for k, v in holds.items() if v is not None)
    if said.get("load_best_model_at_end"):
        assert prepared.args.metric_for_best_model == "eval_loss"
        assert prepared.args.greater_is_better is False


@pytest.mark.parametrize(
    ("said", "says"),
    [
        (BEST | {"eval_strategy": "no"}, ["load_best_model_at_end", "eval_strategy is no"]),
        (BEST | {"eval_strategy": "epoch", "save_steps": 5}, ["save_steps 5", "leave one"]),
        (BEST | {"save_steps": 7, "eval_steps": 5}, ["7 and 5", "leave save_steps out"]),
        (BEST | {"save_steps": 0.5, "eval_steps": 5}, ["0.5 and 5"]),
        (BEST | {"eval_steps": 50}, ["max_steps 12 ends before eval_steps 50"]),
        (BEST | {"eval_steps": 2, "greater_is_better": True}, ["less is better of eval_loss"]),
        (BEST | {"eval_split": 0}, ["load_best_model_at_end", "no held-out rows"]),
        ({"eval_strategy": "epoch", "eval_split": 0}, ["eval_strategy", "no held-out rows"]),
        ({"eval_on_start": True, "eval_split": 0}, ["eval_on_start", "no held-out rows"]),
    ],
)
def test_what_cannot_be_evaluated_as_asked_is_said_in_the_users_own_keys(place, said, says):
    text = "\n".join(problems(place, **{"max_steps": 12} | said))
    assert all(words in text for words in says) and "save_steps 0.1" not in text


@pytest.mark.parametrize(
    ("strategy", "metric", "greater"),
    [
        ("sft", "eval_loss", False),
        ("reward", "eval_accuracy", True),
        ("grpo", "eval_reward", True),
        ("ppo", "eval_reward", True),
    ],
)
def test_the_best_model_is_the_best_by_the_strategys_own_figure(place, strategy, metric, greater):
    args = prepare(config(place, strategy, max_steps=12, **BEST)).args
    assert (args.metric_for_best_model, args.greater_is_better) == (metric, greater)


def test_the_worst_model_is_not_kept_for_the_best_by_another_figure(place):
    """transformers takes more for better of each figure whose name does not end in loss."""
    figure = {"metric_for_best_model": "eval_rewards/rejected", "max_steps": 12}
    for said, greater in (({}, False), ({"greater_is_better": True}, True)):
        found = resolve(config(place, "dpo", **BEST, **figure, **said)).config
        assert found.get("greater_is_better") is greater


def test_a_refusal_of_trls_says_which_of_its_values_are_not_the_users(place):
    six = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 1}
    six["steps_per_generation"] = 1
    found = resolve(config(place, "grpo", **six))
    with pytest.raises(ConfigError) as caught:
        found.strategy.build_args(found.config, output_dir=place, device={"use_cpu": True})
    assert "num_generations 4" not in str(caught.value)  # that one is
    with pytest.raises(ConfigError, match=r"num_generations 8 is not yours but chosen \(as grpo"):
        found = resolve(config(place, "rloo", **six))
        found.strategy.build_args(found.config, output_dir=place, device={"use_cpu": True})


def test_quantisation_that_only_a_default_asks_for_makes_way(place):
    assert resolved(place, lora_r=0, hardware_profile="low").settings.use_4bit is False
    found = resolved(place, "qlora", use_8bit=True, hardware_profile="low")
    assert found.choices["use_4bit"].reason == "use_8bit is set"


@pytest.mark.parametrize("strategy", ["dpo", "reward"])
def test_the_adapters_dropout_that_was_asked_for_stays_on(place, strategy):
    assert resolved(place, strategy, lora_dropout=0.1).get("disable_dropout") is False
    assert resolved(place, strategy).get("disable_dropout") is None
    kwargs = {"gradient_checkpointing_kwargs": {"use_reentrant": True}}
    assert resolved(place, strategy, **kwargs).get("gradient_checkpointing") is True


# --- an adapter that is trained further ----------------------------------------------------------


@pytest.fixture(scope="module")
def adapter(place):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(TINY / "model")
    shape = LoraConfig(r=4, lora_alpha=12, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
    shape.task_type = "CAUSAL_LM"
    get_peft_model(model, shape).save_pretrained(place / "adapter")
    return str(place / "adapter")


def test_the_adapters_own_shape_is_recorded_planned_and_kept(place, adapter):
    found = resolved(place, model_name=adapter, hardware_profile="high")
    own = {"lora_r": 4, "lora_alpha": 12, "lora_dropout": 0.05,
           "lora_target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    for key, value in own.items():
        choice = found.choices[key]
        assert (choice.value, choice.source) == (value, "adapter") and adapter in choice.reason
        assert found.get(key) == value
    fitted, planned = fit_to_card(found, budget_gb=6)
    assert planned.settings["lora_r"] == fitted.settings.lora_r == 4


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ({"lora_r": 64}, "4"),
        ({"lora_r": 0}, "4"),
        ({"lora_alpha": 16}, "12"),
        ({"lora_dropout": 0.0}, "0.05"),
        ({"lora_target_modules": ["q_proj"]}, "['q_proj', 'v_proj']"),
        ({"lora_target_modules": "all-linear"}, "['q_proj', 'v_proj']"),
    ],
)
def test_another_shape_than_the_adapters_is_refused(place, adapter, said, own):
    (found,) = problems(place, model_name=adapter, **said)
    (key,) = said
    assert found.startswith(f"config: {key}: ") and f"has {own}" in found and "base" in found


def test_the_same_shape_said_again_is_taken(place, adapter):
    same = {"lora_r": 4, "lora_target_modules": ["v_proj", "q_proj"]}
    assert resolved(place, model_name=adapter, **same).choices["lora_r"].source == "config"
    path = Path(adapter) / "adapter_config.json"
    shape = json.loads(path.read_text())
    every = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    path.write_text(json.dumps(shape | {"target_modules": every}))
    try:
        said = {"lora_target_modules": "all-linear"}
        assert resolved(place, model_name=adapter, **said).settings.lora_alpha == 12
    finally:
        path.write_text(json.dumps(shape))


def test_the_warm_up_really_happens(place):
    from modelforge.training.run import build_trainer, load

    said = {"warmup_steps": 8, "lr_scheduler_type": "constant_with_warmup", "learning_rate": 1e-3}
    prepared = prepare(config(place, max_steps=10, report_to="none", **said))
    trainer = build_trainer(prepared, load(prepared))
    trainer.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(10):
        rates += trainer.lr_scheduler.get_last_lr()[:1]
        trainer.lr_scheduler.step()
    assert all(math.isclose(r, min(i / 8, 1) * 1e-3) for i, r in enumerate(rates))


def test_a_run_that_ends_in_its_warm_up_is_warned_of(place, capsys):
    prepare(config(place, max_steps=3, warmup_steps=20, learning_rate=1e-3))
    said = " ".join(capsys.readouterr().err.split())
    assert "3 steps of training, and the warm-up takes 20" in said and "higher than 0.0001," in said
    prepare(config(place, max_steps=3, warmup_steps=2))
    assert "the warm-up takes" not in capsys.readouterr().err


def test_rows_that_make_up_no_batch_are_refused_where_the_last_one_is_left_out(place, capsys):
    from modelforge.training.prepare import refuse_no_step

    said = {"dataloader_drop_last": True, "max_steps": 3}
    refuse_no_step(prepare(config(place, per_device_train_batch_size=8, **said)))
    assert "leaves out" not in capsys.readouterr().err
    prepare(config(place, per_device_train_batch_size=6, **said))
    assert "leaves out 2 of the rows, since a batch takes 6" in capsys.readouterr().err
    steps = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 1, "max_steps": 3}
    prepare(config(place, "grpo", **steps))
    assert "leaves out 2 of the rows, since a rollout takes 3" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="8 rows make up none of 16"):
        refuse_no_step(prepare(config(place, per_device_train_batch_size=16, **said)))


# --- what needs no library to be told -------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"eval_steps": 5, "eval_strategy": "epoch"}, "eval_steps"),
        ({"strategy": "grpo", "vllm_mode": "colocate"}, "vllm_mode"),
        ({"strategy": "dpo", "lora_dropout": 0.1, "disable_dropout": True}, "lora_dropout"),
        ({"strategy": "rlhf", "algorithm": "grpo", "use_bias_correction_kl": True}, "use_bias"),
        ({"hub_strategy": "end"}, "hub_strategy"),
        ({"lora_r": 0, "lora_alpha": 8}, "lora_alpha"),
        ({"load_best_model_at_end": True, "eval_steps": 4, "save_steps": 6}, "load_best_model"),
    ],
)
def test_check_of_the_config_alone_sees_the_keys_without_effect(values, key, tmp_path, command):
    path = tmp_path / "c.json"
    said = {"strategy": "sft", "model_name": "no/model", "dataset": "no.jsonl"}
    path.write_text(json.dumps(said | values))
    code, _, told = command("check", path, "--config-only")
    assert code == 2 and f"c.json: {key}" in told


def test_check_of_the_config_alone_loads_no_library(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"strategy": "grpo", "model_name": "m", "dataset": "no.jsonl"}))
    code = (
        "import sys; from modelforge.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'trl', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, "check", str(path), "--config-only"],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "values",
    [
        {"eval_steps": 5},  # eval_strategy follows
        {"gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"bnb_4bit_quant_type": "fp4"},  # on the smallest cards
        {"load_best_model_at_end": True, "metric_for_best_model": "loss"},
        {"strategy": "dpo", "lora_dropout": 0.1},
    ],
)
def test_what_counts_on_some_machine_is_left_to_it(values, tmp_path, command):
    path = tmp_path / "c.json"
    said = {"strategy": "sft", "model_name": "no/model", "dataset": "no.jsonl"}
    path.write_text(json.dumps(said | values))
    assert command("check", path, "--config-only")[0] == 0


# --- what a key needs of the machine --------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"debug": "tpu_metrics_debug"}, "debug: .*torch_xla.* not installed.*pip install"),
        ({"debug": ["underflow_overflow", "tpu_metrics_debug"]}, "debug: .*torch_xla"),
        ({"torch_compile_backend": "inductr"}, "torch_compile_backend: 'inductr' .*inductor"),
        ({"torch_compile": True, "torch_compile_backend": "tvm"}, "apache-tvm"),
        ({"push_to_hub": True}, "push_to_hub: needs the hub: HF_HUB_OFFLINE"),
        ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "hub_model_id: 'a/b/c' can be no name"),
    ],
)
def test_what_a_key_needs_and_the_machine_lacks_is_refused_before_loading(place, values, says):
    with pytest.raises(UserError, match=says):
        resolved(place, **values)


def test_pushing_needs_an_account(place, monkeypatch):
    monkeypatch.setattr("modelforge.machine.packages.why_offline", lambda: ("", ""))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="nobody is logged in → run `hf auth login`"):
        resolved(place, push_to_hub=True)
