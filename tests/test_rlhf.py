"""RLHF end to end on the tiny model: its config, stages, their folders, resuming."""

import json
import os
import re
from pathlib import Path

import pytest
import torch
from tiny import held_out, shallow

import modelforge
from modelforge import ConfigError, RLHFConfig, RLHFTrainer, RunError, UserError, load_config
from modelforge.config import Choice
from modelforge.configfile.load import load_config as load
from modelforge.strategies.ppo import PPO
from modelforge.strategies.reward import Reward
from modelforge.strategies.rlhf import RLHF
from modelforge.strategies.sft import SFT
from modelforge.training.stages import stage_values

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
SHARED = Path(os.environ.get("MODELFORGE_SHARED", ROOT.parent / "shared"))

DESIGN = {
    "strategy": "rlhf", "task": "text-generation",
    "model_name": "meta-llama/Llama-3.1-8B-Instruct",
    "dataset": "/path/to/preference-data.jsonl", "provider": "huggingface",
    "num_train_epochs": 1, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 8,
    "learning_rate": 1.41e-5, "lora_r": 16, "lora_alpha": 32, "use_4bit": True, "bf16": True,
    "max_seq_length": 2048, "warmup_ratio": 0.1, "eval_split": 0.1,
}  # fmt: skip

QUICK = {
    "strategy": "rlhf",
    "model_name": str(shallow()),
    "dataset": str(TINY / "data" / "preference_train.jsonl"),
    "eval_dataset": str(held_out("preference", 32)),
    "max_seq_length": 96,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "max_steps": 4,
    "logging_steps": 1,
    "eval_prompts": 8,
    "generation": {"max_new_tokens": 16},
    "reward_stage": {"learning_rate": 1e-3, "max_steps": 25, "per_device_train_batch_size": 16},
    "report_to": "none",
}
# Where the reward model is there already, nothing is said of its stage.
POLICY_ALONE = {key: value for key, value in QUICK.items() if key != "reward_stage"}
JUDGE = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


def stages(root):
    return json.loads((root / "stages.json").read_text())["stages"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A short run of both stages."""
    root = tmp_path_factory.mktemp("rlhf")
    return modelforge.train(QUICK | {"output_dir": str(root), "run_name": "quick"})


# --- the config ------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4, "lora_r": 64, "lora_alpha": 128}])  # fmt: skip
def test_the_designs_config_is_valid_as_it_stands(more):
    config = load_config(DESIGN | more)
    args = PPO().arguments(load_config(stage_values(config, "ppo", PPO) | {"model_name": "m"}))
    wanted = {"kl_coef": 0.1, "epsilon": 0.2, "value_clip_range": 0.2, "gae_lambda": 0.95,
              "gamma": 1.0, "num_iterations": 4, "reference": "base"}  # fmt: skip
    assert {key: args[key] for key in wanted} == wanted
    assert (args["reward_normalization"], args["missing_eos_penalty"]) == ("reference", 1.0)
    assert PPO().learning_rate("llama", 8e9)[0] == 1e-5


def test_a_reward_that_has_a_scale_of_its_own_keeps_it():
    values = {"strategy": "ppo", "model_name": str(ROOT / "examples/tiny/model"), "dataset": "p",
              "rewards": ["format"]}  # fmt: skip
    args = PPO().arguments(load_config(values))
    assert (args["reward_normalization"], args["missing_eos_penalty"]) == ("none", None)
    said = {"ppo": {"reward_normalization": "standardize"}}
    args = PPO().arguments(load_config(values | said))
    assert (args["reward_normalization"], args["missing_eos_penalty"]) == ("standardize", 1.0)


@pytest.mark.parametrize(
    ("more", "prompts", "rollout", "passes"),
    [
        ({}, 1000, 128, 8),
        ({}, None, 128, 8),
        ({}, 100, 64, 8),
        ({}, 40, 40, 5),  # a step of fewer rows than is usual
        ({}, 3, 8, 1),  # one micro-batch, in which prompts come again
        ({"ppo": {"rollout_size": 96}}, 1000, 96, 6),  # whole steps of it
        ({"ppo": {"rollout_size": 8}}, 1000, 8, 1),
        ({"steps_per_generation": 4}, 1000, None, 4),
        ({"per_device_train_batch_size": 8}, 1000, None, 8),  # a rollout is a step then
        ({"ppo": {"rollout_size": 192}}, 1000, 192, 8),
        ({"ppo": {"kl_coef": 0.3}}, 1000, 128, 8),
    ],
)
def test_a_rollout_has_128_answers_where_there_are_so_many_prompts(more, prompts, rollout, passes):
    batch = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 8}
    config = load_config({"strategy": "ppo", "model_name": "m", "dataset": "p"} | more)
    config = config.with_defaults({key: Choice(v, "strategy") for key, v in batch.items()})
    config = config.with_choices(PPO().rollout(config, prompts))
    assert config.settings.ppo.rollout_size == rollout
    assert config.get("gradient_accumulation_steps") == passes
    assert config.settings.ppo.kl_coef == more.get("ppo", {}).get("kl_coef", 0.1)


def test_a_stage_takes_what_means_the_same_to_it_and_its_own_section():
    whole = load(
        DESIGN | {"loss_type": "dapo", "logging_steps": 7, "ppo": {"kl_coef": 0.3},
                  "reward_stage": {"learning_rate": 3e-5, "lora_r": 4}}
    )  # fmt: skip
    reward = stage_values(whole, "reward", Reward)
    assert reward["learning_rate"] == 3e-5 and reward["lora_r"] == 4
    assert reward["logging_steps"] == 7 and reward["warmup_ratio"] == 0.1
    assert not {"ppo", "loss_type", "reward_stage", "stages"} & set(reward)
    # TRL's loss_type is another thing in SFT than in PPO, and the rate is the policy's.
    assert not {"learning_rate", "loss_type"} & set(stage_values(whole, "sft", SFT))
    policy = stage_values(whole, "ppo", PPO)
    assert policy["learning_rate"] == 1.41e-5 and policy["loss_type"] == "dapo"
    assert policy["ppo"] == {"kl_coef": 0.3}
    assert {"dataset", "eval_split", "use_4bit", "bf16"} <= set(policy) & set(reward)


def test_a_reference_that_follows_the_policy_is_no_base():
    model = str(ROOT / "examples/tiny/model")
    config = load_config(DESIGN | {"model_name": model, "ppo": {"ref_update_steps": 5}})
    assert RLHF().arguments(config)["reference"] == "initial"
    for stages, reference in ((["reward", "ppo"], "base"), (["sft", "reward", "ppo"], "initial")):
        config = load_config(DESIGN | {"model_name": model, "stages": stages})
        assert RLHF().arguments(config)["reference"] == reference


def test_rlhf_config_is_checked_as_it_is_made():
    assert RLHFConfig(model_name="m", dataset="d.jsonl")["strategy"] == "rlhf"
    with pytest.raises(ConfigError, match="did you mean 'reward_stage'"):
        RLHFConfig(model_name="m", dataset="d.jsonl", reward_stag={})
    with pytest.raises(ConfigError, match="set rlhf"):
        RLHFTrainer({"strategy": "sft", "model_name": "m", "dataset": "d.jsonl"})


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"reward_models": 1}, "averages one model"),
        ({"reward_stage": {"lora_r": 0}}, "lora_r 0 trains all weights"),
        ({"lora": {"use_dora": True}}, "use_dora makes more of them"),
        ({"lora": {"use_dora": True}, "reward_stage": {"lora": {"use_dora": False}}}, None),
    ],
)
def test_reward_models_without_an_average_are_refused(more, says):
    whole = {"model_name": str(TINY / "model"), "reward_models": 2, "average_reward_models": True}
    if says is None:
        load_config(DESIGN | whole | more)
        return
    with pytest.raises(ConfigError, match=says):
        load_config(DESIGN | whole | more)


def test_the_document_names_every_key_and_metric():
    from modelforge.ppo.metrics import METRICS
    from modelforge.ppo.settings import PPOSection
    from modelforge.strategies.rewarded import RewardedSettings
    from modelforge.strategies.rlhf import RLHFSettings

    text = (ROOT / "docs" / "rlhf.md").read_text()
    own = set(RLHFSettings.model_fields) - set(modelforge.config.Settings.model_fields)
    assert set(RewardedSettings.model_fields) - set(modelforge.config.Settings.model_fields) <= own
    assert all(f"`{key}`" in text for key in own)
    rows = ["| `ppo.` | default | meaning |", "|---|---|---|"]
    for key, known in PPOSection.model_fields.items():
        default = "–" if known.default is None else f"`{json.dumps(known.default)}`"
        rows.append(f"| `{key}` | {default} | {known.description} |")
    assert "\n".join([*rows, ""]) in text
    assert all(f"| `{name}` | {meaning} |" in text for name, meaning in METRICS.items())


# --- a run ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_pairs_alone_train_a_reward_model_and_a_policy_each_in_its_folder(quick, capsys):
    root = quick.run_dir.parent
    told = stages(root)
    assert list(told) == ["reward", "ppo"] and told["ppo"]["run"] == quick.run_dir.name
    assert told["reward"]["after"]["eval_accuracy"] > 0.5
    for name in told.values():
        assert (root / name["run"] / "results.json").is_file()
        assert (root / name["run"] / "model" / "adapter_model.safetensors").is_file()
    # The policy alone: no head, no second adapter.
    assert not [key for key in weights(quick.model_dir) if "score" in key or "v_head" in key]
    metrics = lines(quick.run_dir / "metrics.jsonl")[1]
    assert {"reward", "rewards/reward_model/mean", "reward/score", "reward/total", "kl/reference",
            "kl/old_policy", "kl/coef", "entropy", "policy/loss", "value/loss",
            "value/clip_fraction", "clip_ratio/region_mean", "value/explained_variance",
            "advantage/mean", "advantage/std", "grad_norm", "completions/mean_length",
            "completions/without_eos"} <= set(metrics)  # fmt: skip


@pytest.mark.slow
def test_the_whole_has_figures_a_page_and_the_last_stages_model(quick):
    from modelforge.models.source import find_model

    root = quick.run_dir.parent
    results = json.loads((root / "results.json").read_text())
    assert list(results["stages"]) == ["reward", "ppo"]
    assert results["stages"]["ppo"]["after"] == quick.after and results["steps"] > 0
    assert results["model"] == f"{quick.run_dir.name}/model"
    page, card = (root / "report.html").read_text(), (root / "README.md").read_text()
    for run in results["stages"].values():
        assert f'href="{run["run"]}/report.html"' in page and f"`{run['run']}`" in card
    source = find_model(str(root), base_dir=Path(), revision=None, where="model_name")
    assert source.adapter == quick.run_dir / "model"


def test_rollouts_hold_answers_with_the_scores_of_the_reward_model_loaded_alone(quick):
    from modelforge.rewards.model import RewardModel

    root = quick.run_dir.parent
    model = RewardModel.load(str(root / stages(root)["reward"]["run"]))
    rows = lines(quick.run_dir / "rollouts.jsonl")
    assert [row["step"] for row in rows] == [1] * 4  # one rollout, for four updates
    scores = model(
        prompts=[row["prompt"] for row in rows], completions=[row["completion"] for row in rows]
    )
    # A completion cut at max_new_tokens loses nothing: the template is applied to its text.
    for row, score in zip(rows, scores, strict=True):
        assert row["rewards"]["reward_model"] == pytest.approx(score, abs=1e-4)


@pytest.mark.slow
def test_a_finished_stage_is_run_again_only_where_what_it_is_made_from_changed(
    quick, tmp_path, capsys
):
    root = quick.run_dir.parent
    config = QUICK | {"output_dir": str(root.parent), "run_name": root.name}
    first = stages(root)
    modelforge.train(config | {"ppo": {"kl_coef": 0.2}})
    assert stages(root)["reward"]["run"] == first["reward"]["run"]
    assert stages(root)["ppo"]["run"] != first["ppo"]["run"]
    capsys.readouterr()
    assert modelforge.train(config) == quick
    assert capsys.readouterr().err.count("finished") == 2 and stages(root) == first
    # The same path, other pairs.
    data = tmp_path / "pairs.jsonl"
    text = (TINY / "data" / "preference_train.jsonl").read_text().splitlines()
    trainer = RLHFTrainer(config | {"dataset": str(data)})
    names = []
    for count in (100, 200):
        data.write_text("\n".join(text[:count]) + "\n")
        values = stage_values(trainer.config, "reward", Reward)
        names.append(trainer._digest(values, []))
    assert names[0] != names[1]


def whole_of_files(folder):
    """A config of rlhf, each of whose paths is a small file or folder of this folder."""
    for name, text in {
        "data/pairs.jsonl": "{}", "data/more.json": "[]", "held.jsonl": "{}",
        "own.jinja": "{{ messages }}", "zero.json": "{}",
        "scored.py": "def score(completions, **kwargs): return [0.0]",
        "judge/config.json": json.dumps(JUDGE),
        "judge/model.safetensors": "weights", "judge/additional_chat_templates/a.jinja": "a",
        "policy/choices.json": "{}", "policy/metrics.jsonl": "{}", "policy/report.html": "<p>",
        "policy/model/adapter_config.json": "{}", "policy/model/README.md": "card",
        "policy/model/adapter_model.safetensors": "adapter",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + " ")
    return {
        "strategy": "rlhf", "model_name": "policy", "dataset": "data", "eval_dataset": "held.jsonl",
        "chat_template": "own.jinja", "rewards": ["scored.py:score"], "judge_model": "judge",
        "distributed": {"backend": "zero2", "config": "zero.json"}, "output_dir": "runs",
    }  # fmt: skip


def name_of_policys_stage(config):
    trainer = RLHFTrainer(config)
    return trainer._digest(stage_values(trainer.config, "ppo", PPO), [])


@pytest.mark.parametrize(
    "file",
    ["data/pairs.jsonl", "data/more.json", "held.jsonl", "own.jinja", "zero.json", "scored.py",
     "judge/config.json", "judge/model.safetensors", "judge/additional_chat_templates/a.jinja",
     "policy/model/adapter_config.json", "policy/model/adapter_model.safetensors"],
)  # fmt: skip
def test_a_changed_character_anywhere_makes_another_stage(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    config = whole_of_files(tmp_path)
    before = name_of_policys_stage(config)
    path = tmp_path / file
    times = path.stat()
    path.write_text(path.read_text()[:-1] + "\n")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert name_of_policys_stage(config) != before


def test_a_changed_module_of_a_reward_makes_another_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = whole_of_files(tmp_path) | {"rewards": ["scored:score"]}
    before = name_of_policys_stage(config)
    assert name_of_policys_stage(config) == before
    (tmp_path / "scored.py").write_text("def score(completions, **kwargs): return [1.0]")
    assert name_of_policys_stage(config) != before


@pytest.mark.parametrize(
    "file", ["policy/metrics.jsonl", "policy/report.html", "policy/model/README.md", "data/runs/a"]
)
def test_what_trains_nothing_leaves_a_stage_as_it_is(tmp_path, monkeypatch, file):
    monkeypatch.chdir(tmp_path)
    config = whole_of_files(tmp_path)
    before = name_of_policys_stage(config)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("other")
    assert name_of_policys_stage(config) == before


@pytest.mark.slow
def test_a_run_stopped_in_ppo_goes_on_as_if_nothing_had_happened(quick, tmp_path, monkeypatch):
    from transformers import Trainer

    values = POLICY_ALONE | {
        "stages": ["ppo"], "reward_model": str(quick.run_dir.parent / stages(quick.run_dir.parent)
        ["reward"]["run"]), "max_steps": 8, "save_steps": 3,
        "ppo": {"ppo_epochs": 2, "kl_target": 2.0, "reward_normalization": "standardize",
                "value_mode": "frozen"},
    }  # fmt: skip
    whole = modelforge.train(values | {"output_dir": str(tmp_path / "whole")})
    step = Trainer.training_step

    def stopped(self, *args, **kwargs):
        if self.state.global_step >= 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            modelforge.train(values | {"output_dir": str(tmp_path / "cut")})
    resumed = modelforge.train(values | {"output_dir": str(tmp_path / "cut")})
    assert resumed.resumed_from.name == "checkpoint-3"
    first, second = weights(whole.model_dir), weights(resumed.model_dir)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for file in ("metrics.jsonl", "rollouts.jsonl"):
        logs = [lines(result.run_dir / file) for result in (whole, resumed)]
        kept = [[{k: v for k, v in row.items() if k != "session"} for row in log] for log in logs]
        assert kept[0] == kept[1], file


@pytest.mark.slow
def test_after_sft_the_policy_begins_with_its_adapter_and_is_held_to_it(tmp_path):
    trainer = RLHFTrainer(
        QUICK | {"stages": ["sft", "reward", "ppo"], "output_dir": str(tmp_path), "max_steps": 1,
                 "sft_stage": {"learning_rate": 1e-3, "max_steps": 15},
                 "reward_stage": {"max_steps": 1}}
    )  # fmt: skip
    result = trainer.run()
    assert list(stages(trainer.root)) == ["sft", "reward", "ppo"]
    sft, reward = trainer.done["sft"], trainer.done["reward"]
    assert sft.after["eval_loss"] < sft.before["eval_loss"]  # on the chosen answers
    bases = {
        json.loads((r.model_dir / "adapter_config.json").read_text())["base_model_name_or_path"]
        for r in (sft, reward, result)
    }
    assert bases == {QUICK["model_name"]}
    assert result.before["eval_kl/reference"] == pytest.approx(0, abs=1e-5)
    start = weights(sft.model_dir)
    moved = max((weights(result.model_dir)[k] - v).abs().max() for k, v in start.items())
    assert 0 < moved < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "more"),
    [("rloo", {"num_generations": 2}), ("grpo", {"num_generations": 4, "beta": 0.05})],
)
def test_rloo_and_grpo_have_the_same_reward_side(quick, tmp_path, algorithm, more):
    from modelforge.rewards.model import RewardModel

    reward = quick.run_dir.parent / stages(quick.run_dir.parent)["reward"]["run"]
    result = modelforge.train(
        POLICY_ALONE
        | {"algorithm": algorithm, "reward_model": str(reward), "judge_model": str(reward),
           "output_dir": str(tmp_path), "max_steps": 1} | more
    )  # fmt: skip
    assert result.run_dir.name.startswith(algorithm)
    # One model twice, as judge and as reward: the two means add the same scores in different
    # orders, so they agree within float32's noise and no better.
    judged, rewarded = (result.after[f"eval_{key}"] for key in ("rewards/judge/mean", "reward"))
    assert judged == pytest.approx(rewarded, abs=1e-6)
    rows = lines(result.run_dir / "rollouts.jsonl")
    scores = RewardModel.load(str(reward))(
        prompts=[row["prompt"] for row in rows], completions=[row["completion"] for row in rows]
    )
    for row, score in zip(rows, scores, strict=True):
        assert row["rewards"]["reward_model"] == pytest.approx(score, abs=1e-4)
    assert not [key for key in weights(result.model_dir) if "score" in key]


@pytest.mark.slow
def test_rewards_in_code_are_mixed_with_those_of_the_config(tmp_path):
    def shouting(completions, **kwargs):
        return [float(c[0]["content"].count("!")) for c in completions]

    values = QUICK | {"output_dir": str(tmp_path), "max_steps": 1}
    del values["eval_dataset"]
    values |= {
        "eval_split": 8,
        "rewards": [
            {"name": "length", "weight": 0.3, "arguments": {"target": 8}},
        ],
    }
    trainer = RLHFTrainer(values, rewards=[(shouting, 0.7)])
    result = trainer.train_ppo()
    log = lines(result.run_dir / "metrics.jsonl")[1]
    parts = {"rewards/shouting/mean": 0.7, "rewards/length/mean": 0.3}
    assert log["reward"] == pytest.approx(sum(log[k] * w for k, w in parts.items()), abs=1e-5)
    dpo = trainer.train_dpo()
    assert dpo.after["eval_rewards/accuracies"] >= 0 and dpo.run_dir.parent == trainer.root
    with pytest.raises(RunError, match="there is no reward"):
        RLHFTrainer(QUICK).train_ppo()


@pytest.mark.slow
def test_several_reward_models_are_trained_and_come_together_as_asked(tmp_path):
    short = {"learning_rate": 1e-3, "max_steps": 4, "per_device_train_batch_size": 8}
    said = QUICK | {
        "output_dir": str(tmp_path), "run_name": "all", "reward_models": 2, "max_steps": 1,
        "reward_stage": short, "eval_prompts": 4, "ppo": {"reward_aggregation": "worst"},
    }  # fmt: skip
    result = modelforge.train(said)
    told = stages(tmp_path / "all")
    assert list(told) == ["reward", "reward_2", "ppo"]
    assert json.loads((tmp_path / "all" / "results.json").read_text())["stages"].keys() == {*told}
    first, second = (tmp_path / "all" / told[name]["run"] for name in ("reward", "reward_2"))
    config = json.loads((result.run_dir / "config.json").read_text())
    assert [(m["name"], m["weight"]) for m in config["reward_model"]] == [
        (str(first), 0.5), (str(second), 0.5)
    ]  # fmt: skip
    rows = [row["rewards"] for row in lines(result.run_dir / "rollouts.jsonl")]
    assert rows and all(row["reward_model_1"] != row["reward_model_2"] for row in rows)
    held_out = [json.loads((run / "data.json").read_text())["eval_rows"] for run in (first, second)]
    assert held_out == [32, 32]

    averaged = modelforge.train(said | {"average_reward_models": True, "ppo": {}})
    again = stages(tmp_path / "all")
    assert again["reward_2"] == told["reward_2"] and again["ppo"] != told["ppo"]
    [folder] = json.loads((averaged.run_dir / "config.json").read_text())["reward_model"]
    ours = weights(Path(folder) / "model")
    theirs = [weights(run / "model") for run in (first, second)]
    settings = json.loads((first / "model" / "adapter_config.json").read_text())
    name = next(name.removesuffix(".lora_A.weight") for name in ours if "lora_A" in name)

    def product(each, scale):
        return scale * each[f"{name}.lora_B.weight"] @ each[f"{name}.lora_A.weight"]

    scale = settings["lora_alpha"] / settings["r"]
    mean = sum(product(each, scale) for each in theirs) / 2
    assert torch.allclose(product(ours, 1.0), mean, atol=1e-6) and mean.abs().max() > 0


@pytest.mark.slow
def test_an_ensemble_is_of_the_models_alone(quick, tmp_path):
    folder = str(quick.run_dir.parent / stages(quick.run_dir.parent)["reward"]["run"])
    result = modelforge.train(
        POLICY_ALONE | {
            "strategy": "ppo", "output_dir": str(tmp_path), "max_steps": 1, "eval_prompts": 8,
            "reward_model": [{"name": folder, "weight": 0.7}],
            "rewards": [
                {"name": "length", "weight": 0.5, "arguments": {"target": 8}},
                {"name": folder, "weight": 0.3},
            ],
            "ppo": {"reward_std_penalty": 1.0},
        }
    )  # fmt: skip
    log = lines(result.run_dir / "metrics.jsonl")[1]
    names = ("rewards/reward_model_1/mean", "rewards/reward_model_2/mean")
    assert log[names[0]] == pytest.approx(log[names[1]], abs=1e-6)
    # Two models that agree are not taken anything off, however the length's reward differs.
    assert log["reward/score"] == pytest.approx(
        log[names[0]] + 0.5 * log["rewards/length/mean"], abs=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("least", "says"), [(None, "worse than chance"), (0.99, r"99.0% was asked for")]
)
def test_a_misleading_reward_model_stops_the_run_before_ppo(quick, tmp_path, least, says):
    root = tmp_path / "run"
    swapped = tmp_path / "swapped.jsonl"
    rows = lines(held_out("preference", 48))
    if least is None:
        for row in rows:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    swapped.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = QUICK | {"output_dir": str(tmp_path), "run_name": "run", "eval_dataset": str(swapped)}
    with pytest.raises(RunError, match=says):
        modelforge.train(values | ({} if least is None else {"min_reward_accuracy": least}))
    assert list(stages(root)) == ["reward"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"rewards": ["r.py:f"]}, "stage ppo: .*rewards: needs a column 'gold'"),
        ({"reward_stage": {"lora_target_modules": ["c_attn"]}}, "stage reward: .*'c_attn' is no"),
        ({"stages": ["sft", "reward", "ppo"], "sft_stage": {"train_on": "last"},
          "reward_stage": {"eval_delay": 3}}, "stage reward: .*eval_delay: has no effect"),
        ({"algorithm": "grpo", "num_generations": 3}, "num_generations"),
    ],
)  # fmt: skip
def test_a_later_stage_that_cannot_run_is_refused_before_the_first(more, says, tmp_path, command):
    values = {key: value for key, value in QUICK.items() if key != "ppo" or "algorithm" not in more}
    code = "def f(completions, gold, **columns):\n    return [0.0] * len(gold)\n"
    (tmp_path / "r.py").write_text(code)
    rows = lines(TINY / "data" / "preference_eval.jsonl")[:16]
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values |= more | {"output_dir": str(tmp_path / "runs"), "dataset": "pairs.jsonl"}
    (tmp_path / "c.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=says.rpartition(": ")[2]):
        modelforge.train(tmp_path / "c.json")
    code, _, said = command("check", tmp_path / "c.json")
    assert code == 2 and re.search(says, " ".join(said.split()))
    assert not (tmp_path / "runs").exists()


def test_check_prepares_each_stage(tmp_path, command):
    values = QUICK | {"output_dir": str(tmp_path), "stages": ["sft", "reward", "ppo"]}
    (tmp_path / "c.json").write_text(json.dumps(values))
    code, _, said = command("check", tmp_path / "c.json")
    assert code == 0 and [line for line in said.splitlines() if line.endswith(": check ──")] == [
        f"── {name}: check ──" for name in ("sft", "reward", "ppo")
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]


@pytest.mark.slow
def test_a_judge_trained_on_other_pairs_agrees_that_answers_get_better(tmp_path):
    judge = modelforge.train(
        ROOT / "configs" / "tiny" / "reward.json",
        overrides=[
            f"output_dir={tmp_path}", "run_name=judge", "max_steps=50", "report_to=none",
            "save_strategy=no",
            f"dataset={TINY / 'data' / 'preference_b_train.jsonl'}",
            f"eval_dataset={held_out('preference_b', 32)}",
        ],
    )  # fmt: skip
    result = modelforge.train(
        ROOT / "configs" / "tiny" / "rlhf.json",
        overrides=[
            f"output_dir={tmp_path}", f"judge_model={judge.run_dir}", "report_to=none",
            "save_strategy=no", "reward_stage.max_steps=60", "max_steps=48",
            f"eval_dataset={held_out('preference', 64)}",
        ],
    )  # fmt: skip
    first, last = result.before["eval_rewards/judge/mean"], result.after["eval_rewards/judge/mean"]
    error = result.before["eval_rewards/judge/std"] / 64**0.5
    assert last - first > 4 * error
    assert 0 < result.after["eval_kl/reference"] < 10


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared models and data")
def test_the_designs_config_runs_on_real_pairs(tmp_path):
    values = DESIGN | {
        "model_name": str(SHARED / "models" / "stories260K"),
        "output_dir": str(tmp_path),
    }
    for key, name, count in (("dataset", "train", 32), ("eval_dataset", "test", 130)):
        rows = (SHARED / "data" / f"hh_helpful_base_{name}.jsonl").read_text().split("\n")
        rows = [row for row in rows if 0 < len(row) < 900][:count]  # the shorter ones
        values[key] = str(tmp_path / f"{name}.jsonl")
        Path(values[key]).write_text("\n".join(rows) + "\n")
    del values["eval_split"]
    result = modelforge.train(
        values,
        overrides=[
            "max_steps=2",
            "gradient_accumulation_steps=8",
            "save_strategy=no",
            "eval_prompts=8",
            "generation.max_new_tokens=24",
        ],
    )
    told = stages(result.run_dir.parent)
    assert 0.3 < told["reward"]["after"]["eval_accuracy"] < 0.8
    data = json.loads((result.run_dir.parent / told["reward"]["run"] / "data.json").read_text())
    assert data["eval_rows"] > 100
    assert json.loads((result.run_dir / "results.json").read_text())["steps"] == 2


@pytest.mark.parametrize(
    ("more", "scale", "penalty"),
    [
        ({}, "reference", 1.0),
        ({"rewards": ["numeric_answer"]}, "none", None),
        ({"ppo": {"reward_normalization": "scale"}}, "scale", None),
        ({"ppo": {"missing_eos_penalty": 0.5}}, "reference", 0.5),
    ],
)
def test_what_auto_takes_for_the_reward_is_recorded(more, scale, penalty):
    """Without other rewards, the reward model's alone count."""
    config = load_config({"strategy": "ppo", "model_name": "m", "dataset": "p"} | more)
    config = config.with_choices(PPO().rollout(config, None))
    section, choice = config.settings.ppo, config.choices["ppo"]
    assert (section.reward_normalization, section.missing_eos_penalty) == (scale, penalty)
    assert choice.value["reward_normalization"] == scale
    assert ("is chance" in choice.reason) == (scale == "reference")
