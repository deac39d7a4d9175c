"""What a run saves gives the trainer's logits and scores, by the lines of its own card."""

import json
import re
from pathlib import Path

import pytest
import torch
from bases import TINY, base
from transformers import AutoTokenizer

import modelforge
from modelforge.training import run as running

DATA = Path(__file__).parents[1] / "examples" / "tiny" / "data"
ROWS = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference"}
# Strategy, the base it trains on, and what its config says beside.
RUNS = {
    "sft": ({}, {}),
    "sft, all weights, untied, no pad": ({"pad": None, "tied": False}, {"lora_r": 0}),
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
