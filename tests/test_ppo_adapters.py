"""One base in four roles: scores, references and gradients are those of separate models."""

import copy
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from modelforge import load_config
from modelforge.config import Choice
from modelforge.errors import ModelError, RunError
from modelforge.models.adapters import adapter_parameters, inference, using
from modelforge.models.lora import exact_4bit_on_cpu
from modelforge.ppo.reference import CRITIC, POLICY, REFERENCE, copy_policy
from modelforge.ppo.value import Critic
from modelforge.rewards.model import RewardModel, encode
from modelforge.rewards.of_a_run import build
from modelforge.rewards.shared_base import SharedBaseReward, shares_base
from modelforge.runs import files
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

ROOT = Path(__file__).parent.parent
TINY = ROOT / "examples" / "tiny" / "model"
LORA = {"r": 4, "target_modules": "all-linear", "init_lora_weights": False}


def loading(four_bit):
    if not four_bit:
        return {"dtype": torch.float32}
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32,
        bnb_4bit_use_double_quant=True,
    )  # fmt: skip
    return {"dtype": torch.float32, "quantization_config": config}


def policy(four_bit=False):
    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(TINY, **loading(four_bit))
    model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **LORA))
    exact_4bit_on_cpu(model)
    return model


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY, padding_side="left")


@pytest.fixture(scope="module")
def chats():
    lines = (TINY.parent / "data" / "preference_eval.jsonl").read_text().splitlines()[:24]
    rows = [json.loads(line) for line in lines]
    return [r["prompt"] for r in rows] * 2, [r[k] for k in ("chosen", "rejected") for r in rows]


@pytest.fixture(scope="module")
def reward_folder(tmp_path_factory, tokenizer):
    """A reward adapter with its score head, as TRL's RewardTrainer leaves it."""
    from datasets import load_dataset
    from trl import RewardConfig, RewardTrainer

    folder = tmp_path_factory.mktemp("reward") / "run" / "model"
    data = load_dataset(
        "json", data_files=str(TINY.parent / "data" / "preference_train.jsonl"), split="train[:64]"
    )
    config = RewardConfig(
        output_dir=str(folder.parent), use_cpu=True, bf16=False, report_to="none", max_steps=6,
        learning_rate=3e-3, per_device_train_batch_size=8, disable_tqdm=True, save_strategy="no",
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(TINY, num_labels=1),
        args=config, train_dataset=data, processing_class=copy.deepcopy(tokenizer),
        peft_config=LoraConfig(
            r=4, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"]
        ),
    )  # fmt: skip
    trainer.train()
    trainer.save_model(str(folder))
    return folder


def separate_scores(folder, tokenizer, chats, four_bit):
    base = AutoModelForSequenceClassification.from_pretrained(
        TINY, num_labels=1, **loading(four_bit)
    )
    exact_4bit_on_cpu(base)  # else its scores are those of bfloat16 on some CPUs
    model = PeftModel.from_pretrained(base, folder).eval()
    model.config.pad_token_id = tokenizer.pad_token_id
    with torch.no_grad():
        return model(**encode(tokenizer, *chats)).logits[:, 0]


@pytest.mark.parametrize("four_bit", [False, True])
def test_shared_base_scores_equal_the_separate_model(reward_folder, tokenizer, chats, four_bit):
    wanted = separate_scores(reward_folder, tokenizer, chats, four_bit)
    model = policy(four_bit)
    assert shares_base(model, reward_folder.parent)
    first = SharedBaseReward(reward_folder, name="rm-v1.0", tokenizer=tokenizer).attach(model)
    copy_policy(model, REFERENCE)  # further adapters change nothing
    second = SharedBaseReward(
        reward_folder.parent, name="again", tokenizer=tokenizer, batch_size=5
    ).attach(model)
    for reward in (first, second):
        got = torch.tensor(reward(prompts=chats[0], completions=chats[1]))
        assert (got - wanted).abs().max() <= 1e-4
    assert wanted.std() > 0.01 and first.__name__ == "rm-v1.0"


@pytest.mark.parametrize("four_bit", [False, True])
def test_scoring_leaves_policy_and_reference_as_they_were(
    reward_folder, tokenizer, chats, four_bit
):
    model, inputs = policy(four_bit), encode(tokenizer, *chats)
    with inference(model):
        before = model(**inputs).logits
    reward = SharedBaseReward(reward_folder, name="rm", tokenizer=tokenizer).attach(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(adapter_parameters(model, POLICY))
    model.train()
    reward(prompts=chats[0], completions=chats[1])
    assert model.training and model.active_adapter == POLICY
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    plain = AutoModelForCausalLM.from_pretrained(TINY, **loading(four_bit)).eval()
    exact_4bit_on_cpu(plain)
    with inference(model):
        assert torch.equal(model(**inputs).logits, before)
        with using(model, None):
            reference = model(**inputs).logits
        assert torch.equal(model(**inputs).logits, before)
    with torch.no_grad():
        assert torch.equal(reference, plain(**inputs).logits)
    assert (before - reference).abs().max() > 0.01


def test_the_reference_is_a_frozen_copy_of_the_policy_as_it_was(tokenizer, chats):
    model, inputs = policy(), encode(tokenizer, *chats)
    copy_policy(model, REFERENCE)
    with inference(model):
        before = model(**inputs).logits
    for parameter in adapter_parameters(model, POLICY).values():
        parameter.data += 0.05
    with inference(model):
        assert (model(**inputs).logits - before).abs().max() > 0.01
        with using(model, REFERENCE):
            assert torch.equal(model(**inputs).logits, before)
    assert not any(p.requires_grad for p in adapter_parameters(model, REFERENCE).values())
    copy_policy(model, REFERENCE)
    with inference(model), using(model, REFERENCE):
        assert (model(**inputs).logits - before).abs().max() > 0.01


def test_two_adapters_in_one_loss_both_get_their_gradient(tokenizer, chats):
    model, inputs = policy(), encode(tokenizer, *chats)
    model.add_adapter("critic", model.peft_config[POLICY])
    for parameter in adapter_parameters(model, "critic").values():
        parameter.requires_grad_(True)
    loss = model(**inputs).logits.std()
    with using(model, "critic"):
        loss = loss + model(**inputs).logits.std()
    loss.backward()
    for adapter in (POLICY, "critic"):
        gradients = [p.grad for p in adapter_parameters(model, adapter).values()]
        assert all(g is not None and g.abs().sum() > 0 for g in gradients)


def dequantised(model):
    """The same model with each 4-bit layer's weight written out in float32."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    dense = copy.deepcopy(model)
    for name, module in list(dense.named_modules()):
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).float()
            linear = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            linear.weight = torch.nn.Parameter(weight, requires_grad=False)
            parent, _, child = name.rpartition(".")
            setattr(dense.get_submodule(parent), child, linear)
    return dense


def test_4bit_gradients_after_rollouts_equal_the_dequantised_models(
    reward_folder, tokenizer, chats
):
    model = policy(four_bit=True)
    dense = dequantised(model)
    inputs = encode(tokenizer, *chats)
    reward = SharedBaseReward(reward_folder, name="rm", tokenizer=tokenizer).attach(model)
    reward(prompts=chats[0], completions=chats[1])  # passes in eval mode
    with inference(model):
        model(**inputs)
    for m in (model, dense):
        m.train()
        m(**inputs, labels=inputs["input_ids"]).loss.backward()
    wanted = {n: p.grad for n, p in dense.named_parameters() if p.grad is not None}
    assert len(wanted) == len(adapter_parameters(model, POLICY)) > 0
    for name, parameter in adapter_parameters(model, POLICY).items():
        difference = (parameter.grad - wanted[name]).norm() / wanted[name].norm()
        assert difference < 1e-3, name


def test_a_reward_adapter_of_another_base_is_refused(reward_folder, tokenizer, tmp_path):
    config = AutoModelForCausalLM.from_pretrained(TINY).config
    config.hidden_size *= 2
    other = get_peft_model(
        AutoModelForCausalLM.from_config(config), LoraConfig(task_type="CAUSAL_LM", **LORA)
    )
    with pytest.raises(ModelError, match="does not fit the base"):
        SharedBaseReward(reward_folder, name="rm", tokenizer=tokenizer).attach(other)


def test_whether_a_reward_adapter_shares_the_base(reward_folder, tmp_path):
    shutil.copytree(TINY, tmp_path / "same weights, another model")
    shutil.copytree(reward_folder, tmp_path / "model")
    config = tmp_path / "model" / "adapter_config.json"
    fields = json.loads(config.read_text())
    for path, shared in {TINY: True, tmp_path / "same weights, another model": False}.items():
        config.write_text(json.dumps(fields | {"base_model_name_or_path": str(path)}))
        assert shares_base(policy(), tmp_path) is shared
    assert not shares_base(policy(), TINY)  # a full model is no adapter


def test_a_reward_adapter_shares_a_base_of_its_revision_and_quantisation(reward_folder, tmp_path):
    shutil.copytree(reward_folder, tmp_path / "model")
    plain, in_4bit = policy(), policy(four_bit=True)
    revised = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    (tmp_path / "model" / "adapter_config.json").write_text(
        json.dumps(revised | {"revision": "v2"})
    )
    assert shares_base(plain, tmp_path, revision="v2") and not shares_base(plain, tmp_path)
    assert shares_base(in_4bit, tmp_path, revision="v2")  # nothing tells how it was trained

    (tmp_path / files.CHOICES).write_text("{}")  # a run, and what it was trained as
    for said, model, asked, shared in (
        ({}, plain, {}, True),
        ({"model_revision": "v1"}, plain, {}, False),
        ({"model_revision": "v1"}, plain, {"revision": "v1"}, True),
        ({"use_4bit": True}, plain, {}, False),
        ({"use_4bit": True}, plain, {"use_4bit": False}, True),
        ({"use_4bit": True}, in_4bit, {}, True),
        ({}, in_4bit, {}, False),
        ({}, plain, {"use_4bit": True}, False),
    ):
        (tmp_path / files.CONFIG).write_text(json.dumps(said))
        assert shares_base(model, tmp_path, **asked) is shared, (said, asked)


def reward_of(folder, model, tokenizer, **more):
    """The reward of a run that names this reward model."""
    said = {"strategy": "grpo", "model_name": str(TINY), "dataset": "d.jsonl"}
    config = load_config(said | {"reward_model": [{"name": str(folder), **more}]})
    ((reward, _),) = build(
        config, tokenizer=tokenizer, policy=model, adapted=True, device="cpu", batch_size=4
    )
    return reward


def test_a_reward_model_is_scored_in_4_bit_where_that_is_asked(reward_folder, tokenizer):
    model = policy()
    assert isinstance(reward_of(reward_folder, model, tokenizer), SharedBaseReward)
    asked = reward_of(reward_folder, model, tokenizer, arguments={"use_4bit": True})
    assert isinstance(asked, RewardModel) and asked.model.is_loaded_in_4bit


def test_a_reward_tokenizer_may_have_neither_eos_nor_pad(reward_folder, tokenizer, tmp_path):
    shutil.copytree(reward_folder, tmp_path / "rm")
    bare = copy.deepcopy(tokenizer)
    bare.eos_token = bare.pad_token = None
    bare.save_pretrained(tmp_path / "rm")
    texts = {"prompts": ["What is 2 plus 2?", "Hello"], "completions": [" It is 4.", ""]}
    ids = bare(texts["prompts"][0] + texts["completions"][0])["input_ids"]
    assert encode(bare, ["What is 2 plus 2?"], [" It is 4."])["input_ids"].tolist() == [ids]
    model = policy()
    shared = reward_of(tmp_path / "rm", model, tokenizer).attach(model)
    alone = RewardModel.load(str(tmp_path / "rm"))
    assert shared(**texts) == pytest.approx(alone(**texts), abs=1e-4)


@pytest.mark.parametrize("backend", ["ddp", "fsdp", "zero3"])
def test_a_reward_adapter_stands_beside_a_policy_whose_weights_are_sharded(
    reward_folder, tmp_path, backend
):
    said = [f"output_dir={tmp_path}", f"reward_model={reward_folder}", "rewards=null"]
    said += ["report_to=none", "gradient_checkpointing=false"]
    prepared = prepare(load_config(ROOT / "configs" / "tiny" / "grpo.json", overrides=said))
    # As on cards: on a CPU both backends are refused, again when the trainer stands.
    sharded = {"distributed": Choice({"backend": backend}, "default")}
    prepared = replace(prepared, config=prepared.config.with_choices(sharded))
    prepared.run.path.mkdir(parents=True)
    with nullcontext() if backend == "ddp" else pytest.raises(RunError, match="trains as NO"):
        build_trainer(prepared, load(prepared))
    (reward,) = prepared.strategy.scorers
    assert isinstance(reward, SharedBaseReward if backend == "ddp" else RewardModel)


@pytest.mark.parametrize("section", [{}, {"init_lora_weights": "olora"}, {"bias": "all"}])
def test_a_reward_adapter_stands_beside_a_policy_that_changes_the_base(
    reward_folder, tmp_path, section
):
    """On it the adapter would score another model, or one that trains away under it."""
    said = [f"output_dir={tmp_path}", f"reward_model={reward_folder}", "rewards=null"]
    said += ["report_to=none", f"lora={json.dumps(section)}"]
    prepared = prepare(load_config(ROOT / "configs" / "tiny" / "grpo.json", overrides=said))
    prepared.run.path.mkdir(parents=True)
    build_trainer(prepared, load(prepared))
    (reward,) = prepared.strategy.scorers
    assert isinstance(reward, RewardModel if section else SharedBaseReward)


@pytest.mark.parametrize("mode", ["adapter", "frozen"])
def test_a_critic_begins_as_the_reward_model_where_it_has_its_shape(
    reward_folder, tokenizer, chats, mode
):
    model = policy()
    critic = Critic(model, mode)
    reward = SharedBaseReward(reward_folder, name="rm", tokenizer=tokenizer).attach(model)
    texts = encode(tokenizer, chats[0][:4], chats[1][:4])
    one = {key: rows[:1, : int(texts["attention_mask"][0].sum())] for key, rows in texts.items()}
    assert critic.start_from(reward.adapter, 0.5)
    # A value is read before its token: that of one more token is the score of the text.
    ids, mask = (torch.nn.functional.pad(one[k], (0, 1), value=1) for k in one)
    with torch.no_grad():
        value = critic.own_pass(ids, mask, 1, 1)
    assert value.item() == pytest.approx(0.5 * reward.score(**one).item(), abs=1e-5)
    assert value.abs() > 1e-3
    if mode == "frozen":  # the head alone learns: the reward model stays as it is
        model.train()
        critic.own_pass(ids, mask, 1, 1).sum().backward()
        learned = {n for n, p in model.named_parameters() if p.grad is not None}
        assert len(learned) == 2 and all("v_head" in name for name in learned)
        assert model.training and len(critic.parameters()) == 2
        return

    shape = LoraConfig(task_type="CAUSAL_LM", **(LORA | {"r": 2}))
    other = get_peft_model(AutoModelForCausalLM.from_pretrained(TINY), shape)
    critic = Critic(other, "adapter")
    before = {n: p.clone() for n, p in adapter_parameters(other, CRITIC).items()}
    reward = SharedBaseReward(reward_folder, name="rm", tokenizer=tokenizer).attach(other)
    assert not critic.start_from(reward.adapter, 0.5)
    assert all(torch.equal(p, before[n]) for n, p in adapter_parameters(other, CRITIC).items())
    assert not critic.head.linear.weight.any()


def test_a_reward_adapter_without_its_head_is_refused(reward_folder, tokenizer, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(reward_folder, tmp_path / "rm")
    file = tmp_path / "rm" / "adapter_model.safetensors"
    save_file({k: v for k, v in load_file(file).items() if "score" not in k}, file)
    with pytest.raises(ModelError, match="score head"):
        SharedBaseReward(tmp_path / "rm", name="rm", tokenizer=tokenizer).attach(policy())
