"""tune: trials of one config in one pass over the base, and the best of them kept."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import DATA, ROOT, few, held_out, shallow
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

import modelforge
from modelforge.training import trials
from modelforge.training.joined import CannotJoinError, Joined, Lane, sharing
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load
from modelforge.training.trials import on_one_card, trained_until, trials_of, why_not_joined
from modelforge.training.tune import rungs, tune

LAST = "checkpoints/checkpoint-4/adapter_model.safetensors"


def said(strategy, folder, **more):
    """The tiny preset on few rows; every step is logged."""
    keys = {"output_dir": folder, "dataset": few(f"{DATA[strategy]}_train", 100)}
    keys |= {"eval_dataset": held_out(DATA[strategy], 8), "report_to": "none"}
    keys |= {"logging_steps": 1, "max_steps": 4, "per_device_train_batch_size": 4}
    keys |= {"model_name": shallow()}
    return [f"{key}={value}" for key, value in (keys | more).items()]


def config(strategy):
    return ROOT / "configs" / "tiny" / f"{strategy}.json"


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Two ranks and two seeds, each to its end, and their average."""
    folder = tmp_path_factory.mktemp("tuned")
    return tune(
        config("sft"), overrides=said("sft", folder), rates=[0.01], ranks=[4, 16], seeds=[1, 2],
        keep="average",
    )  # fmt: skip


def prepared(strategy, folder, **more):
    loaded = modelforge.load_config(config(strategy), overrides=said(strategy, folder, **more))
    return prepare(loaded)


def own_losses(ready):
    """Those of a run by itself."""
    trainer = build_trainer(ready, load(ready))
    trainer.train()
    return [(row["step"], row["loss"], row["grad_norm"]) for row in trainer.state.log_history[:-1]]


def alike(ours, theirs):
    return all(a == pytest.approx(b, rel=1e-4, abs=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_each_trial_has_the_losses_of_its_own_run(tuned, tmp_path):
    assert tuned.one_pass is True
    for name in ("rate-0.01-rank-4-seed-2", "rate-0.01-rank-16-seed-1"):
        ready = prepared("sft", tmp_path, run_name=name, **tuned.said[name])
        assert alike(losses(tuned.folder / name), own_losses(ready)), name


@pytest.mark.parametrize("strategy", ["dpo", "reward", "kto"])
def test_in_one_pass_a_loss_of_pairs_is_the_trials_own(strategy, tmp_path):
    keys = {"max_steps": 2, "gradient_accumulation_steps": 2}
    rates = (0.001, 0.02)
    both = [
        prepared(strategy, tmp_path / "both", **keys, learning_rate=rate, run_name=f"at-{rate}")
        for rate in rates
    ]
    found = list(trained_until(1.0, both, joined=True))
    assert [reached.step for _, reached in found] == [2, 2]
    for ready, _ in found:
        alone = replace(ready, args=replace(ready.args, output_dir=str(tmp_path / "alone")))
        assert alike(losses(ready.run.path), own_losses(alone))


def test_the_kept_run_is_an_ordinary_one(tuned):
    """The average of all adapters, or the best of them: a finished run whose model loads."""
    found = json.loads((tuned.folder / "trials.json").read_text())
    assert found["chosen"] == tuned.chosen and tuned.result.run_dir == tuned.folder / tuned.chosen
    best = min(found["found"], key=lambda name: found["found"][name]["1"]["value"])
    low, high = found["found"][best]["1"]["interval"]
    assert low < found["found"][best]["1"]["value"] < high
    for run in (tuned.folder / best, tuned.folder / "average"):
        results = json.loads((run / "results.json").read_text())
        assert results["saved"]["difference"] < 1e-4 and results["steps"] == 4
        assert (run / "model" / "README.md").is_file() and (run / "report.html").is_file()
    each = [load_file(tuned.folder / name / LAST) for name in tuned.said]
    mean = load_file(tuned.folder / "average" / LAST)
    name = next(name for name in mean if ".lora_A." in name)
    other = name.replace(".lora_A.", ".lora_B.")
    scales = [32 / len(one[name]) for one in each]
    wanted = sum(s * one[other] @ one[name] for s, one in zip(scales, each, strict=True)) / 4
    assert torch.allclose(mean[other] @ mean[name], wanted, atol=1e-6)


def test_the_worse_stop_early_and_a_killed_tune_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "LEAST", 1)
    keys = {
        "overrides": said("sft", tmp_path, max_steps=8, warmup_ratio=0),
        "rates": [0.01, 1e-5, 0.003],
    }
    step, calls = Trainer.training_step, []

    def training_step(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            tune(config("sft"), **keys)
    found = tune(config("sft"), **keys)
    assert found.chosen == "rate-0.01"
    reached = {name: sorted(each) for name, each in found.found.items()}
    assert reached == {key: ["0.5"] for key in ("rate-0.01", "rate-0.003", "rate-1e-05")}
    assert found.found["rate-0.01"]["0.5"]["step"] == 4
    ready = prepared("sft", tmp_path / "own", max_steps=8, warmup_ratio=0, learning_rate=0.01)
    assert alike(losses(found.result.run_dir), own_losses(ready))
    before = found.result.after
    again = tune(config("sft"), **keys)
    assert again.result.after == before and again.found == found.found
    keys["rates"] = [0.01, 1e-5, 0.003, 1e-4, 1e-6]  # one of them is at its end, others begin
    more = tune(config("sft"), **keys)
    assert "0.125" not in more.found["rate-0.01"] and more.chosen == "rate-0.01"
    reached = {name: sorted(more.found[name]) for name in ("rate-0.0001", "rate-1e-06")}
    assert reached == {"rate-0.0001": ["0.125", "0.5"], "rate-1e-06": ["0.125"]}


def test_a_trial_that_is_ahead_does_not_stop_those_behind_it(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "LEAST", 1)
    keys = {"overrides": said("sft", tmp_path, max_steps=8, warmup_ratio=0)}
    alone = tune(config("sft"), **keys, rates=[0.001])
    assert alone.chosen == "rate-0.001" and alone.found["rate-0.001"]["1"]["step"] == 8
    found = tune(config("sft"), **keys, rates=[0.001, 0.01])
    assert found.chosen == "rate-0.01" and found.found["rate-0.01"]["1"]["step"] == 8


def test_trials_that_sample_answers_go_one_after_the_other(tmp_path):
    keys = said("grpo", tmp_path, max_steps=2, prompts_per_step=1, num_generations=4)
    keys += ["generation.max_new_tokens=4", f"eval_dataset={held_out('prompts', 2)}"]
    found = tune(config("grpo"), overrides=keys, count=2)
    assert "samples answers" in found.one_pass and found.result.after["eval_reward"] >= 0
    assert [each["0.5"]["step"] for each in found.found.values()] == [2, 2]


def test_trials_that_train_the_biases_of_the_base_do_not_share_it(tmp_path):
    ready = prepared("sft", tmp_path)
    assert why_not_joined([ready, ready]) is None
    biased = prepared("sft", tmp_path, lora='{"bias": "all"}')
    assert "biases" in why_not_joined([biased, biased])


def test_a_trial_that_diverges_is_given_up(tmp_path):
    keys = said("sft", tmp_path, max_steps=9)
    found = tune(config("sft"), overrides=keys, rates=[0.01, 1e6], to_the_end=True)
    assert found.chosen == "rate-0.01" and "finite" in found.found["rate-1000000.0"]["1"]["why"]


def test_rungs_and_rates():
    assert rungs(1) == [] and rungs(2) == rungs(4) == [1 / 2]
    assert rungs(5) == rungs(16) == [1 / 8, 1 / 2]
    four = trials_of(0.003, count=4, rates=[], ranks=[], seeds=[])
    assert [each.said["learning_rate"] for each in four] == [0.001, 0.00208, 0.00433, 0.009]
    named = trials_of(0.003, count=1, rates=[], ranks=[8, 16, 8], seeds=[1])
    assert [each.name for each in named] == [
        "rate-0.003-rank-8-seed-1",
        "rate-0.003-rank-16-seed-1",
    ]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--rates", "fast"], "--rates: 'fast' is not a list of numbers above 0"),
        (["--rates", "0"], "--rates: '0' is not"),
        (["--ranks", "4.5"], "--ranks: '4.5' is not a list of whole numbers"),
        (["--trials", "3", "--rates", "1e-3"], "--trials: has no effect"),
        (["--keep", "worst"], "--keep: is 'worst'"),
        (["--set", "eval_dataset=null", "--set", "eval_split=0"], "eval_dataset: is missing"),
        (["--set", "strategy=rlhf"], "strategy: rlhf trains"),
        (["--keep", "average", "--set", 'lora={"use_dora": true}'], "keep: the trials of use_dora"),
    ],
)
def test_what_cannot_be_tuned_is_refused(options, told, tmp_path, command):
    keys = [part for key in said("sft", tmp_path / "runs") for part in ("--set", key)]
    code, _, error = command("tune", config("sft"), *keys, *options)
    assert code == 2 and told in " ".join(error.split()), error
    assert "loading" not in error and not (tmp_path / "runs").exists()


def test_the_plan_counts_all_adapters_and_the_rows_of_a_step_stay(tmp_path):
    more = {"memory_budget_gb": 0.2, "per_device_train_batch_size": "null", "lora_r": 4}
    ready = prepared("sft", tmp_path, **more)
    together, planned = on_one_card([ready] * 4)
    assert planned.fits and planned.settings["lora_r"] == 16
    micro = together[0].config.micro_batch
    assert planned.settings["per_device_train_batch_size"] == 4 * micro
    assert micro < ready.config.micro_batch
    assert together[0].args.gradient_accumulation_steps * micro == 16


SMALL = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    "n_embd": 32, "n_layer": 2, "n_head": 4, "num_local_experts": 4, "num_experts_per_tok": 2,
    "embd_pdrop": 0.0, "resid_pdrop": 0.0, "attn_pdrop": 0.0, "sliding_window": 4,
}  # fmt: skip


def losses_and_gradients(lane):
    model, ids = lane
    found = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    return found.loss, [p for p in model.parameters() if p.requires_grad]


@pytest.mark.parametrize(
    ("kind", "checkpointing"),
    [("gpt2", False), ("qwen3", True), ("phi3", True), ("mixtral", False)],
)
def test_other_architectures_give_each_trial_its_own_gradients(kind, checkpointing):
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SMALL))
    each = []
    for rank, length in ((2, 5), (4, 9)):
        shape = LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(sharing(base, frozen_only=False), shape).train()
        if checkpointing:
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        each.append((model, torch.randint(1, 64, (3, length))))

    def work(accelerator, lane):
        loss, trained = losses_and_gradients(lane)
        accelerator.backward(loss)
        return loss.item(), [p.grad for p in trained]

    alone = []
    for lane in each:
        alone.append(work(SimpleNamespace(backward=torch.Tensor.backward), lane))
        lane[0].zero_grad()
    lanes = []
    for lane in each:
        accelerator = Accelerator(cpu=True)
        trainer = SimpleNamespace(accelerator=accelerator, model=lane[0])
        lanes.append(Lane(trainer, partial(work, accelerator, lane)))
    if kind == "mixtral":  # a router sees tokens, whosever they are
        with pytest.raises(CannotJoinError, match="row by row"):
            Joined(lanes).run()
        return
    Joined(lanes).run()
    for lane, (loss, gradients) in zip(lanes, alone, strict=True):
        assert lane.result[0] == pytest.approx(loss, rel=1e-5)
        for ours, theirs in zip(lane.result[1], gradients, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4), kind
