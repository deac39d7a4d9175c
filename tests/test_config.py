"""Reading, checking and layering the config."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge import ConfigError, load_config
from modelforge.config import Choice

CASES = Path(__file__).parents[2] / "shared" / "cases"

MINIMAL = {"strategy": "sft", "model_name": "org/model", "dataset": "data.jsonl"}

MID = {
    "strategy": "dpo",
    "task": "text-generation",
    "model_name": "meta-llama/Llama-3.1-8B-Instruct",
    "dataset": "/path/to/preference-data.jsonl",
    "provider": "huggingface",
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "learning_rate": 1.41e-5,
    "lora_r": 16,
    "lora_alpha": 32,
    "use_4bit": True,
    "bf16": True,
    "max_seq_length": 2048,
    "warmup_ratio": 0.1,
    "eval_split": 0.1,
}


def problems(source, overrides=()):
    with pytest.raises(ConfigError) as caught:
        load_config(source, overrides=overrides)
    return [str(problem) for problem in caught.value.problems]


def test_all_errors_come_at_once_with_their_keys_and_the_nearest_name():
    found = problems(MINIMAL | {"learning_rat": 1e-4, "lora_r": "eight", "optim": "adamw_torc"})
    assert len(found) == 3
    assert (
        "config: learning_rat: is not a key of this strategy → did you mean 'learning_rate'?"
        in (found)
    )
    assert 'config: lora_r: is "eight" → set a whole number of at least 0' in found
    assert any("optim" in line and "adamw_torch" in line for line in found)


def test_nested_errors_name_their_path():
    found = problems(
        {"strategy": "grpo", "model_name": "m", "dataset": [{"path": "a", "weight": 0}]}
        | {"generation": {"max_new_tokns": 8}}
    )
    assert any(line.startswith("config: dataset[0].weight") for line in found)
    assert any("generation.max_new_tokns" in line and "max_new_tokens" in line for line in found)


@pytest.mark.parametrize(
    ("dataset", "where"),
    [
        ([], "dataset"),
        ([{"weight": 1}], "dataset[0].path"),
        ([{"path": "a"}, {"path": "b", "wait": 1}], "dataset[1].wait"),
    ],
)
def test_sources_of_a_mixture_are_checked_with_the_config(dataset, where):
    (found,) = problems({"strategy": "sft", "model_name": "m", "dataset": dataset})
    assert found.startswith(f"config: {where}")


@pytest.mark.parametrize("strategy", ["sft", "qlora", "reward", "dpo", "grpo"])
@pytest.mark.parametrize("size", ["mid", "high"])
def test_the_two_published_configs_validate_with_every_strategy(strategy, size):
    high = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "lora_r": 64}
    config = load_config(MID | {"strategy": strategy} | (high if size == "high" else {}))
    assert config.settings.max_seq_length == 2048
    assert config.get("gradient_accumulation_steps") == (4 if size == "high" else 8)


def test_set_wins_over_the_file_and_reaches_into_sections(tmp_path):
    path = tmp_path / "grpo.json"
    path.write_text(json.dumps(MINIMAL | {"strategy": "grpo", "seed": 1}))
    config = load_config(path, overrides=["seed=7", "generation.top_p=0.9", "run_name=a"])
    assert config.settings.seed == 7 and config.choices["seed"].source == "--set"
    assert config.get("generation").top_p == 0.9
    assert config.settings.run_name == "a"
    assert config.base_dir == tmp_path


def test_defaults_fill_only_what_is_open_and_keep_their_reason():
    config = load_config(MINIMAL | {"lora_r": 4})
    filled = config.with_defaults(
        {"lora_r": Choice(64, "profile"), "seed": Choice(3, "profile", "x")}
    )
    assert filled.settings.lora_r == 4 and filled.settings.seed == 3
    assert filled.choices["seed"].reason == "x" and not filled.given("seed")


def test_yaml_reads_exponents_as_numbers(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("strategy: sft\nmodel_name: m\ndataset: d\nlearning_rate: 2e-4\n")
    assert load_config(path).trl["learning_rate"] == 2e-4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"strategy": "sft",}', "not valid JSON"),
        ("{'strategy': 'sft'}", "double quotes"),
        ('{"seed": 1, "seed": 2}', "stands twice"),
        ("[1]", "does not hold one object"),
        ("", "not valid JSON"),
        ('{"strategy": "sft", "model_name": "m", "dataset": "d", "seed": 1e999}', "finite"),
        ('{"strategy": "sft", "model_name": "m", "dataset": "d", "warmup_ratio": NaN}', "finite"),
    ],
)
def test_broken_files_say_what_is_wrong(tmp_path, text, says):
    path = tmp_path / "c.json"
    path.write_text(text)
    assert any(says in line for line in problems(path))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"use_4bit": True, "use_8bit": True}, "keep one"),
        ({"lora_r": 0, "use_4bit": True}, "cannot be trained"),
        ({"max_length": 512}, "set max_seq_length"),
        ({"warmup_ratio": 0.1, "warmup_steps": 5}, "only one of the two"),
        ({"max_steps": 5, "num_train_epochs": 2}, "only one of the two"),
        ({"max_steps": 0}, "trains nothing"),
        ({"save_only_model": True}, "all that a resume needs"),
        ({"deepspeed": "d.json", "distributed": {"backend": "zero2"}}, "distributed.config"),
        ({"distributed": {"config": "d.json"}}, "backend is ddp"),
        (
            {"strategy": "sft", "provider": "unsloth", "attn_implementation": "eager"},
            "attention kernels of its own",
        ),
        ({"activation_checkpointing": True}, "set gradient_checkpointing"),
        ({"bf16_full_eval": True}, "as training computes"),
        ({"auto_find_batch_size": True}, "by itself"),
        ({"strategy": "dpo", "label_smoothing_factor": 0.1}, "set label_smoothing"),
        ({"strategy": "grpo", "train_sampling_strategy": "group_by_length"}, "does not look at"),
        ({"strategy": "ppo", "scale_rewards": "group"}, "set ppo.reward_normalization"),
        ({"strategy": "ppo", "ppo": {"kl_coef": 0, "kl_target": 6}}, "0 stays 0"),
        ({"completion_only_loss": False}, "trained on"),
        ({"assistant_only_loss": True}, "trained on"),
        ({"truncation_mode": "keep_end"}, "cut at their end"),
        ({"strategy": "rlhf", "stages": ["ppo"], "min_reward_accuracy": 0.6}, "does not run"),
        ({"bf16": True, "fp16": True}, "keep one"),
        ({"eval_dataset": "e.jsonl", "eval_split": 0.1}, "keep one"),
        ({"provider": "unsloth", "lora_r": 0}, "trains all weights"),
        ({"hub_token": "hf_x"}, "no secrets"),
        ({"use_cpu": True}, "hardware_profile"),
        ({"distributed": {"num_machines": 2}}, "do not go into 2 equal machines"),
        ({"distributed": {"num_machines": 2, "num_processes": 2}}, "2 machines meet there"),
        ({"distributed": {"machine_rank": 1}}, "the last is 0"),
    ],
)
def test_what_cannot_stand_together_is_refused(values, says):
    assert any(says in line for line in problems(MINIMAL | values))


@pytest.mark.parametrize(
    ("values", "over", "left"),
    [
        ({"num_train_epochs": 3}, "max_steps=6", {"max_steps": 6}),
        ({"max_steps": 6}, "num_train_epochs=2", {"num_train_epochs": 2}),
        ({"max_steps": 6}, "max_steps=-1", {"max_steps": -1}),
        ({"num_train_epochs": 3}, "max_steps=-1", {"num_train_epochs": 3, "max_steps": -1}),
        ({"warmup_ratio": 0.1}, "warmup_steps=7", {"warmup_steps": 7}),
        ({"warmup_steps": 7}, "warmup_ratio=0", {"warmup_steps": 7, "warmup_ratio": 0}),
        ({"eval_dataset": "e.jsonl"}, "eval_split=0.2", {"eval_split": 0.2}),
        ({"use_8bit": True}, "use_4bit=true", {"use_4bit": True}),
    ],
)
def test_set_takes_the_place_of_a_key_that_says_the_same_in_another_way(values, over, left):
    assert dict(load_config(MINIMAL | values, overrides=[over]).said) == MINIMAL | left


def test_strategy_missing_misspelt_and_of_the_wrong_type():
    assert "is missing" in problems({"stratgy": "sft"})[0]
    assert "did you mean 'qlora'?" in problems(MINIMAL | {"strategy": "qlroa"})[0]
    assert "is not a name" in problems(MINIMAL | {"strategy": 3})[0]


def test_a_portable_config_names_its_files_wherever_it_lies(tmp_path):
    for name in ("data.jsonl", "rewards.py"):
        (tmp_path / name).write_text("def score(completions, **kwargs): return []\n")
    path = tmp_path / "c.json"
    rewards = ["rewards.py:score", {"name": "exact_match"}]
    path.write_text(json.dumps(MINIMAL | {"strategy": "grpo", "rewards": rewards}))
    portable = load_config(path).portable()
    assert portable["dataset"] == str(tmp_path / "data.jsonl")
    assert portable["rewards"][0] == f"{tmp_path / 'rewards.py'}:score"
    assert portable["rewards"][1]["name"] == "exact_match"
    assert portable["model_name"] == "org/model"
    load_config(portable)


@given(st.text(max_size=200))
def test_any_text_as_a_file_gives_a_config_error_or_a_config(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "c.json"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(ConfigError):
        load_config(path)


def test_help_and_a_config_with_a_typo_import_no_torch(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(MINIMAL | {"learnin_rate": 1}))
    program = (
        "import sys\nfrom modelforge.cli.main import main\nsys.argv = {argv!r}\ncode = None\n"
        "try:\n    main()\nexcept SystemExit as error:\n    code = error.code\n"
        "heavy = [m for m in ('torch', 'transformers', 'trl', 'datasets', 'peft') "
        "if m in sys.modules]\nassert not heavy, heavy\nassert code == {code}, code\n"
    )
    for argv, code in (["modelforge", "--help"], 0), (["modelforge", "check", str(path)], 2):
        done = subprocess.run(
            [sys.executable, "-c", program.format(argv=argv, code=code)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert "learning_rate" in done.stderr


def test_a_run_gone_on_with_elsewhere_finds_every_file_beside_its_config(tmp_path, monkeypatch):
    for folder in ("judge", "scorer", "elsewhere", "runs/mine"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("pairs.jsonl", "more.jsonl", "own.jinja", "zero.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "judge" / "config.json").write_text(
        '{"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}'
    )
    shutil.copy(tmp_path / "judge" / "config.json", tmp_path / "scorer")
    path = tmp_path / "c.json"
    values = {
        "strategy": "rlhf",
        "model_name": "org/model",
        "dataset": [{"path": "pairs.jsonl"}, {"path": "more.jsonl"}],
        "chat_template": "own.jinja",
        "reward_model": [{"name": "scorer"}],
        "judge_model": "judge",
        "distributed": {"backend": "zero2", "config": "zero.json"},
        "stages": ["reward", "ppo"],
        "reward_stage": {"chat_template": "own.jinja"},
        "output_dir": "runs",
    }
    path.write_text(json.dumps(values))
    config = load_config(path)
    run = tmp_path / "runs" / "mine"
    (run / "choices.json").write_text(json.dumps({"said": config.request()}))
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = load_config(run)
    at = str(tmp_path)
    assert again.settings.judge_model == f"{at}/judge"
    assert again.settings.distributed.config == f"{at}/zero.json"
    assert [source.path for source in again.settings.dataset] == [
        f"{at}/pairs.jsonl",
        f"{at}/more.jsonl",
    ]
    assert again.settings.chat_template == f"{at}/own.jinja"
    assert again.settings.reward_model[0].name == f"{at}/scorer"
    assert again.settings.reward_stage == {"chat_template": f"{at}/own.jinja"}
    assert config.portable()["judge_model"] == f"{at}/judge"
    # Where runs go is said of the working folder, not of the config's.
    assert (
        config.request()["output_dir"] == "runs" and config.request()["model_name"] == "org/model"
    )


@pytest.mark.parametrize(
    "key", ["model_name", "judge_model", "reward_model", "output_dir", "resume"]
)
def test_a_path_that_no_system_knows_is_refused_wherever_it_stands(key):
    values = MINIMAL | {"strategy": "grpo", key: "~nobody-of-that-name/x"}
    assert problems(values) == [f"config: {key}: there is no user ~nobody-of-that-name"]
    assert "longer than a path can be" in problems(values | {key: "x" * 300})[0]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("base_model", "m", "here it is model_name"),
        ("sequence_len", 512, "here it is max_seq_length"),
        ("use_peft", True, "here it is lora_r"),
        ("micro_batch_size", 2, "here it is per_device_train_batch_size"),
        ("val_set_size", 0.1, "here it is eval_split"),
        ("early_stopping_patience", 3, "here it is early_stopping.patience"),
        ("learning_rat", 1e-4, "did you mean 'learning_rate'?"),
    ],
)
def test_the_keys_of_other_trainers_lead_to_ours(key, value, told):
    (found,) = problems({**MINIMAL, key: value})
    assert found.startswith(f"config: {key}: is not a key") and told in found


def test_what_is_told_of_other_trainers_keys_are_keys():
    from modelforge.configfile import peers, schema
    from modelforge.registry import get_strategy, list_strategies

    known = {k for name in list_strategies() for k in schema.load(get_strategy(name))["properties"]}
    for table in map(peers.table, peers.PROJECTS):
        for theirs in (*table.renamed, *table.valued, *table.converted, *table.by_hand):
            told = table.advice(theirs).removeprefix("here it is ")
            first = re.split(r"[ ,.\[/]", told)[0]
            assert first in known or told.startswith(("its keys", "environment")) or not told, (
                theirs
            )


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder of real configs")
def test_the_keys_of_716_configs_of_other_trainers_lead_to_ours_or_nowhere():
    from modelforge.configfile import schema
    from modelforge.registry import get_strategy, list_strategies

    known = {k for name in list_strategies() for k in schema.load(get_strategy(name))["properties"]}
    told: dict[str, set[str]] = {}
    for keys in json.loads((CASES / "config_map.json").read_text()).values():
        for key, entry in keys.items() if isinstance(keys, dict) else ():
            if isinstance(entry, dict) and entry.get("count", 0) > 1 and "." not in key:
                told.setdefault(key, set()).update({entry["ours"]} - {None})
    assert len(told) > 300
    config = {**MINIMAL, **dict.fromkeys(set(told) - known - set(schema.OWNED), 1)}
    for problem in schema.validate(config, get_strategy("sft"), where="c"):
        key = problem.where.partition(": ")[2]
        heads = {re.split(r"[^a-z0-9_]", ours)[0] for ours in told[key]}
        if heads and not any(head in problem.fix for head in heads):
            raise AssertionError((key, heads, problem.fix))
        assert problem.fix and (heads or not problem.fix.startswith("did you")), key


@pytest.mark.skipif(not CASES.is_dir(), reason="needs the folder of real configs")
def test_the_first_answer_to_another_trainers_config_is_the_one_command():
    for path in sorted((CASES / "peer_configs").glob("*.y*ml")):
        (told,) = problems(path)
        assert "is a config of " in told and f"modelforge init --from {path}" in told


def test_a_config_without_a_strategy_shows_all_that_is_wrong_with_it():
    found = problems({"model_name": "m", "base_model": "m", "lora_r": -1, "num_generations": 4})
    told = "\n".join(found)
    for part in ("strategy: is missing", "dataset: is missing", "base_model: ", "lora_r: is -1"):
        assert part in told
    assert "num_generations" not in told  # a key of grpo's
    assert any("lora_r" in line for line in problems({**MINIMAL, "strategy": "sftt", "lora_r": -1}))


def test_null_and_auto_leave_a_key_open():
    said = {"bf16": "auto", "lora_r": None, "learning_rate": None, "eval_split": None}
    over = ["fp16=auto", "max_seq_length=null"]
    config = load_config({**MINIMAL, "max_seq_length": 64, **said}, overrides=over)
    assert not any(config.given(key) for key in ("bf16", "fp16", "lora_r", "max_seq_length"))
    assert config.settings.lora_r == 16 and config.settings.max_seq_length == 2048
