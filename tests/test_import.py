"""Configs of other trainers become configs of ours, and nothing of them vanishes unsaid."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modelforge
from modelforge import ConfigError, load_config
from modelforge.cli import main as cli
from modelforge.configfile import peers
from modelforge.importing import carry, projects
from modelforge.importing.carry import import_config
from modelforge.importing.told import table_of

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
PEERS = ROOT.parent / "shared" / "cases" / "peer_configs"

LLAMAFACTORY = """
model_name_or_path: MODEL
trust_remote_code: true
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: q_proj,v_proj
dataset: mine,other
dataset_dir: data
template: default
cutoff_len: 128
max_samples: 24
preprocessing_num_workers: 16
output_dir: saves/mine
logging_steps: 1
overwrite_output_dir: true
report_to: none
per_device_train_batch_size: 2
gradient_accumulation_steps: 2
learning_rate: 1.0e-3
max_steps: 2
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: false
resume_from_checkpoint: null
"""
AXOLOTL = """
base_model: some/base
load_in_8bit: false
load_in_4bit: true
rl: dpo
datasets:
  - path: some/pairs
    split: train
    type: chat_template.default
    field_messages: talk
    field_chosen: good
    field_rejected: bad
    message_property_mappings: {role: role, content: content}
  - {path: other/pairs, type: chatml.intel}
val_set_size: 0
sequence_len: 1024
sample_packing: false
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 2
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 2e-4
bf16: auto
tf32: false
gradient_checkpointing: true
attn_implementation: flash_attention_2
warmup_ratio: 0.1
saves_per_epoch: 2
wandb_entity: us
unfrozen_parameters: [lm_head]
special_tokens: {pad_token: "<|pad|>"}
colour: green
"""
SWIFT = """
SYSTEM='Be brief.
Be right.'
CUDA_VISIBLE_DEVICES=0,1 \\
NPROC_PER_NODE=2 \\
swift rlhf \\
    --rlhf_type grpo \\
    --model Qwen/Qwen2.5-3B-Instruct \\
    --tuner_type lora \\
    --dataset 'AI-ModelScope/gsm8k#500' mine.jsonl \\
    --columns '{"frage": "query"}' \\
    --torch_dtype bfloat16 \\
    --max_length 1024 \\
    --max_completion_length 512 \\
    # --temperature 2 \\
    --reward_funcs format my_reward \\
    --reward_weights 0.5 1 \\
    --gradient_accumulation_steps $(expr 16 / 2) \\
    --target_modules all-linear \\
    --split_dataset_ratio 0.1 \\
    --system "$SYSTEM" \\
    --deepspeed zero2 \\
    --model_name swift-robot
"""
TORCHTUNE = """
output_dir: /tmp/out
model:
  _component_: torchtune.models.llama3_1.qlora_llama3_1_8b
  lora_attn_modules: [q_proj, v_proj, output_proj]
  apply_lora_to_mlp: True
  apply_lora_to_output: False
  lora_rank: 8
  lora_alpha: 16
tokenizer:
  _component_: torchtune.models.llama3.llama3_tokenizer
  path: /tmp/llama/tokenizer.model
  max_seq_len: null
checkpointer:
  _component_: torchtune.training.FullModelHFCheckpointer
  checkpoint_dir: /tmp/llama/
  output_dir: ${output_dir}
  model_type: LLAMA3
dataset: {_component_: torchtune.datasets.alpaca_cleaned_dataset, packed: True}
seed: null
shuffle: True
batch_size: 2
optimizer: {_component_: torch.optim.AdamW, fused: True, weight_decay: 0.01, lr: 3e-4}
lr_scheduler:
  _component_: torchtune.training.lr_schedulers.get_cosine_schedule_with_warmup
  num_warmup_steps: 100
loss: {_component_: torchtune.modules.loss.LinearCrossEntropyLoss}
epochs: 1
max_steps_per_epoch: null
gradient_accumulation_steps: 8
dtype: bf16
enable_activation_checkpointing: True
"""
UNSLOTH = {
    "FastLanguageModel.from_pretrained": {
        "model_name": "unsloth/llama-3-8b-bnb-4bit", "max_seq_length": 2048, "load_in_4bit": True,
    },
    "get_peft_model": {
        "r": 16, "target_modules": ["q_proj", "v_proj", "embed_tokens"], "lora_alpha": 16,
        "use_gradient_checkpointing": "unsloth", "random_state": 3407, "use_rslora": True,
    },
    "SFTConfig": {"per_device_train_batch_size": 2, "max_steps": 60, "learning_rate": 2e-4,
                  "optim": "adamw_8bit", "seed": 3407, "report_to": "none"},
    "dataset": "rows.jsonl",
}  # fmt: skip


def imported(tmp_path, text, name="their.yaml", **options):
    path = tmp_path / name
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return import_config(path, target=tmp_path, **options)


def became(found, kind):
    return {line.theirs: line for line in found.lines if line.became == kind}


def unsaid(found, values):
    """The keys of a file that no line speaks of."""
    told = [(line.theirs, line.note) for line in found.lines if line.theirs]
    return [
        key
        for key, _ in peers.leaves(values)
        if not any(
            at == key
            or (key.startswith((f"{at}.", f"{at}[")) and "read with the others" not in note)
            or at.startswith((f"{key}.", f"{key}["))
            for at, note in told
        )
    ]


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["modelforge", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def llamafactory_folder(folder):
    """A config of LLaMA-Factory with its data: two sets of dataset_info.json."""
    data = folder / "data"
    data.mkdir(parents=True)
    rows = [json.loads(line) for line in (TINY / "data" / "sft_train.jsonl").open()][:24]
    said = [[message["content"] for message in row["messages"]] for row in rows]
    mine = [{"frage": q, "antwort": a} for q, a in said]
    other = [
        {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in said
    ]
    (data / "mine.json").write_text(json.dumps(mine))
    (data / "other.json").write_text(json.dumps(other))
    info = {
        "mine": {
            "file_name": "mine.json",
            "columns": {"prompt": "frage", "response": "antwort"},
        },
        "other": {"file_name": "other.json", "formatting": "sharegpt", "num_samples": 8},
    }
    (data / "dataset_info.json").write_text(json.dumps(info))
    (folder / "lora.yaml").write_text(LLAMAFACTORY.replace("MODEL", str(TINY / "model")))
    return folder / "lora.yaml"


@pytest.mark.slow
def test_a_config_of_llamafactory_is_carried_over_checked_and_trained(
    tmp_path, monkeypatch, capsys
):
    theirs = llamafactory_folder(tmp_path)
    ours = tmp_path / "ours" / "config.json"
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "init", "--from", theirs, "-o", ours) == 0
    told = capsys.readouterr().err
    for part in ("a config of LLaMA-Factory", "strategy sft", "cutoff_len", "overwrite_output_dir"):
        assert part in told
    config = json.loads(ours.read_text())
    assert config["dataset"] == [
        {"path": "../data/mine.json", "columns": {"instruction": "frage", "output": "antwort"}},
        {"path": "../data/other.json", "max_samples": 8},
    ]
    assert config["use_4bit"] is False and config["eval_split"] == 0.0
    assert config["lora_alpha"] == 8 and config["lora_target_modules"] == ["q_proj", "v_proj"]
    assert run(monkeypatch, "check", ours) == 0
    capsys.readouterr()
    assert run(monkeypatch, "train", ours) == 0
    (model,) = (tmp_path / "saves" / "mine").glob("*/model/adapter_config.json")
    assert json.loads(model.read_text())["r"] == 4
    assert run(monkeypatch, "init", "--from", theirs, "-o", ours) == 2
    assert "is there already" in capsys.readouterr().err


@pytest.mark.parametrize("packing", ["", "packing: false\n", "packing: true\n"])
def test_pretraining_of_llamafactory_reads_the_prompt_as_plain_text_and_packs(tmp_path, packing):
    sets = {"plain": {"file_name": "plain.jsonl", "columns": {"prompt": "content"}},
            "usual": {"file_name": "usual.jsonl", "columns": {"prompt": "text"}}}  # fmt: skip
    (tmp_path / "dataset_info.json").write_text(json.dumps(sets))
    for name, column in (("plain", "content"), ("usual", "text")):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({column: "Once there was."}) + "\n")
    text = "model_name_or_path: m\nstage: pt\ndo_train: true\nfinetuning_type: lora\n"
    text += f"template: default\ndataset: plain,usual\ndataset_dir: {tmp_path}\n{packing}"
    config = imported(tmp_path, text).config
    plain, usual = config["dataset"]
    assert plain["columns"] == {"text": "content"} and isinstance(usual, str)
    packs = "false" not in packing
    assert config.get("packing") is packs
    assert config.get("packing_strategy") == ("wrapped" if packs else None)


def test_names_without_a_dataset_info_are_to_settle_one_by_one(tmp_path):
    left = became(imported(tmp_path, LLAMAFACTORY), "open")
    assert [left[f"dataset[{at}]"].value for at in (0, 1)] == ["mine", "other"]


def test_a_config_of_axolotl(tmp_path):
    found = imported(tmp_path, AXOLOTL)
    assert found.project == "Axolotl" and not found.doubt
    config = found.config
    assert config["strategy"] == "dpo" and config["use_4bit"] is True and config["lora_r"] == 32
    assert config["dataset"] == [
        {
            "path": "some/pairs",
            "split": "train",
            "columns": {"messages": "talk", "chosen": "good", "rejected": "bad"},
        },
        "other/pairs",
    ]
    assert config["save_steps"] == 0.25 and config["eval_split"] == 0.0
    assert config["lora_target_modules"] == "all-linear" and "bf16" not in config
    assert config["num_train_epochs"] == 2 and config["pad_token"] == "<|pad|>"
    lost = became(found, "lost")
    assert set(lost) == {"wandb_entity", "unfrozen_parameters", "colour"}
    assert "is not known" in lost["colour"].note


def test_alpaca_s_prompt_stays_alpaca_s(tmp_path):
    text = AXOLOTL.replace("rl: dpo\n", "").replace("type: chat_template.default", "type: alpaca")
    found = imported(tmp_path, text.replace("type: chatml.intel", "type: alpaca"))
    assert found.config["prompt_layout"] == "alpaca" and found.config["strategy"] == "qlora"
    found = imported(tmp_path, text)
    assert "prompt_layout" not in found.config and "datasets[].type" in became(found, "open")


def test_trl_trains_all_weights_unless_it_is_told_otherwise(tmp_path):
    base = (
        "model_name_or_path: m\ndataset_name: org/set\ndataset_config: main\nlearning_rate: 1e-4\n"
    )
    found = imported(tmp_path, base)
    assert found.config["lora_r"] == 0 and found.config["strategy"] == "sft"
    assert found.config["max_seq_length"] == 1024 and found.config["use_4bit"] is False
    assert found.config["dataset"] == [{"path": "org/set", "name": "main"}]
    assert "strategy" in {line.ours for line in became(found, "open").values()}  # a guess is said
    found = imported(tmp_path, base + "use_peft: true\nload_in_4bit: true\nmax_length: 512\n")
    assert found.config["strategy"] == "qlora" and found.config["lora_dropout"] == 0.05
    found = imported(tmp_path, base + "use_peft: true\nmax_length: 512\n", strategy="grpo")
    assert found.config["max_seq_length"] == 512 + 256 and found.config["strategy"] == "grpo"


@pytest.mark.parametrize(("way", "ours"), [("full", "dtype"), ("lora", "bf16")])
def test_pure_bf16_is_the_type_of_what_is_trained(tmp_path, way, ours):
    text = f"stage: sft\nmodel_name_or_path: org/m\nfinetuning_type: {way}\npure_bf16: true\n"
    found = imported(tmp_path, text + "dataset: alpaca\n")
    assert found.config[ours] == {"dtype": "bfloat16", "bf16": True}[ours]
    assert len({"dtype", "bf16"} & found.config.keys()) == 1


def test_an_alignment_handbook_recipe_and_its_mixture(tmp_path):
    text = """
model_name_or_path: org/model
torch_dtype: bfloat16
chat_template: "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
dataset_mixture:
  datasets:
    - {id: org/a, config: c, split: train, weight: 0.5, columns: [messages]}
    - {id: org/b, split: train, weight: 1.0}
  test_split_size: 1000
  seed: 0
learning_rate: 1.0e-5
max_length: 2048
"""
    found = imported(tmp_path, text, strategy="sft")
    assert found.project == "alignment-handbook" and found.config["eval_split"] == 1000
    assert found.config["dtype"] == "bfloat16" and found.config["lora_r"] == 0
    assert found.config["dataset"][0] == {"path": "org/a", "name": "c", "split": "train"}
    assert list(became(found, "lost")) == ["dataset_mixture.datasets[0].weight"]
    assert (
        found.config["chat_template"] == "their.jinja" and "eos_token" in found.files["their.jinja"]
    )


def test_a_script_of_swift_and_its_environment(tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}\n")
    found = imported(tmp_path, SWIFT, "run.sh")
    config = found.config
    assert (found.project, config["strategy"]) == ("ms-swift", "grpo")
    assert config["dataset"] == [
        {"path": "AI-ModelScope/gsm8k", "max_samples": 500},
        "mine.jsonl",
    ]
    assert config["columns"] == {"prompt": "frage"}
    assert config["max_seq_length"] == 1536 and config["gradient_accumulation_steps"] == 8
    assert config["system_prompt"] == "Be brief.\nBe right."
    assert config["distributed"] == {"backend": "zero2", "num_processes": 2}
    assert "temperature" not in config["generation"] or config["generation"]["temperature"] == 0.9
    assert "model_name" in became(found, "lost")  # the name of the bot, which is no model
    assert config["model_name"] == "Qwen/Qwen2.5-3B-Instruct"
    assert "CUDA_VISIBLE_DEVICES" in became(found, "unneeded")
    assert any("rewards.py" in str(line.note) for line in found.lines)


def test_evaluations_without_rows_to_evaluate_on_are_left_out(tmp_path):
    text = SWIFT.replace("--split_dataset_ratio 0.1", "--eval_steps 100").replace("run.sh", "")
    found = imported(tmp_path, text, "run.sh")
    assert "eval_steps" not in found.config and found.config["eval_split"] == 0
    assert "no rows are held out" in became(found, "unneeded")["eval_steps"].note
    text = AXOLOTL + "eval_steps: 10\nload_best_model_at_end: true\n"
    assert not {"eval_steps", "load_best_model_at_end"} & set(imported(tmp_path, text).config)
    held = imported(tmp_path, SWIFT.replace("--deepspeed", "--eval_steps 100 --deepspeed"), "r.sh")
    assert held.config["eval_steps"] == 100


def test_a_reward_that_cannot_be_is_to_settle_and_the_others_stay(tmp_path):
    text = "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nreward_weights: [1.0, 0.5]\n"
    found = imported(tmp_path, text + "reward_funcs: [no_such_module.mine, think_format_reward]\n")
    assert found.config["rewards"] == [{"name": "think_format_reward", "weight": 0.5}]
    assert "no installed module" in became(found, "open")["reward_funcs[0]"].note
    assert became(found, "changed")["reward_funcs[1]"].ours == "rewards"


def test_a_recipe_of_torchtune(tmp_path):
    found = imported(tmp_path, TORCHTUNE)
    config = found.config
    assert (found.project, config["strategy"]) == ("torchtune", "qlora")
    assert config["model_name"] == "/tmp/llama" and config["dataset"] == "yahma/alpaca-cleaned"
    assert config["lora_target_modules"] == [
        *("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    ]
    assert config["learning_rate"] == 3e-4 and config["packing"] is True
    assert config["warmup_steps"] == 100 and config["optim"] == "adamw_torch_fused"


def test_the_arguments_of_unsloth_as_json_and_in_a_script(tmp_path):
    found = imported(tmp_path, UNSLOTH, "unsloth.json")
    config = found.config
    assert (found.project, config["strategy"]) == ("Unsloth", "qlora")
    assert config["lora"] == {"use_rslora": True} and config["lora_modules_to_save"] == [
        "embed_tokens"
    ]
    assert config["gradient_checkpointing"] is True and config["max_steps"] == 60
    flat = {key: value for part in UNSLOTH.values() if isinstance(part, dict)
            for key, value in part.items()} | {"dataset": "rows.jsonl"}  # fmt: skip
    again = imported(tmp_path, flat, "flat.json").config
    assert {**again, "strategy": "qlora"} == config
    script = f"""
from unsloth import FastLanguageModel
rank = 16
model, tokenizer = FastLanguageModel.from_pretrained(
    **{{}}, model_name="m", max_seq_length=512, load_in_4bit=False)
model = FastLanguageModel.get_peft_model(model, r=rank, lora_alpha=2 * rank)
dataset = load_dataset("json", data_files="rows.jsonl", split="train")
trainer = SFTTrainer(model=model, args=SFTConfig(max_steps=5, seed={3407}))
"""
    found = imported(tmp_path, script, "train.py")
    assert found.config["dataset"] == "rows.jsonl" and found.config["lora_r"] == 16
    assert found.config["use_4bit"] is False and "lora_alpha" in became(found, "open")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("model_name_or_path: m\nstage: sft\ndataset: d\nimage_max_pixels: 262144\n", "pictures"),
        ("model_name_or_path: Qwen/Qwen3-VL-4B\nstage: sft\ndataset: d\ntemplate: x\n", "pictures"),
        ("model_name_or_path: m\nstage: dpo\npref_loss: orpo\ndataset: d\n", "the loss orpo"),
        ("model_name_or_path: m\nstage: sft\nfinetuning_type: freeze\ndataset: d\n", "freeze is"),
        ("model_name_or_path: m\nstage: sft\nquantization_bit: 3\ndataset: d\n", "3-bit"),
        ("base_model: m\nrl: orpo\ndatasets: [{path: d}]\nadapter: lora\n", "ORPO"),
        ("base_model: m\nqat: {x: 1}\ndatasets: [{path: d}]\nadapter: lora\n", "quantisation"),
        ("base_model: m\ndatasets: [{path: d, type: stepwise_supervised}]\n", "each step"),
        ("model: m\ntuner_type: lora\ndataset: [d]\ntask_type: reranker\n", "reranker"),
        ("model: m\ntuner_type: lora\nrlhf_type: cpo\ndataset: [d]\n", "CPO"),
        ("model: m\ntuner_type: lora\nsequence_parallel_size: 4\ndataset: [d]\n", "another engine"),
        ("model: m\nrlhf_type: grpo\ndataset: [d]\ntrain: {gpus: 4}\n", "another engine"),
        ("model: m\ndataset: [d]\nsampler_type: distill\n", "no training"),
        ("distributed_type: FSDP\nnum_processes: 2\n", "Accelerate's file"),
        ("model_name_or_path: m\nstage: sft\nfinetuning_type: lora\n", "is no training"),
        ("model_name_or_path: m\nuse_peft: true\ndataset_train_split: a\n", "names no data set"),
        ("apples: 3\n", "no key by which its project is told"),
    ],
)  # fmt: skip
def test_what_is_not_trained_here_is_refused_by_name(tmp_path, text, reason):
    with pytest.raises(ConfigError) as caught:
        imported(tmp_path, text)
    assert len(caught.value.problems) == 1 and reason in str(caught.value)


def test_the_user_settles_a_doubt(tmp_path):
    text = "model_name_or_path: m\nuse_peft: true\n"
    found = imported(tmp_path, text, strategy="reward", overrides=["dataset=pairs.jsonl"])
    assert found.config["strategy"] == "reward" and found.config["dataset"] == "pairs.jsonl"
    found = imported(tmp_path, text, project="handbook", overrides=["dataset=d", "lora_r=4"])
    assert found.project == "alignment-handbook" and found.config["lora_r"] == 4
    with pytest.raises(ConfigError, match="--project lama: is no project"):
        imported(tmp_path, text, project="lama")
    with pytest.raises(ConfigError, match="lora_r"):
        imported(tmp_path, text, overrides=["dataset=d", "lora_r=-4"])


def test_two_rows_a_pass_for_kto_and_the_rows_of_a_step_stay(tmp_path):
    text = "model_name_or_path: m\nstage: kto\ndataset: d\nper_device_train_batch_size: 1\n"
    config = imported(tmp_path, text + "gradient_accumulation_steps: 8\n").config
    assert (config["per_device_train_batch_size"], config["gradient_accumulation_steps"]) == (2, 4)


@pytest.mark.parametrize("text", [LLAMAFACTORY, AXOLOTL, TORCHTUNE, json.dumps(UNSLOTH)])
def test_training_by_their_config_says_the_one_command(tmp_path, text):
    path = tmp_path / "their.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    (problem,) = caught.value.problems
    assert problem.what.startswith("is a config of ")
    assert f"modelforge init --from {path} -o their.json" in problem.fix
    (tmp_path / "run.sh").write_text(SWIFT)
    with pytest.raises(ConfigError, match="init --from"):
        load_config(tmp_path / "run.sh")


def test_each_table_has_its_project():
    assert set(projects.PROJECTS) == set(peers.PROJECTS)


def test_a_table_names_functions_that_are_there_and_each_key_once():
    for project in peers.PROJECTS:
        table = peers.table(project)
        for name, (function, _) in table.converted.items():
            assert callable(carry._function(function)), (project, name)
        classes = [table.renamed, table.valued, table.converted, table.unneeded, table.lost,
                   table.refused, table.by_hand]  # fmt: skip
        keys = [key for entries in classes for key in entries]
        assert len(keys) == len(set(keys)), project


VALUES = st.one_of(
    *(st.none(), st.booleans(), st.integers(-2, 9), st.floats(0, 2, allow_nan=False)),
    *(
        st.sampled_from(["auto", "4", "lora", "a,b", "{}", "x/y"]),
        st.lists(st.just("a"), max_size=2),
    ),
    st.dictionaries(st.sampled_from(["name", "path", "type"]), st.just("a"), max_size=2),
)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_no_key_of_a_file_vanishes_unsaid(data, tmp_path_factory):
    project = data.draw(st.sampled_from(peers.PROJECTS))
    table = peers.table(project)
    names = sorted({*table.renamed, *table.valued, *table.converted, *table.unneeded, *table.lost,
                    "made_up", "learning_rate", "seed"} - {"strategy"})  # fmt: skip
    keys = data.draw(st.lists(st.sampled_from(names), max_size=8, unique=True))
    values = {key: data.draw(VALUES) for key in keys}
    path = tmp_path_factory.mktemp("import") / "their.json"
    path.write_text(json.dumps(values))
    said = ["model_name=m", "dataset=d.jsonl"]
    try:
        found = import_config(path, project=project, overrides=said, strategy="sft")
    except ConfigError as error:
        assert all(problem.what for problem in error.problems)
        return
    assert not unsaid(found, values)
    load_config(found.config)
    assert all(isinstance(line, str) for line in table_of(found))


@pytest.mark.parametrize("project", peers.PROJECTS)
def test_a_key_that_nobody_knows_is_named_in_whatever_section_it_stands(project, tmp_path):
    path = tmp_path / "their.json"
    said = ["model_name=m", "dataset=d.jsonl"]
    whole = {"llamafactory": {"train_dataset": "d"}, "torchtune": {"optimizer": {"lr": 1}}}
    for section in peers.table(project).sections:
        values = {"model": {"x": 1}, **whole.get(project, {}), section: {"made_up": 7, "seed": 3}}
        path.write_text(json.dumps(values))
        found = import_config(path, project=project, overrides=said, strategy="grpo")
        lines = {line.theirs: line for line in found.lines}
        line = lines.get(f"{section}.made_up") or lines[section]  # a section may be told as one
        assert line.became in ("lost", "unneeded") and "read with" not in line.note, section


def test_the_grpo_of_axolotl_keeps_its_section(tmp_path):
    text = """
base_model: m
rl: gdpo
adapter: lora
datasets: [{path: openai/gsm8k, type: rewards.transform}]
trl: {beta: 0.001, num_generations: 4, max_completion_length: 128, temperature: 0.7,
      scale_rewards: true, reward_funcs: [accuracy_reward], made_up: 3}
"""
    found = imported(tmp_path, text)
    config = found.config
    assert config["strategy"] == "grpo"
    assert config["multi_objective_aggregation"] == "normalize_then_sum"
    assert (config["beta"], config["num_generations"]) == (0.001, 4)
    assert config["generation"] == {"max_new_tokens": 128, "temperature": 0.7}
    assert config["scale_rewards"] == "group" and config["rewards"]
    assert set(became(found, "lost")) == {"trl.made_up"}
    assert "datasets[0].type" in became(found, "open")


@pytest.mark.skipif(not PEERS.is_dir(), reason="needs the folder of real configs")
@pytest.mark.parametrize(
    "name", sorted(p.name for p in PEERS.glob("*.y*ml")) if PEERS.is_dir() else []
)
def test_the_ten_configs_of_peers(name):
    import yaml

    found = import_config(PEERS / name)
    load_config(found.config)
    values = yaml.safe_load((PEERS / name).read_text())
    assert not unsaid(found, values)
    assert not became(found, "lost")
    wanted = {"lf_qwen3_lora_dpo": "dpo", "lf_qwen3_lora_kto": "kto", "axolotl_qlora": "qlora",
              "handbook_zephyr_dpo_qlora": "dpo", "axolotl_instruct-dpo-lora-8b": "dpo",
              "lf_qwen3_lora_sft_otfq": "qlora"}  # fmt: skip
    assert found.config["strategy"] == wanted.get(name.partition(".")[0], "sft")


def test_init_asks_for_a_strategy_or_a_file(monkeypatch, capsys):
    assert run(monkeypatch, "init") == 2
    assert "--from FILE" in capsys.readouterr().err
    assert run(monkeypatch, "init", "sft", "--set", "lora_r=8") == 2


V1 = "model: m\ntrain_dataset: d\nglobal_batch_size: 8\n"


@pytest.mark.parametrize(
    ("text", "options", "wanted"),
    [
        (  # LLaMA-Factory 1: other defaults than its version 0
            f"{V1}micro_batch_size: 2\npeft_config: {{name: lora, r: 16}}\n",
            {"project": "llamafactory"},
            {"lr_scheduler_type": "constant", "weight_decay": 0.01, "learning_rate": 1e-4,
             "gradient_accumulation_steps": 4, "lora_alpha": 16, "lora_dropout": 0.05},
        ),
        (  # version 0 says no stage: it is sft, and of LoRA
            "model_name_or_path: m\ndataset: d\ntemplate: qwen\ncutoff_len: 64\n",
            {},
            {"strategy": "sft", "lora_r": 8, "lr_scheduler_type": "linear"},
        ),
        (
            "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nload_in_4bit: true\n",
            {},
            {"use_double_quant": False},
        ),
        (
            "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nload_in_4bit: true\n"
            "use_bnb_nested_quant: true\n",
            {},
            {"use_double_quant": True},
        ),
        (  # ms-swift fills a step up to 16 rows
            "model: m\ndataset: d\ntuner_type: lora\nper_device_train_batch_size: 3\n",
            {},
            {"gradient_accumulation_steps": 6},
        ),
        (
            "model: m\ndataset: d\ntuner_type: lora\nrlhf_type: grpo\n"
            "per_device_train_batch_size: 8\n",
            {},
            {"gradient_accumulation_steps": 1},
        ),
        (TORCHTUNE, {}, {"train_on": "everything"}),
        (
            "model_name_or_path: m\nstage: kto\ndataset: d\nper_device_train_batch_size: 1\n"
            "gradient_accumulation_steps: 7\n",
            {},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        ),
    ],
)  # fmt: skip
def test_a_silent_file_means_here_what_it_means_there(tmp_path, text, options, wanted):
    config = imported(tmp_path, text, **options).config
    assert {key: config.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("project", "values"),
    [
        ("trl", {"max_completion_length": "many"}),
        ("trl", {"loss_type": [{"name": "a"}], "reward_funcs": {"a": 1}}),
        ("llamafactory", {"stage": "sft", "dataset": "d", "lora_rank": "big"}),
        ("llamafactory", {"stage": "kto", "dataset": "d", "per_device_train_batch_size": 1,
                          "gradient_accumulation_steps": "some"}),
        ("swift", {"dataset": "d", "per_device_train_batch_size": [2]}),
        ("swift", {"dataset": "d", "per_device_train_batch_size": -1, "tuner_type": {"a": 1}}),
        ("axolotl", {"rl": ["dpo"], "adapter": {"a": 1}, "plugins": 3}),
        ("torchtune", {"model": [1], "optimizer": 3, "loss": "x", "dataset": ["d"]}),
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_said(tmp_path, project, values):
    said = {"project": project, "overrides": ["model_name=m", "dataset=d.jsonl"]}
    try:
        found = imported(tmp_path, values, "their.json", **said)
    except ConfigError as error:
        assert all(any(key in str(problem) for key in values) for problem in error.problems)
    else:
        load_config(found.config)
        assert not unsaid(found, values)


def test_what_trl_and_swift_do_otherwise_is_said(tmp_path):
    for line in ("", "assistant_only_loss: false\n"):
        found = imported(tmp_path, TRL + line, strategy="sft")
        assert "every token of messages" in became(found, "open")["assistant_only_loss"].note
    found = imported(tmp_path, TRL + "assistant_only_loss: true\n", strategy="sft")
    assert not became(found, "open")
    found = imported(tmp_path, "model: m\ndataset: d\ntuner_type: lora\n")
    assert "max_seq_length" in {line.ours for line in found.lines if line.became == "open"}
    assert "max_seq_length" not in found.config


TRL = "model_name_or_path: m\ndataset_name: d\nuse_peft: true\nlearning_rate: 5e-6\n"


@pytest.mark.parametrize(
    ("name", "text", "words", "says"),
    [
        ("gone.yaml", None, (), "no such file"),
        (".", None, (), "is a folder"),
        ("their.yaml", "", (), "give the config of another trainer"),
        ("their.yaml", "- a\n- b\n", (), "give the config of another trainer"),
        ("their.yaml", "stage: sft\n\tdataset: d\n", (), "YAML allows no tabs"),
        ("their.json", '{"stage": "sft"', (), "the file ends too early"),
        ("their.yaml", TRL, ("-o", "their.yaml/ours.json"), "cannot be written"),
        ("their.yaml", TRL, ("--set", "lora_rr=3"), "lora_rr"),
    ],
)
def test_what_cannot_be_carried_over_is_one_message(
    tmp_path, monkeypatch, capsys, name, text, words, says
):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path(name).write_text(text)
    before = sorted(tmp_path.iterdir())
    assert run(monkeypatch, "init", "--from", name, *words) == 2
    told = capsys.readouterr().err
    assert says in " ".join(told.split()) and "1 problem" in told
    assert sorted(tmp_path.iterdir()) == before


def test_a_carried_over_config_is_yaml_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("their.yaml").write_text(TRL)
    assert run(monkeypatch, "init", "sft", "--from", "their.yaml", "--yaml") == 0
    printed = capsys.readouterr().out
    assert run(monkeypatch, "init", "sft", "--from", "their.yaml", "-o", "ours.yaml") == 0
    assert Path("ours.yaml").read_text() == printed and printed.startswith("strategy: sft\n")
    assert load_config("ours.yaml").said["learning_rate"] == 5e-6


SECTIONS = {
    "ppo": """
model: {name: gpt2, reward_head_hidden_size: 256}
dataset: {name: Anthropic/hh-rlhf, max_length: 512, split: train}
training: {num_epochs: 3, batch_size: 4, gradient_accumulation_steps: 4, fp16: true}
optimization: {learning_rate: 1e-5, warmup_steps: 100, weight_decay: 0.01, max_grad_norm: 1.0}
algorithm: {name: ppo, kl_penalty: 0.1, clip_ratio: 0.2, gamma: 0.99, lam: 0.95}
generation: {max_new_tokens: 128, temperature: 0.7, top_p: 0.9, do_sample: true}
""",
    "reward": """
model: {base_model: gpt2, reward_head_hidden_size: 512}
dataset: {path: pairs.jsonl, max_length: 512}
training: {num_epochs: 1, batch_size: 8, fp16: true, loss_type: ranking_loss}
optimization: {learning_rate: 1e-5, optimizer: adamw}
""",
    "grpo": """
model: {name: m, use_lora: true, lora_r: 8}
dataset: {train_path: p.jsonl, eval_path: e.jsonl}
algorithm: {name: grpo, group_size: 8, kl_penalty: 0.04, clip_ratio: 0.2}
training: {num_epochs: 1, batch_size: 8}
generation: {max_length: 512, max_new_tokens: 256}
""",
    "dpo": """
model: {model_name_or_path: m, load_in_4bit: true}
data: {train_file: a.jsonl, validation_file: b.jsonl}
training: {method: dpo, beta: 0.1, learning_rate: 5e-7, epochs: 1}
lora: {enabled: true, r: 16, alpha: 32, dropout: 0.05, target_modules: [q_proj, v_proj]}
""",
    "rlhf": """
model: {name: gpt2}
dataset: {name: Anthropic/hh-rlhf}
training: {num_epochs: 1, batch_size: 2}
algorithm: {type: rlhf}
sft: {num_epochs: 2, learning_rate: 2e-5}
reward_model: {loss_type: ranking_loss, learning_rate: 1e-5}
ppo: {clip_ratio: 0.2, kl_penalty: 0.1, ppo_epochs: 4, value_coef: 0.1}
""",
    "sft": '{"base_model": "m", "dataset_path": "d.jsonl", "method": "sft", "num_epochs": 3, '
    '"batch_size": 4, "learning_rate": "2e-5", "max_length": 512}',
    "qlora": '{"model_name": "m", "dataset_path": "d.jsonl", "training_type": "qlora", '
    '"num_epochs": 3, "batch_size": 4, "lora_rank": 16, "quantization": "4bit"}',
}


@pytest.mark.parametrize("strategy", SECTIONS)
def test_a_config_in_sections_or_with_plain_names(tmp_path, strategy):
    import yaml

    found = imported(tmp_path, SECTIONS[strategy])
    config = found.config
    assert config["strategy"] == strategy and not became(found, "lost")
    assert not unsaid(found, yaml.safe_load(SECTIONS[strategy]))
    wanted = {
        "ppo": {"ppo": {"kl_coef": 0.1, "clip_range": 0.2, "gamma": 0.99, "gae_lambda": 0.95},
                "per_device_train_batch_size": 4, "warmup_steps": 100, "fp16": True},
        "reward": {"max_seq_length": 512, "optim": "adamw_torch"},
        "grpo": {"num_generations": 8, "beta": 0.04, "epsilon": 0.2, "eval_dataset": "e.jsonl"},
        "dpo": {"lora_r": 16, "lora_alpha": 32, "use_4bit": True, "learning_rate": 5e-7},
        "rlhf": {"stages": ["sft", "reward", "ppo"], "reward_stage": {"learning_rate": 1e-5},
                 "sft_stage": {"num_train_epochs": 2, "learning_rate": 2e-5}},
        "sft": {"learning_rate": 2e-5, "num_train_epochs": 3},
        "qlora": {"use_4bit": True, "lora_r": 16},
    }[strategy]  # fmt: skip
    assert wanted.items() <= config.items()
    path = tmp_path / "their.yaml"
    with pytest.raises(ConfigError, match="is a config of another trainer → `modelforge init"):
        load_config(path)


def test_the_names_of_other_libraries_say_what_to_write():
    for name, said in (
        ("SFTTrainer", '"strategy": "sft"'),
        ("RewardModelTrainer", '"strategy": "reward"'),
        ("PPOConfig", '"strategy": "ppo"'),
        ("LoraConfig", "lora_r"),
        ("train_dpo", '"strategy": "dpo"'),
    ):
        with pytest.raises(ImportError) as caught:
            getattr(modelforge, name)
        assert f"modelforge has no {name}: " in str(caught.value) and said in str(caught.value)
    assert not hasattr(modelforge, "spam")
    program = "from modelforge import SFTTrainer\nSFTTrainer('c.yaml').train()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: modelforge has no SFT")


def test_rlhf_config_from_yaml(tmp_path):
    path = tmp_path / "rlhf.yaml"
    path.write_text("model_name: m\ndataset: d.jsonl\nppo: {kl_coef: 0.2}\n")
    config = modelforge.RLHFConfig.from_yaml(path)
    assert config["ppo"] == {"kl_coef": 0.2} and config["strategy"] == "rlhf"
    path.write_text("strategy: dpo\nmodel_name: m\ndataset: d.jsonl\n")
    with pytest.raises(ConfigError, match=r"is 'dpo', not rlhf → write modelforge.train"):
        modelforge.RLHFConfig.from_yaml(path)
    path.write_text(SECTIONS["rlhf"])
    with pytest.raises(ConfigError, match="modelforge init --from"):
        modelforge.RLHFConfig.from_yaml(path)
    assert modelforge.RLHFTrainer.train is modelforge.RLHFTrainer.run


@pytest.mark.parametrize(
    ("word", "strategy"),
    [("sft", "sft"), ("train_sft", "sft"), ("train-reward-model", "reward"), ("rlhf", "rlhf"),
     ("ppo_training", "ppo"), ("dpo", "dpo"), ("finetune", "sft")],
)  # fmt: skip
def test_a_stage_of_other_scripts_is_no_command_and_says_what_is(word, strategy, command):
    code, out, err = command(word, "--config", "c.yaml")
    assert code == 2 and out == "" and f'"strategy": "{strategy}"' in err
    assert f"modelforge init {strategy}" in err


def test_a_config_may_stand_behind_the_option_that_others_have(command, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("strategy: sft\nmodel_name: m\ndataset: d.jsonl\n")
    for words in (["--config", path], [f"--config={path}"], [path]):
        assert command("check", *words, "--config-only")[0] == 0
    assert command("chek", "--config", path)[0] == 2  # the command line's own answer
