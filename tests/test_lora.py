"""The section ``lora``: PEFT's own fields, and its other methods."""

import json
import shutil

import pytest
from machines import card
from tiny import ROOT, few, held_out, quick, resumed_bitwise, shallow

import modelforge
from modelforge.configfile.adapters import KINDS
from modelforge.plan import plan
from modelforge.training.defaults import Facts, fill
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer
from modelforge.training.run import load as load_weights

TINY = ROOT / "configs" / "tiny"


def load(strategy="sft", *said, **section):
    options = [f"lora={json.dumps(section)}"] if section else []
    return modelforge.load_config(TINY / f"{strategy}.json", overrides=[*options, *said])


@pytest.mark.parametrize(
    ("strategy", "section", "message"),
    [
        ("sft", {"use_dorra": True}, "did you mean 'use_dora'"),
        ("sft", {"use_dora": "maybe"}, 'lora.use_dora: is "maybe"'),
        ("sft", {"bias": "some"}, 'one of "none", "all", "lora_only"'),
        ("sft", {"peft_type": "LOAH"}, 'lora.peft_type: is "LOAH"'),
        ("sft", {"peft_type": "ADALORA"}, "which TRL's trainers do not make"),
        ("sft", {"peft_type": "P_TUNING", "num_virtual_tokens": 8}, "virtual tokens before each"),
        ("sft", {"peft_type": "IA3", "use_dora": True}, "lora.use_dora: is not a key"),
        ("sft", {"layers_to_transform": [0]}, "needs a list of modules"),
        ("sft", {"eva_config": {}}, "needs a pass over data"),
        ("sft", {"init_lora_weights": "pissa_niter_4"}, "fits no base that is loaded again"),
        ("sft", {"init_lora_weights": False}, "does not start as itself"),
        ("dpo", {"init_lora_weights": "pissa"}, "compares with the base, its adapter off"),
        ("kto", {"init_lora_weights": "olora"}, "compares with the base, its adapter off"),
        ("sft", {"init_lora_weights": "pissa", "_": "use_4bit=true"}, "and these are quantised"),
        ("ppo", {"peft_type": "LOHA"}, "share one base"),
        ("ppo", {"init_lora_weights": "pissa"}, "compares with the base, its adapter off"),
        ("dpo", {"bias": "all"}, "the base's own biases are trained"),
        ("grpo", {"bias": "lora_only", "_": "beta=0.1"}, "the base's own biases are trained"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(strategy, section, message):
    with pytest.raises(modelforge.ConfigError) as caught:
        load(strategy, section.pop("_", "lora_r=8"), **section)
    assert message in str(caught.value)


def test_a_field_with_a_key_of_its_own_is_said_once():
    section = {"lora": {"r": 4, "target_modules": ["q_proj"], "use_rslora": True}}
    values = {"strategy": "sft", "model_name": "m", "dataset": "d.jsonl", **section}
    config = modelforge.load_config(values)
    assert (config.settings.lora_r, config.settings.lora_target_modules) == (4, ["q_proj"])
    assert config.settings.lora == {"use_rslora": True} and config.given("lora_r")
    with pytest.raises(modelforge.ConfigError, match=r"lora\.r: is said twice: lora_r"):
        modelforge.load_config({**values, "lora_r": 8})


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank_pattern": {"q_prog": 4}}, "q_prog)' is no module of this model"),
        ({"exclude_modules": ["k_prog"]}, "'k_prog' is no module"),
        ({"lora_bias": True}, "q_proj has no bias to merge that of the adapter into"),
        ({"layers_to_transform": [77], "target_modules": ["q_proj"]}, "refused before training"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_by_check(tmp_path, section, message):
    config = load("sft", f"output_dir={tmp_path}", "report_to=none", **section)
    with pytest.raises(modelforge.UserError) as caught:
        prepare(config)
    assert message in str(caught.value)


def test_a_key_without_effect_beside_another_method_is_refused():
    with pytest.raises(modelforge.ConfigError, match="lora_alpha: has no effect: lora"):
        load("sft", peft_type="LOHA", r=8)


def test_the_plan_counts_what_the_section_trains():
    few = {"layers_to_transform": [0], "target_modules": ["q_proj", "v_proj"]}
    plain, dora, few = (
        plan(load("sft", **section), budget_gb=8) for section in ({}, {"use_dora": True}, few)
    )
    assert dora.parts["LoRA"] > plain.parts["LoRA"] > 1.5 * few.parts["LoRA"] > 0


def ia3_values():
    values = json.loads((TINY / "sft.json").read_text())
    for key in ("lora_r", "lora_alpha"):
        values.pop(key, None)
    return values


@pytest.mark.slow
def test_dora_with_ranks_by_module_trains_resumes_and_loads(tmp_path, monkeypatch):
    section = {"use_dora": True, "use_rslora": True, "rank_pattern": {"q_proj": 4}}
    result = resumed_bitwise(
        "sft", tmp_path, monkeypatch, f"lora={json.dumps(section)}", f"model_name={shallow()}",
        "max_steps=4", "save_steps=2", stop=3,
    )  # fmt: skip
    assert result.after["eval_loss"] < result.before["eval_loss"]
    adapter = json.loads((result.model_dir / "adapter_config.json").read_text())
    assert adapter["use_dora"] and adapter["rank_pattern"] == {"q_proj": 4}
    saved = json.loads((result.run_dir / "results.json").read_text())["saved"]
    assert saved["loaded"] and saved["difference"] < 1e-3
    choices = json.loads((result.run_dir / "choices.json").read_text())["choices"]
    assert choices["lora"]["value"] == section
    assert "use_dora" in (result.model_dir / "README.md").read_text()
    with pytest.raises(modelforge.ConfigError, match="use_dora: is False"):
        said = 'lora={"use_dora": false}'
        quick("sft", tmp_path, f"model_name={result.run_dir}", said)


@pytest.mark.slow
def test_dora_trains_on_a_4_bit_base_and_is_planned_there(tmp_path):
    section = 'lora={"use_dora": true}'
    result = quick("sft", tmp_path, section, "use_4bit=true", "max_steps=2", "save_strategy=no")
    assert json.loads((result.model_dir / "adapter_config.json").read_text())["use_dora"]
    plain, dora = (
        plan(load("sft", "use_4bit=true", **more), budget_gb=8) for more in ({}, {"use_dora": True})
    )
    assert dora.parts["LoRA"] > plain.parts["LoRA"] > 0


@pytest.mark.parametrize(
    "section",
    [{"init_lora_weights": "orthogonal"}, {"init_lora_weights": "olora"}]
    + [{"peft_type": name} for name in ("LOHA", "LOKR", "HRA")],
)
def test_what_needs_whole_weights_is_refused_where_they_are_quantised(section):
    (field,) = section
    values = {k: v for k, v in ia3_values().items() if k != "use_4bit"}
    for bits in ("use_4bit", "use_8bit"):
        with pytest.raises(modelforge.ConfigError, match=f"lora.{field}: .* are quantised"):
            modelforge.load_config(values | {"lora": section, bits: True})
    facts = Facts(modelforge.get_strategy("sft")(), card(16))
    assert fill(modelforge.load_config(values), facts).settings.use_4bit
    filled = fill(modelforge.load_config(values | {"lora": section}), facts)
    assert not filled.settings.use_4bit and "weights" in filled.choices["use_4bit"].reason


def test_activations_stay_where_there_is_no_card(tmp_path):
    said = (f"output_dir={tmp_path}", "report_to=none", "activation_offloading=true")
    prepared = prepare(load("sft", *said))
    assert prepared.args.activation_offloading is False
    assert "no GPU" in prepared.config.choices["activation_offloading"].reason


@pytest.mark.slow
@pytest.mark.parametrize(
    "section",
    [
        {"init_lora_weights": "pissa"},
        {"target_parameters": ["q_proj.weight"], "target_modules": ["v_proj"]},
        {"trainable_token_indices": [5, 6], "target_modules": ["v_proj"]},
        {"peft_type": "IA3"},
        *({"peft_type": kind, "target_modules": ["v_proj"]} for kind in KINDS[2:]),
    ],
    ids=lambda section: section.get("peft_type") or next(iter(section)),
)
def test_other_beginnings_and_methods_train_and_load_as_they_were_saved(tmp_path, section):
    values = ia3_values() | {"lora": section, "output_dir": str(tmp_path), "report_to": "none"}
    values |= {"model_name": str(shallow()), "dataset": str(few("sft_train", 200))}
    values |= {"eval_dataset": str(held_out("sft", 8)), "max_steps": 2, "learning_rate": 0.005}
    values |= {"eval_strategy": "no", "save_strategy": "no"}
    result = modelforge.train(values)
    assert result.after["eval_loss"] < result.before["eval_loss"]
    saved = json.loads((result.run_dir / "results.json").read_text())["saved"]
    assert saved["difference"] < 1e-3


@pytest.mark.parametrize("strategy", ["dpo", "ppo"])
def test_dropout_that_is_off_is_off_in_attention_too(strategy, tmp_path):
    """A number of the attention's, no module: TRL leaves it, and both sides of a ratio differ."""
    shutil.copytree(ROOT / "examples" / "tiny" / "model", tmp_path / "model")
    shape = tmp_path / "model" / "config.json"
    shape.write_text(json.dumps(json.loads(shape.read_text()) | {"attention_dropout": 0.5}))
    said = [f"output_dir={tmp_path}", f"model_name={tmp_path / 'model'}", "report_to=none"]
    path = TINY / f"{strategy}.json"
    prepared = prepare(modelforge.load_config(path, overrides=said))
    prepared.run.path.mkdir(parents=True)
    model = build_trainer(prepared, load_weights(prepared)).model
    rates = {m.attention_dropout for m in model.modules() if hasattr(m, "attention_dropout")}
    assert rates == {0.0} and model.config.attention_dropout == 0.5
