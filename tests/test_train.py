"""Real runs of the tiny model: every strategy does what it is for, and leaves what it should."""

import json
from pathlib import Path

import pytest
import torch
from tiny import DATA, few, held_out, shallow

import modelforge
from modelforge import load_config
from modelforge.runs import files

ROOT = Path(__file__).parents[1]
TINY = ROOT / "configs" / "tiny"
STEPS = {"sft": 16, "qlora": 10, "reward": 34, "dpo": 55, "grpo": 24}


def run(strategy, tmp_path, *overrides, rows=640):
    return modelforge.train(
        TINY / f"{strategy}.json",
        overrides=[
            *(f"output_dir={tmp_path}", f"max_steps={STEPS[strategy]}", "save_steps=0.5"),
            f"dataset={few(f'{DATA[strategy]}_train', rows)}",
            f"eval_dataset={held_out(DATA[strategy], 16 if strategy == 'grpo' else 32)}",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One run of each strategy, made when first asked for."""
    made = {}

    def result(strategy):
        if strategy not in made:
            made[strategy] = run(strategy, tmp_path_factory.mktemp(strategy))
        return made[strategy]

    return result


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "measure", "least"),
    [
        ("sft", "eval_loss", -3.0),
        ("qlora", "eval_loss", -3.0),
        ("reward", "eval_accuracy", 0.1),
        ("dpo", "eval_rewards/accuracies", 0.3),
        ("grpo", "eval_reward", 0.1),
    ],
)
def test_each_strategy_improves_its_measure_on_held_out_rows(results, strategy, measure, least):
    result = results(strategy)
    change = result.after[measure] - result.before[measure]
    assert change * (1 if least > 0 else -1) > abs(least)
    stored = json.loads((result.run_dir / "results.json").read_text())
    assert stored["measure"] == measure
    assert stored["after"] == dict(result.after) and stored["before"] == dict(result.before)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", list(STEPS))
def test_the_folder_holds_what_a_run_leaves(results, strategy):
    folder = results(strategy).run_dir
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("config.json", "choices.json", "environment.json", "data.json", "metrics.jsonl"),
        *("results.json", "checkpoints", "model", "samples.jsonl", "report.html", "tensorboard"),
    }
    assert names <= set(files.TABLE), names - set(files.TABLE)
    model = {path.name for path in (folder / "model").iterdir()}
    assert model >= {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"}
    assert not any(name.endswith((".bin", ".pt", ".pth")) for name in model)
    card = (folder / "model" / "README.md").read_text()
    assert "model-index" in card and "| held-out | before | after |" in card
    choices = json.loads((folder / "choices.json").read_text())["choices"]
    assert all(c["reason"] for c in choices.values() if c["source"] not in ("config", "--set"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0 and rows[-1]["step"] == STEPS[strategy]
    assert any("tokens_per_second" in row["session"] for row in rows)
    config = load_config(folder / "config.json")
    assert config.settings.strategy == strategy


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "grpo"])
def test_the_adapter_answers_the_same_with_plain_peft(results, strategy):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    folder = results(strategy).run_dir
    model = AutoPeftModelForCausalLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert samples
    assert strategy != "sft" or any(s["completion"] != s["completion_before"] for s in samples)
    for sample in samples:
        inputs = tokenizer.apply_chat_template(
            sample["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        text = tokenizer.decode(output[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
        assert text == sample["completion"]


@pytest.mark.slow
def test_the_reward_model_scores_the_same_with_plain_peft(results):
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoTokenizer

    folder = results("reward").run_dir
    model = AutoPeftModelForSequenceClassification.from_pretrained(folder / "model", num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    for sample in map(json.loads, (folder / "samples.jsonl").read_text().splitlines()):
        for side in ("chosen", "rejected"):
            inputs = tokenizer.apply_chat_template(
                sample["prompt"] + sample[side], return_tensors="pt", return_dict=True
            )
            with torch.no_grad():
                score = model.eval()(**inputs).logits[0, 0].item()
            assert score == pytest.approx(sample[f"score_{side}"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "sequences"), [("sft", 1), ("reward", 3)])
def test_each_row_is_encoded_once(strategy, sequences, tmp_path, monkeypatch):
    """Once a demonstration; once the prompt and either side of a pair."""
    from transformers.tokenization_utils_tokenizers import TokenizersBackend

    encoded = []
    encode = TokenizersBackend._encode_plus

    def counting(self, text, *args, **kwargs):
        encoded.extend([text] if isinstance(text, str) else text)
        return encode(self, text, *args, **kwargs)

    monkeypatch.setattr(TokenizersBackend, "_encode_plus", counting)
    for part, count in {"train": 24, "eval": 8}.items():
        name = {"sft": "sft", "reward": "preference"}[strategy]
        lines = (ROOT / "examples/tiny/data" / f"{name}_{part}.jsonl").read_text().splitlines()
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines[:count]))
    modelforge.train(
        TINY / f"{strategy}.json",
        overrides=[
            *(f"output_dir={tmp_path}", "max_steps=2", "save_steps=2"),
            *(f"dataset={tmp_path}/train.jsonl", f"eval_dataset={tmp_path}/eval.jsonl"),
        ],
    )
    # A language model also answers the prompts of four samples before training and after.
    answered = 2 * 4 if strategy == "sft" else 0
    # What the tokenizer adds to a text is asked three times; its template is tried twice.
    asked = 3 + 2
    # Neutral texts show what a language model forgets, before training and after.
    neutral = 2 * 3 if strategy == "sft" else 0
    assert len(encoded) == (24 + 8) * sequences + answered + neutral + asked


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_unless_asked(results, capsys):
    result = results("sft")
    again = run("sft", result.run_dir.parent)
    assert again == result
    assert "finished" in capsys.readouterr().err


@pytest.mark.slow
def test_dpo_goes_on_from_the_adapter_that_sft_left(results, tmp_path):
    start = results("sft")
    result = run("dpo", tmp_path, f"model_name={start.run_dir}", "max_steps=30")
    assert result.after["eval_rewards/accuracies"] > 0.7
    adapter = json.loads((result.model_dir / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(ROOT / "examples" / "tiny" / "model")
    folders = [path.name for path in (result.run_dir / "checkpoints").rglob("adapter_model*")]
    assert len(folders) == 2  # the policy of two checkpoints, and no copy of the reference


def stop_after(monkeypatch, steps):
    """Stop the trainer after so many steps, as a kill between two steps would."""
    from transformers import Trainer

    whole = Trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step >= steps:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "training_step", training_step)


def weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "adapter"), [("sft", False), ("grpo", False), ("dpo", True)])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(
    results, tmp_path, monkeypatch, strategy, adapter
):
    options = ["max_steps=6", "save_steps=2", "logging_steps=1"]
    options += [f"eval_dataset={held_out(DATA[strategy], 8)}"]
    options += [f"per_device_train_batch_size={8 if strategy == 'grpo' else 4}"]
    options += [f"model_name={results('sft').run_dir if adapter else shallow()}"]
    whole = run(strategy, tmp_path / "whole", *options, rows=120)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            run(strategy, tmp_path / "cut", *options, rows=120)
    resumed = run(strategy, tmp_path / "cut", *options, rows=120)
    assert resumed.resumed_from.name == "checkpoint-2"
    first, second = weights(whole.model_dir), weights(resumed.model_dir)
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = []
    for result in (whole, resumed):
        rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").open()]
        logs.append([{k: v for k, v in row.items() if k != "session"} for row in rows])
    assert logs[0] == logs[1]
    assert resumed.before == whole.before and resumed.after == whole.after
