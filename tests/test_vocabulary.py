"""Tokens that a run adds: their rows are made, trained, saved, and taken further."""

import functools
import json
from pathlib import Path

import pytest
import torch
from bases import TINY, base
from safetensors import safe_open

import modelforge
from modelforge.errors import UserError
from modelforge.plan.planner import plan
from modelforge.training.prepare import prepare
from modelforge.training.resolve import resolve
from modelforge.training.run import build_trainer, load

NEW = {"add_special_tokens": ["<note>", "</note>"], "add_tokens": ["zorp"]}
IDS = [512, 513, 514]


def config(folder, strategy="sft", **said):
    said = {key: str(value) if isinstance(value, Path) else value for key, value in said.items()}
    rows = [
        {"prompt": f"Say zorp {i}", "chosen": f"<note>zorp {i}</note>", "rejected": f"No {i}"}
        for i in range(8)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "strategy": strategy, "model_name": str(TINY), "dataset": str(path), "eval_split": 0,
        "max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4, "lora_r": 4,
        "max_seq_length": 48, "report_to": "none", "save_strategy": "no",
        "output_dir": str(folder / "runs"),
    }  # fmt: skip
    if strategy in ("grpo", "ppo"):
        values |= {"generation": {"max_new_tokens": 4}}
        values |= {"num_generations": 4} if strategy == "grpo" else {}
        values["rewards"] = [{"name": "length", "arguments": {"target": 4}}]
    return modelforge.load_config(values | said)


def refusal(folder, *args, **said):
    with pytest.raises(UserError) as refused:
        prepare(config(folder, *args, **said))
    assert not (folder / "runs").exists()
    return str(refused.value)


def trainer_of(*args, **said):
    prepared = prepare(config(*args, **said))
    return prepared, build_trainer(prepared, load(prepared))


def beside_lora(run):
    """What an adapter holds beside LoRA's weights, with the number of rows."""
    with safe_open(run / "model" / "adapter_model.safetensors", "pt") as file:
        return {
            key.split(".")[-3 if "delta" in key else -2]: file.get_slice(key).get_shape()[0]
            for key in list(file.keys())
            if "lora_" not in key
        }


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A base, tied or not, and a run on it that added tokens; each is made once."""

    @functools.cache
    def made(tied):
        folder = tmp_path_factory.mktemp("begun")
        model = base(folder / "base", tied=tied)
        return model, modelforge.train(config(folder, model_name=model, **NEW)).run_dir

    return made


# --- one run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_new_rows_alone_are_trained_and_load_in_plain_peft(begun, tied):
    model, run = begun(tied)
    held = beside_lora(run)
    assert held == ({"embed_tokens": 3} if tied else {"embed_tokens": 3, "lm_head": 3})
    # The saved model was loaded by plain transformers and PEFT, and compared.
    results = json.loads((run / "results.json").read_text())["saved"]
    assert results["loaded"] and results["difference"] < 1e-5
    rows, before = new_rows(run), base_rows(model)
    # They began as the mean of the others, and parted.
    assert (rows - before.mean(0)).abs().max() < 0.1
    assert not torch.allclose(rows[0], rows[1])


def base_rows(model):
    from safetensors.torch import load_file

    return load_file(model / "model.safetensors")["model.embed_tokens.weight"]


def new_rows(run):
    """The rows that an adapter holds for the embedding."""
    with safe_open(run / "model" / "adapter_model.safetensors", "pt") as file:
        names = list(file.keys())  # the file itself cannot be iterated over
        (key,) = [key for key in names if "embed" in key and "delta" in key]
        return file.get_tensor(key)


@pytest.mark.parametrize(
    ("strategy", "tied"),
    [("dpo", False), ("grpo", True), ("ppo", True), ("reward", True), ("reward", False)],
)
def test_each_strategy_goes_on_from_the_rows_of_a_run(begun, strategy, tied, tmp_path):
    _, run = begun(tied)
    prepared, trainer = trainer_of(tmp_path, strategy, model_name=run, **NEW)  # as the run had
    assert prepared.vocabulary.trained == tuple(IDS)
    model = trainer.accelerator.unwrap_model(trainer.model)
    held = model.get_base_model().get_input_embeddings().token_adapter.trainable_tokens_delta
    assert torch.equal(held["default"].data, new_rows(run))
    if strategy == "dpo":  # TRL's reference is the policy as it began
        assert torch.equal(held["ref"].data, new_rows(run))
    if strategy == "ppo":
        assert model.get_base_model().get_input_embeddings().weight.shape[0] == 515
    trainer.train()
    assert not torch.equal(held["default"].data, new_rows(run))


@pytest.mark.parametrize("own", [True, False], ids=["with tokens", "without"])
def test_a_reward_model_scores_alike_on_the_base_of_a_policy_and_beside_it(begun, own, tmp_path):
    model, run = begun(True)
    said = NEW if own else {}
    judge = modelforge.train(config(tmp_path, "reward", model_name=model, **said)).run_dir
    results = json.loads((judge / "results.json").read_text())["saved"]
    assert results["loaded"] and results["difference"] < 1e-5
    assert beside_lora(judge) == {"embed_tokens": 3, "score": 1} if own else {"score": 1}
    talk = [{"role": "user", "content": "Say zorp 1"}]
    answer = [{"role": "assistant", "content": "<note>zorp 1</note>"}]
    scores = []
    for policy in (run, model):
        folder = tmp_path / f"on-{policy.name}"
        folder.mkdir()
        chosen = {"model_name": policy, "rewards": None, "reward_model": str(judge)}
        _, trainer = trainer_of(folder, "ppo", **chosen)
        held = "reward_reward_model" in trainer.model.peft_config
        # Where either has rows of its own, the reward model stands beside the policy.
        assert held is (not own and policy == model), list(trainer.model.peft_config)
        scores += trainer.reward_funcs[0](
            prompts=[talk], completions=[answer], completion_ids=[[1]], prompt_ids=[[1]]
        )
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_all_weights_with_new_rows(begun, tmp_path):
    model, _ = begun(False)
    run = modelforge.train(config(tmp_path, model_name=model, lora_r=0, **NEW)).run_dir
    results = json.loads((run / "results.json").read_text())["saved"]
    assert results["difference"] < 1e-5
    assert json.loads((run / "model" / "config.json").read_text())["vocab_size"] == 515


def test_a_resumed_run_is_bit_for_bit_the_same(begun, tmp_path):
    model, _ = begun(True)
    said = {"save_strategy": "steps", "save_steps": 1, "model_name": model, **NEW}
    said["lr_scheduler_type"] = "constant"
    whole = modelforge.train(config(tmp_path, max_steps=3, run_name="whole", **said)).run_dir
    begun = modelforge.train(config(tmp_path, max_steps=2, run_name="half", **said)).run_dir
    for folder in (begun / "checkpoints").iterdir():
        keys = safe_open(folder / "adapter_model.safetensors", "pt").keys()
        assert not [key for key in keys if "base_layer" in key]
    half = modelforge.train(config(tmp_path, max_steps=3, run_name="half", **said)).run_dir
    first, second = (
        (run / "model" / "adapter_model.safetensors").read_bytes() for run in (whole, half)
    )
    assert first == second


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_modules_that_are_trained_whole(begun, tied, tmp_path):
    model, _ = begun(tied)
    said = {"lora_modules_to_save": ["embed_tokens"], "model_name": model, **NEW}
    run = modelforge.train(config(tmp_path, **said)).run_dir
    results = json.loads((run / "results.json").read_text())["saved"]
    assert results["difference"] < 1e-5
    held = beside_lora(run)
    assert held["embed_tokens"] == 515
    assert held["lm_head"] == (515 if tied else 3)


# --- which tokens --------------------------------------------------------------------------------


def test_special_tokens_are_set_and_saved(tmp_path):
    said = {"add_special_tokens": ["<end>", "<fill>"], "eos_token": "<end>", "pad_token": "<fill>"}
    prepared, trainer = trainer_of(tmp_path, **said)
    assert trainer.processing_class.eos_token_id == 512
    rows = prepared.data.train_tokens
    assert all(row.ids[0][-1] == 512 for row in rows)  # each answer ends in it
    trainer.train()
    assert 512 in trainer.model.get_base_model().generation_config.eos_token_id
    assert trainer.model.config.pad_token_id == 513


def test_tokens_that_are_there_already_are_said(tmp_path, capsys):
    run = prepare(config(tmp_path, add_tokens=["a"], add_special_tokens=["<|eos|>"]))
    assert run.vocabulary.fresh == run.vocabulary.trained == ()
    assert "tokens that the tokenizer has already: 'a', '<|eos|>'" in capsys.readouterr().err


def test_rows_of_known_tokens_are_trained_where_asked(tmp_path):
    prepared, trainer = trainer_of(tmp_path, train_tokens=["<|user|>"])
    (index,) = prepared.vocabulary.trained
    assert prepared.tokenizer.convert_ids_to_tokens(index) == "<|user|>"
    assert not prepared.vocabulary.fresh
    names = [n for n, p in trainer.model.named_parameters() if p.requires_grad and "delta" in n]
    assert len(names) == 1


def test_a_padded_vocabulary_gives_its_free_rows(tmp_path, capsys):
    model = padded(tmp_path / "base", rows=576)
    prepared, trainer = trainer_of(tmp_path, model_name=model, **NEW)
    assert prepared.vocabulary.rows == 576 and prepared.vocabulary.fresh == tuple(IDS)
    assert "rows of the embedding (576) that no token used" in capsys.readouterr().err
    rows = trainer.model.get_base_model().get_input_embeddings().weight.detach()
    assert rows.shape[0] == 576
    assert torch.allclose(rows[512], base_rows(Path(model))[:512].mean(0), atol=1e-6)


def padded(folder, *, rows):
    from transformers import AutoModelForCausalLM

    base(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(folder)
    return folder


def test_a_tokenizer_with_more_tokens_than_rows_is_mended_where_asked(tmp_path):
    model = base(tmp_path / "base", tokens=["<a>", "<b>"])
    said = {"model_name": model}
    found = refusal(tmp_path, **said)
    assert "514 tokens, and the embedding 512 rows: '<a>', '<b>' would have none" in found
    assert "resize_vocab to true" in found
    for mended in ({"resize_vocab": True}, {"add_tokens": ["<a>"], "add_special_tokens": ["<b>"]}):
        found = prepare(config(tmp_path, **said, **mended)).vocabulary
        assert (found.rows, found.fresh, found.trained) == (514, (512, 513), (512, 513))


REFUSED = [
    ({"eos_token": "<|eso|>"}, "eos_token: '<|eso|>' is no token", "'<|eos|>'"),
    ({"pad_token": "<pad>"}, "pad_token: '<pad>' is no token", "add_special_tokens"),
    ({"train_tokens": ["<nix>"]}, "train_tokens: '<nix>' is no token", ""),
    ({"strategy": "reward", "pad_token": "<|eos|>"}, "pad_token: '<|eos|>' ends texts", ""),
    ({"lora_modules_to_save": ["embed"]}, "lora_modules_to_save: 'embed' is no module", ""),
]  # fmt: skip


@pytest.mark.parametrize(("said", "what", "fix"), REFUSED)
def test_what_no_token_can_be_is_refused(tmp_path, said, what, fix):
    found = refusal(tmp_path, **said)
    assert what in found and fix in found


@pytest.mark.parametrize(
    ("said", "key"),
    [({"distributed": {"backend": "fsdp"}}, "distributed"), ({"use_vllm": True}, "use_vllm")],
)
def test_where_rows_cannot_be_made_is_refused(tmp_path, said, key):
    from transformers import AutoConfig, AutoTokenizer

    from modelforge.models.source import find_model
    from modelforge.models.vocabulary import settle_tokens

    source = find_model(str(TINY), base_dir=tmp_path, revision=None, where="model_name")
    strategy = "grpo" if key == "use_vllm" else "sft"
    parts = AutoTokenizer.from_pretrained(TINY), config(tmp_path, strategy, **said, **NEW)
    with pytest.raises(UserError, match=key):
        settle_tokens(*parts, source, AutoConfig.from_pretrained(TINY))


def test_an_adapter_takes_no_further_tokens(begun, tmp_path):
    _, run = begun(True)
    found = refusal(tmp_path, model_name=run, add_tokens=["plugh"])
    assert "add_tokens: the adapter" in found and "no row for 'plugh'" in found and "merge" in found
    found = refusal(tmp_path, model_name=run, train_tokens=["a"])
    assert "train_tokens: has no effect" in found


def test_the_plan_holds_the_rows_that_an_adapter_brings(begun, tmp_path):
    _, run = begun(True)
    resolved = resolve(config(tmp_path, "reward", model_name=run), planning=True)
    assert plan(resolved.config).parts["trained weights"] >= 3 * 128 * 4
