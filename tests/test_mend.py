"""`check --fix`: what an error says would mend a config is done, and nothing else."""

import copy
import errno
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelforge.common.patch import drop, patched, put, rename
from modelforge.configfile.load import load_config
from modelforge.configfile.mend import mend
from modelforge.errors import ConfigError, RunError
from modelforge.registry import get_strategy
from modelforge.training.defaults import under_each_profile
from modelforge.training.effects import refuse_idle_everywhere

MODEL = str(Path(__file__).parents[1] / "examples/tiny/model")
SFT = {"strategy": "sft", "model_name": MODEL, "dataset": "rows.jsonl"}
GRPO = SFT | {"strategy": "grpo", "rewards": ["numeric_answer"]}


def without(key):
    return {k: v for k, v in SFT.items() if k != key}


# What somebody wrote, and what it is to become; None: nothing says so for sure.
WHOLE = [
    (without("strategy") | {"stategy": "sft"}, SFT),
    (without("strategy") | {"strategi": "sftt"}, SFT),
    (SFT | {"strategy": "stf"}, SFT),
    (SFT | {"strategy": "SFT"}, SFT),
    (without("model_name") | {"model_nam": MODEL}, SFT),
    (without("model_name") | {"model_name_or_path": MODEL}, SFT),
    (without("model_name") | {"base_model": MODEL}, SFT),
    (without("dataset") | {"datset": "rows.jsonl"}, SFT),
    (SFT | {"save_strategy": "no", "save_steps": 5}, SFT | {"save_strategy": "no"}),
    (SFT | {"liger_kernel_config": {"rope": True}}, SFT),
    (SFT | {"overwrite_output_dir": True}, SFT),
    (GRPO | {"num_generation": 4}, GRPO | {"num_generations": 4}),
    (GRPO | {"rewards": "numeric_answer"}, GRPO),
    (GRPO | {"num_generations": "4"}, GRPO | {"num_generations": 4}),
    (GRPO | {"loss_type": "dr_grppo"}, GRPO | {"loss_type": "dr_grpo"}),
    (SFT | {"max_steps": 5, "num_train_epochs": 2}, None),
    (SFT | {"lora_r": 0, "use_4bit": True}, None),
    (SFT | {"quantum_flux": 3}, None),
    (SFT | {"lora_r": -4}, None),
    (SFT | {"max_steps": 10**400}, None),
]
# The same, of one key beside those of an sft.
KEYS = [
    ({"learnin_rate": 1e-4}, {"learning_rate": 1e-4}),
    ({"learning_rate": "1e-4"}, {"learning_rate": 1e-4}),
    ({"learning_rate": [1e-4]}, {"learning_rate": 1e-4}),
    ({"lerning_rate": "0.0001"}, {"learning_rate": 1e-4}),
    ({"max_steps": "100"}, {"max_steps": 100}),
    ({"max_step": 100}, {"max_steps": 100}),
    ({"num_train_epochs": "3"}, {"num_train_epochs": 3}),
    ({"num_epochs": 3}, {"num_train_epochs": 3}),
    ({"max_length": 512}, {"max_seq_length": 512}),
    ({"cutoff_len": 512}, {"max_seq_length": 512}),
    ({"sequence_len": 512}, {"max_seq_length": 512}),
    ({"max_seq_lenght": 512}, {"max_seq_length": 512}),
    ({"max_seq_length": "512"}, {"max_seq_length": 512}),
    ({"lora_rank": 16}, {"lora_r": 16}),
    ({"lora_r": "16"}, {"lora_r": 16}),
    ({"lora_alpa": 16}, {"lora_alpha": 16}),
    ({"lora_dropout": "0.05"}, {"lora_dropout": 0.05}),
    ({"lora_target": ["q_proj"]}, {"lora_target_modules": ["q_proj"]}),
    ({"use_4bit": "true"}, {"use_4bit": True}),
    ({"use_4bit": 1}, {"use_4bit": True}),
    ({"use4bit": True}, {"use_4bit": True}),
    ({"load_in_4bit": True}, {"use_4bit": True}),
    ({"load_in_8bit": True}, {"use_8bit": True}),
    ({"bf16": "False"}, {"bf16": False}),
    ({"packing": "yes"}, {"packing": True}),
    ({"sample_packing": True}, {"packing": True}),
    ({"optim": "adamw_torh"}, {"optim": "adamw_torch"}),
    ({"optim": "AdamW_torch"}, {"optim": "adamw_torch"}),
    ({"lr_scheduler_type": "cosin"}, {"lr_scheduler_type": "cosine"}),
    ({"lr_schedular_type": "cosine"}, {"lr_scheduler_type": "cosine"}),
    ({"gradient_checkpoint": True}, {"gradient_checkpointing": True}),
    ({"gradient_acumulation_steps": 4}, {"gradient_accumulation_steps": 4}),
    ({"micro_batch_size": 2}, {"per_device_train_batch_size": 2}),
    ({"warmup_step": 5}, {"warmup_steps": 5}),
    ({"seed": "3"}, {"seed": 3}),
    ({"eval_spilt": 0.1}, {"eval_split": 0.1}),
    ({"train_on": "al"}, {"train_on": "all"}),
]
BROKEN = WHOLE + [(SFT | broken, SFT | meant) for broken, meant in KEYS]


def check(path):
    def checked():
        config = load_config(path)
        strategy = get_strategy(config.settings.strategy)()
        refuse_idle_everywhere(config, under_each_profile(config, strategy), strategy)

    return checked


def written(folder, values):
    path = folder / "config.json"
    path.write_text(json.dumps(values))
    return path


@pytest.mark.parametrize(("broken", "meant"), BROKEN, ids=map(str, range(len(BROKEN))))
def test_what_is_sure_is_mended(tmp_path, broken, meant):
    path, told = written(tmp_path, broken), []
    if meant is None:
        with pytest.raises(ConfigError):
            mend(path, check(path), told.append)
        assert json.loads(path.read_text()) == broken and not told
        return
    assert mend(path, check(path), told.append) and told
    assert json.loads(path.read_text()) == meant
    assert json.loads((tmp_path / "config.json.before").read_text()) == broken


@pytest.mark.parametrize(
    "other",
    [
        *({"strategy": name} for name in ("orpo", "cpo", "lora")),
        *({key: 1} for key in ("eval_epochs", "save_epochs", "warmup_epochs", "min_steps")),
        *({key: True} for key in ("lora_r", "learning_rate", "eval_steps")),
        *({"learning_rate": word} for word in ("nan", "1e999")),
        {"optim": "adam"},
        {"hardware_profile": "h100"},
        GRPO | {"generation": {"min_new_tokens": 5}},
    ],
    ids=str,
)
def test_what_may_mean_another_thing_is_left(tmp_path, other):
    path, told = written(tmp_path, SFT | other), []
    with pytest.raises(ConfigError):
        mend(path, check(path), told.append)
    assert not told and sorted(tmp_path.iterdir()) == [path]


def test_a_method_that_is_no_strategy_is_led_to_what_does_it(tmp_path):
    with pytest.raises(ConfigError, match="loss_type sigmoid_norm"):
        load_config(written(tmp_path, SFT | {"strategy": "simpo"}))


def test_a_place_that_takes_no_file_ends_in_one_message(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = written(tmp_path, SFT | {"max_step": 5})
    monkeypatch.setattr(shutil, "copy2", full)
    with pytest.raises(RunError, match="cannot be written: No space left on device → make room"):
        mend(path, check(path), lambda change: None)
    assert json.loads(path.read_text())["max_step"] == 5


def test_what_is_left_is_told_and_the_rest_is_done(tmp_path, command):
    path = written(tmp_path, SFT | {"learnin_rate": 1e-4, "quantum_flux": 3})
    code, out, err = command("check", path, "--config-only", "--fix", "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 2 and problem["where"].endswith("quantum_flux") and problem["patch"] == []
    assert "learnin_rate is called learning_rate" in err
    assert json.loads(path.read_text())["learning_rate"] == 1e-4
    code, _, err = command("check", path, "--fix", "--set", "seed=1")
    assert code == 2 and "has no place in a file" in err


def test_an_error_says_the_patch(tmp_path, command):
    path = written(tmp_path, SFT | {"lora_rank": 8, "max_steps": "5"})
    code, out, _ = command("check", path, "--config-only", "--json")
    patches = [problem["patch"] for problem in json.loads(out)["problems"]]
    assert code == 2
    assert [{"op": "move", "from": "/lora_rank", "path": "/lora_r"}] in patches
    assert [{"op": "replace", "path": "/max_steps", "value": 5}] in patches


def test_yaml_is_written_as_yaml(tmp_path):
    path = tmp_path / "config.yaml"
    values = f"strategy: sft\nmodel_name: {MODEL}\ndataset: a.jsonl\nmax_step: 5\n"
    path.write_text("# mine\n" + values)
    mend(path, check(path), lambda change: None)
    assert path.read_text() == values.replace("max_step:", "max_steps:")
    assert path.with_name("config.yaml.before").read_text().startswith("# mine")


VALUES = st.recursive(
    st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, min_size=1, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=4), VALUES, min_size=1), st.data())
def test_a_patch_changes_its_place_alone(values, data):
    keys, inside = [], values
    while isinstance(inside, dict | list) and (not keys or data.draw(st.booleans())):
        among = list(inside) if isinstance(inside, dict) else range(len(inside))
        keys.append(data.draw(st.sampled_from(among)))
        inside = inside[keys[-1]]
    before = copy.deepcopy(values)
    changed = patched(values, put(keys, "new"))
    assert patched(changed, put(keys, inside)) == values == before
    if isinstance(keys[-1], str):
        moved = patched(values, rename(keys, "fresh/~"))
        assert patched(moved, rename([*keys[:-1], "fresh/~"], keys[-1])) == values
        gone = patched(values, drop(keys))
        assert patched(moved, drop([*keys[:-1], "fresh/~"])) == gone
