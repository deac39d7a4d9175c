"""What a run saves gives the trainer's logits and scores, by the lines of its own card."""

import json
import re
from pathlib import Path

import pytest
import torch
from bases import TINY, base
from transformers import AutoTokenizer

import modelforge
from modelforge import registry
from modelforge.strategies.sft import SFT
from modelforge.training import run as running

DATA = Path(__file__).parents[1] / "examples" / "tiny" / "data"
ROWS = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference"}
# Strategy, the base it trains on, and what its config says beside.
RUNS = {
    "sft": ({}, {}),
    "sft, all weights, untied, no pad": (
        # As several published models have it: sampling values, and do_sample left at false.
        {"pad": None, "tied": False, "generation": {"temperature": 0.6, "top_p": 0.9}},
        {"lora_r": 0, "save_strategy": "steps", "save_steps": 1},
    ),
    "qlora": ({"pad": "<|eos|>"}, {}),
    "reward, no pad": ({"pad": None}, {}),
    "reward, all weights, untied, padded by EOS": (
        {"pad": "<|eos|>", "tied": False}, {"lora_r": 0},
    ),
    "dpo, untied": ({"tied": False}, {}),
    "grpo, no pad": ({"pad": None}, {}),
    "rloo, all weights": ({}, {"lora_r": 0}),
    "ppo, no pad": ({"pad": None, "tied": False}, {"rewards": ["numeric_answer"]}),
}  # fmt: skip


def config(name, folder, model, **said):
    strategy = name.partition(",")[0]
    rows = (DATA / f"{ROWS.get(strategy, 'prompts')}_train.jsonl").read_text().splitlines()[:16]
    (folder / f"{strategy}.jsonl").write_text("\n".join(rows))
    values = {
        "strategy": strategy, "model_name": str(model), "max_steps": 2, "learning_rate": 1e-2,
        "dataset": str(folder / f"{strategy}.jsonl"), "per_device_train_batch_size": 8,
        "max_seq_length": 64, "save_strategy": "no", "report_to": "none", "lora_r": 4,
        "output_dir": str(folder / "runs"), "logging_steps": 1, "optim": "adamw_torch",
    }  # fmt: skip
    if strategy in ("grpo", "rloo", "ppo"):
        values["generation"] = {"max_new_tokens": 8}
    if strategy in ("grpo", "rloo"):
        values["num_generations"] = 4
    return values | said


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of each kind, made when first asked for: its result and its trainer."""
    runs = {}

    def make(name):
        if name not in runs:
            folder = tmp_path_factory.mktemp("saved")
            form, said = RUNS[name]
            trainers = []
            build = running.build_trainer
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    running, "build_trainer", lambda *a: trainers.append(build(*a)) or trainers[-1]
                )
                result = modelforge.train(
                    config(name, folder, base(folder / "base", **form), **said)
                )
            runs[name] = result, trainers[-1]
        return runs[name]

    return make


def card_blocks(result):
    return re.findall(r"```python\n(.*?)```", (result.model_dir / "README.md").read_text(), re.S)


def texts(name, tokenizer):
    """Two sequences of different length, padded as the saved tokenizer pads."""
    chats = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
        for q, a in (("What is 2 plus 2?", "It is 4, as you can see."), ("Hello?", "Hi."))
    ]
    batch = tokenizer.apply_chat_template(
        chats, padding=True, return_dict=True, return_tensors="pt"
    )
    return {key: batch[key] for key in ("input_ids", "attention_mask")}


def outputs(model, batch):
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    return logits if logits.dim() == 2 else logits[batch["attention_mask"].bool()]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
def test_the_cards_lines_give_the_trained_model(made, name, tmp_path, monkeypatch, capsys):
    result, trainer = made(name)
    monkeypatch.chdir(tmp_path)
    first, *merging = card_blocks(result)
    names = {}
    exec(first, names)
    tokenizer, model = names["tokenizer"], names["model"]
    batch = texts(name, tokenizer)
    trained = outputs(trainer.accelerator.unwrap_model(trainer.model), batch)
    tolerance = 2e-4 if name != "qlora" else 5e-2 * trained.abs().max().item()
    assert (outputs(model, batch) - trained).abs().max() < tolerance
    said = capsys.readouterr().out
    assert said.strip()
    saved = json.loads((result.run_dir / "results.json").read_text())["saved"]
    assert saved["loaded"] and saved["difference"] < tolerance
    assert bool(merging) == (result.model_dir / "adapter_config.json").is_file()
    # What reads tokenizer.json without transformers would cut or pad every text by these.
    saved = json.loads((result.model_dir / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)
    for block in merging:
        exec(block, names)
        merged = type(names["merged"]).from_pretrained("merged", dtype=torch.float32)
        again = AutoTokenizer.from_pretrained("merged")
        assert again.pad_token == tokenizer.pad_token
        loose = 1e-3 if name != "qlora" else tolerance
        assert (outputs(merged, batch) - trained).abs().max() < loose


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RUNS if name.startswith("reward")])
def test_a_reward_model_pads_with_a_token_that_no_text_ends_in(made, name):
    result, trainer = made(name)
    tokenizer = AutoTokenizer.from_pretrained(result.model_dir)
    assert tokenizer.pad_token == "<|pad|>" != tokenizer.eos_token
    assert trainer.model.config.pad_token_id == tokenizer.pad_token_id
    chat = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hi."}]
    ids = tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt")["input_ids"]
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    with torch.no_grad():
        hidden = model.get_base_model() if hasattr(model, "get_base_model") else model
        states = hidden.model(ids)[0]
        head = model.score if not hasattr(model, "get_base_model") else hidden.score
        last = head(states[:, -1])
        assert torch.allclose(model(ids).logits, last, atol=1e-5)


@pytest.mark.slow
def test_all_weights_are_saved_with_the_bases_cache_and_every_end_of_an_answer(made):
    result, trainer = made("sft, all weights, untied, no pad")
    config = json.loads((result.model_dir / "config.json").read_text())
    before = json.loads((TINY / "config.json").read_text())
    for key in ("use_cache", "eos_token_id", "bos_token_id", "architectures", "dtype"):
        assert config[key] == before[key], key
    assert trainer.model.config.use_cache is False  # while it trains
    generation = json.loads((result.model_dir / "generation_config.json").read_text())
    assert generation["use_cache"] and generation["eos_token_id"] in (2, [2])
    assert "_name_or_path" not in config
    checkpoint = result.run_dir / "checkpoints" / "checkpoint-1"
    assert json.loads((checkpoint / "config.json").read_text())["use_cache"]
    assert not list((result.run_dir / "checkpoints").glob("**/README.md"))  # TRL's names no base


class Halved(SFT):
    """A strategy whose trainer saves another adapter than it trained."""

    name = "halved"

    @classmethod
    def trl_trainer_class(cls):
        from safetensors.torch import load_file, save_file

        class Trainer(super().trl_trainer_class()):
            def save_model(self, output_dir=None, _internal_call=False):
                super().save_model(output_dir, _internal_call)
                path = Path(output_dir, "adapter_model.safetensors")
                weights = {k: v * (0.5 if "lora_B" in k else 1) for k, v in load_file(path).items()}
                save_file(weights, path, metadata={"format": "pt"})

        return Trainer


@pytest.mark.slow
def test_a_run_whose_saved_model_is_another_one_is_no_success(tmp_path, monkeypatch):
    monkeypatch.setitem(registry._registered, "halved", Halved)
    values = config("sft", tmp_path, TINY) | {"strategy": "halved", "run_name": "one"}
    with pytest.raises(modelforge.RunError, match=r"in a logit: \d+ weights are others, .*lora_B"):
        modelforge.train(values)
    run = tmp_path / "runs" / "one"
    assert (run / "model" / "adapter_model.safetensors").is_file()
    assert not (run / "results.json").exists()
    # A model that is too large to load a second one has its weights compared.
    monkeypatch.setattr("modelforge.evaluation.reload._SMALL", 0)
    with pytest.raises(modelforge.RunError, match=r"saved weights are others .*lora_B"):
        modelforge.train(values | {"run_name": "two"})
    assert modelforge.train(config("sft", tmp_path, TINY)).model_dir.is_dir()


def words(*tokens, **special):
    """A tokenizer of these words, its special tokens among them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}, unk_token="a"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


EOS = {"eos_token": "</s>"}
RESERVED = {"additional_special_tokens": ["<|reserved_special_token_0|>"]}
PADS = {
    "its own": (words("</s>", "a", "<pad>", **EOS, pad_token="<pad>"), 3, "<pad>"),
    "EOS, and one that is unused": (
        words("</s>", "a", **EOS, pad_token="</s>", additional_special_tokens=["[PAD]"]),
        3,
        "[PAD]",
    ),
    "a reserved one": (words("</s>", "a", **EOS, **RESERVED), 3, "<|reserved_special_token_0|>"),
    "a reserved one beyond the embedding": (words("</s>", "a", **EOS, **RESERVED), 2, None),
    "a row that has no token": (words("</s>", "a", **EOS), 4, "<|pad|>"),
    "an unknown token": (words("</s>", "a", "<unk>", **EOS, unk_token="<unk>"), 3, "<unk>"),
    "the beginning": (words("</s>", "a", "<s>", **EOS, bos_token="<s>"), 3, "<s>"),
    "nothing but EOS": (words("</s>", "a", **EOS, bos_token="</s>", unk_token="</s>"), 2, None),
}  # fmt: skip


@pytest.mark.parametrize("name", list(PADS))
def test_the_pad_token_of_a_score_head(name):
    from modelforge.models.pad import pad_for_scores

    tokenizer, rows, wanted = PADS[name]
    before, length = tokenizer.pad_token, len(tokenizer("a a </s>").input_ids)
    why = pad_for_scores(tokenizer, rows=rows, ends={tokenizer.eos_token_id})
    assert tokenizer.pad_token == (wanted or before)
    assert (why is None) == (tokenizer.pad_token == before)
    assert len(tokenizer("a a </s>").input_ids) == length
    assert wanted is None or tokenizer.pad_token_id < rows


@pytest.mark.slow
def test_a_reward_model_that_was_trained_with_eos_as_its_pad_scores_so_everywhere(made, tmp_path):
    """One of before, or of others: loaded beside the policy, and on its base."""
    import shutil

    from transformers import AutoModelForCausalLM

    from modelforge.rewards.model import RewardModel
    from modelforge.rewards.shared_base import SharedBaseReward

    result, _ = made("reward, no pad")
    folder = tmp_path / "model"
    shutil.copytree(result.model_dir, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    chats = {
        "prompts": [[{"role": "user", "content": q}] for q in ("What is 2 plus 2?", "Hello?")],
        "completions": [[{"role": "assistant", "content": a}] for a in ("It is 4.", "Hi.")],
    }
    alone = RewardModel.load(str(folder))(**chats)
    config = json.loads((folder / "adapter_config.json").read_text())
    from peft import LoraConfig, get_peft_model

    base_model = AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"])
    policy = get_peft_model(base_model, LoraConfig(r=2, target_modules=["q_proj"]))
    shared = SharedBaseReward(folder, name="shared", tokenizer=tokenizer).attach(policy)
    assert shared(**chats) == pytest.approx(alone, abs=1e-4)
    now = RewardModel.load(str(result.model_dir))(**chats)
    assert now != pytest.approx(alone, abs=1e-3)  # it is read at another token
