"""What a run forgets, on texts that have nothing to do with its data."""

import json

import pytest
import torch
from tiny import ROOT, quick
from transformers import AutoModelForCausalLM, AutoTokenizer

from modelforge.evaluation import neutral

TINY = ROOT / "examples" / "tiny" / "model"


def read(model, tokenizer, text):
    ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=neutral.LONGEST)
    return model(ids["input_ids"]).logits[0, :-1].double().log_softmax(-1)


def test_the_divergence_is_a_close_lower_bound_of_the_whole_one():
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = AutoModelForCausalLM.from_pretrained(TINY).eval()
    with torch.no_grad():
        start = neutral.begun(model, tokenizer, 3)
        same = neutral.moved(model, tokenizer, start)
        assert same["kl"] < 1e-5 and abs(same["loss_after"] - start["loss"]) < 1e-6
        assert start["tokens"] == sum(len(places["tokens"]) for places in start["places"])
        first = [read(model, tokenizer, text) for text in neutral.texts()[:3]]
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02 * parameter.std())
        last = [read(model, tokenizer, text) for text in neutral.texts()[:3]]
        moved = neutral.moved(model, tokenizer, start)
    gaps = [(a.exp() * (a - b)).sum(1) for a, b in zip(first, last, strict=True)]
    whole = torch.cat(gaps).mean().item()
    assert 0.5 * whole < moved["kl"] <= whole * 1.001


@pytest.mark.slow
def test_a_run_says_what_it_forgot_within_a_tenth_of_its_work(tmp_path):
    result = quick("sft", tmp_path, "max_steps=4")
    results = json.loads((result.run_dir / "results.json").read_text())
    found = results["neutral"]
    assert found["kl"] > 0 and 0 < found["texts"] < len(neutral.texts())
    assert found["loss_before"] != found["loss_after"]
    data = json.loads((result.run_dir / "data.json").read_text())
    trained = 4 * 16 * data["tokens"]["total"] / data["train_rows"]  # steps, rows of a step
    assert 2 * found["tokens"] <= 0.1 * 3 * trained  # both looks; a step's passes cost three
    assert 2 * neutral.LONGEST * (found["texts"] + 1) > 0.1 * 3 * trained
    for page in ("report.html", "model/README.md"):
        assert "KL from the start" in (result.run_dir / page).read_text()
