"""Presets: every strategy for every card and family, and the pipelines."""

import json
import shlex
from pathlib import Path

import pytest

from modelforge import ConfigError, list_profiles, load_config
from modelforge.configfile.presets import write_pipeline, write_preset
from modelforge.configfile.starts import PROFILES, Asked, all_starts, pipeline, start, starts
from modelforge.plan.architectures import _preset as shipped
from modelforge.registry import STRATEGIES

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "examples" / "tiny" / "model")


def test_there_is_a_preset_of_each_strategy_for_each_card():
    table = starts()
    assert sorted(table["strategies"]) == sorted(STRATEGIES)
    assert sorted(PROFILES) == sorted(profile.name for profile in list_profiles())
    found = {(strategy, asked.profile) for strategy, asked in all_starts()}
    assert found == {(strategy, profile) for strategy in STRATEGIES for profile in PROFILES}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_preset_is_a_config_without_a_word_too_many(strategy):
    for size, profile in (("demo", None), ("prototype", "low"), ("full", "high")):
        config = start(strategy, Asked(None, profile, size)) | {"dataset": "d.jsonl"}
        assert load_config(config).settings.strategy == strategy
        # What is learned follows from the model and the data, and not from the card.
        assert not {"learning_rate", "lora_r"} & set(config)
        assert size == "demo" or "per_device_train_batch_size" not in config


def test_a_stage_before_its_model_is_trained_says_so(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_pipeline("sft-dpo", None, Asked())
    code, _, err = command("check", "sft-dpo/2-dpo.json", "-q")
    assert code == 2 and "runs/1-sft: there is no such run yet" in err and "cache" not in err


@pytest.mark.parametrize("strategy", ["sft", "kto", "grpo", "ppo", "distill"])
def test_a_demo_takes_several_steps_of_its_ten_rows(strategy, tmp_path, command):
    (written,) = [write_preset(strategy, tmp_path / "demo.json", asked=Asked(size="demo"))]
    keys = {"model_name", "teacher_model"} & set(json.loads(written.config.read_text()))
    tiny = [word for key in sorted(keys) for word in ("--set", f"{key}={TINY}")]
    code, out, err = command("check", written.config, "--json", *tiny)
    assert code == 0, err
    choices = json.loads(out)["choices"]["choices"]
    prompts = choices.get("prompts_per_step", {}).get("value") or 2
    assert json.loads(out)["data"]["train_rows"] // prompts * 2 >= 4
    assert "no higher than 0" not in err


def test_a_card_of_the_next_size_gets_a_larger_model_and_a_pupil_a_larger_teacher():
    for strategy, asked in all_starts():
        config = start(strategy, asked)
        models = starts()["families"][asked.family].values()
        assert config["model_name"] in models
        if strategy == "distill":
            pupil, teacher = config["model_name"], config["teacher_model"]
            assert list(models).index(pupil) < list(models).index(teacher)
            # Another vocabulary is refused when it runs: the two are of one list of the table.
            assert any({pupil, teacher} <= set(group) for group in starts()["one_vocabulary"])
            rows = [shipped(model)["config"]["vocab_size"] for model in (pupil, teacher)]
            assert rows[0] <= rows[1], (pupil, teacher)
    large, small = (start(s, Asked("qwen3", "high"))["model_name"] for s in ("sft", "grpo"))
    assert (large, small) == ("Qwen/Qwen3-8B", "Qwen/Qwen3-4B")


def test_models_of_one_vocabulary_are_in_the_table_once_and_of_one_family():
    families = [set(sizes.values()) for sizes in starts()["families"].values()]
    groups = starts()["one_vocabulary"]
    assert all(any(set(group) <= family for family in families) for group in groups)
    named = [model for group in groups for model in group]
    assert len(named) == len(set(named))


@pytest.mark.parametrize(
    ("family", "profile", "pupil", "teacher"),
    [
        ("gemma", "cpu", "google/gemma-3-270m-it", "google/gemma-3-1b-it"),
        ("gemma", "max", "google/gemma-3-270m-it", "google/gemma-3-1b-it"),
        ("smollm", "high", "SmolLM2-360M-Instruct", "SmolLM2-1.7B-Instruct"),
        ("llama", "low", "Llama-3.2-1B-Instruct", "Llama-3.2-3B-Instruct"),
        ("qwen3", "max", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B"),
    ],
)
def test_where_the_next_size_has_another_vocabulary_a_smaller_pair_is_taken(
    family, profile, pupil, teacher
):
    asked = Asked(family, profile)
    config = start("distill", asked)
    assert config["model_name"].endswith(pupil) and config["teacher_model"].endswith(teacher)
    stages = pipeline("distil", asked)
    assert stages["1-sft"]["model_name"] == config["teacher_model"]
    assert stages["2-distill"]["model_name"] == config["model_name"]


def test_the_shape_of_every_model_ships_so_that_it_is_planned_without_the_hub():
    models = {model for sizes in starts()["families"].values() for model in sizes.values()}
    assert all(shipped(model) for model in models)


@pytest.mark.parametrize("name", starts()["pipelines"])
def test_the_stages_of_a_pipeline_lead_to_each_other(name, tmp_path):
    written = write_pipeline(name, tmp_path / name, Asked())
    made = {TINY}
    for config, data, _ in written:
        values = json.loads(config.read_text())
        for key in ("model_name", "reward_model", "teacher_model"):
            if str(values.get(key, "")).startswith("runs/"):
                assert values[key].removeprefix("runs/") in made, (config, key)
        assert load_config(config).settings.dataset == data.name and data.is_file()
        made.add(values["run_name"])


def test_init_writes_presets_and_pipelines(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command(*shlex.split("init dpo --family llama --profile high --json"))
    told = json.loads(out)
    assert code == 0 and told["configs"] == ["dpo.json"] and told["data"] == ["preferences.jsonl"]
    assert told["next"][-1] == "modelforge train dpo.json"
    config = json.loads(Path("dpo.json").read_text())
    assert config["model_name"] == "meta-llama/Llama-3.1-8B-Instruct"
    assert config["hardware_profile"] == "high"
    code, out, _ = command(*shlex.split("init sft-reward-ppo --size prototype --yaml"))
    assert code == 0 and "cd sft-reward-ppo" in out and "modelforge train 3-ppo.yaml" in out
    ppo = load_config(tmp_path / "sft-reward-ppo" / "3-ppo.yaml")
    assert ppo.settings.reward_model == "runs/2-reward" and ppo.settings.max_samples == 1000
    assert command("init", "sft-reward-ppo", "--yaml")[0] == 2  # nothing is overwritten
    assert command("init", "kto", "--quiet") == (0, "", "") and Path("kto.json").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("init dpo --family lama", "did you mean 'llama'"),
        ("init dpo --profile medium", "cpu"),
        ("init dpo --size proto", "did you mean 'prototype'"),
        ("init dpo --family mistral --profile low", "take high or a larger one"),
        ("init distill --family phi --profile max", "no teacher with its vocabulary"),
        ("init distil --family mistral --profile max", "take qwen3, qwen2.5, llama, gemma or smol"),
        ("init sft-dop", "did you mean 'sft-dpo'"),
        ("init spam", "sft-reward-ppo, grpo-maths"),
        ("init", "sft-reward-ppo"),
        ("init --from x.yaml --size demo", "no effect with --from"),
    ],
)
def test_an_unknown_preset_is_one_message(command, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = command(*shlex.split(words))
    assert code == 2 and told in err and not list(tmp_path.iterdir())


def test_a_strategy_of_ones_own_has_presets_too():
    config = start("careful-dpo", Asked("qwen3", "mid"))
    assert config["model_name"] == "Qwen/Qwen3-4B" and config["strategy"] == "careful-dpo"
    with pytest.raises(ConfigError, match="has no model"):
        pipeline("distil", Asked("phi", "cpu"))


def test_what_was_planned_of_a_preset_is_of_the_preset_of_today_and_fits():
    """benchmarks/presets.py plans them, some ten seconds each."""
    kept = json.loads((ROOT / "benchmarks" / "results" / "presets.json").read_text())
    presets = {f"{a.family}, {a.profile}, {s}": start(s, a) for s, a in all_starts()}
    for name, row in kept.items():
        assert row["preset"] == presets[name], f"{name}: run benchmarks/presets.py"
        assert row["fits"] and row["gib"] <= row["budget_gb"], name
    usual = {name for name in presets if name.startswith("qwen3") and ", cpu," not in name}
    assert usual <= set(kept), usual - set(kept)
    page = (ROOT / "docs" / "presets.md").read_text()
    for name, row in kept.items():
        assert (
            f"| {name} | {row['preset']['model_name'].rpartition('/')[2]} | {row['card']} |" in page
        )
