"""A finished run that is to be longer trains on; one killed at its end keeps its best model."""

import functools
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import DATA, held_out, quick, shallow
from trl import SFTTrainer

import modelforge
from modelforge import RunError, UserError, load_config
from modelforge.checkpointing.resumed import state_of
from modelforge.evaluation import results
from modelforge.registry import get_strategy
from modelforge.runs.folder import open_run
from modelforge.training.follow import following
from modelforge.training.prepare import prepare
from modelforge.training.run import load

SMALL = ("per_device_train_batch_size=4", "logging_steps=1", "run_name=run", "max_seq_length=64")


def run(strategy, folder, *overrides):
    rows = held_out(DATA[strategy], 4)
    said = (*SMALL, f"model_name={shallow()}")
    return quick(strategy, folder, *said, *overrides, eval_dataset=rows)


def weights(folder):
    return load_file(Path(folder) / "adapter_model.safetensors")


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def rates(folder):
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").open()]
    return {row["step"]: row["learning_rate"] for row in rows if "learning_rate" in row}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three steps, finished."""
    return run("sft", tmp_path_factory.mktemp("first"), "max_steps=3", "save_steps=0.5").run_dir


@pytest.fixture(scope="module")
def longer(first, tmp_path_factory):
    """The same, trained on to six steps by the same command with more max_steps."""
    folder = tmp_path_factory.mktemp("longer")
    shutil.copytree(first, folder / "run")
    return run("sft", folder, "max_steps=6", "save_steps=0.5")


@pytest.mark.slow
def test_more_steps_train_on_in_the_same_folder(first, longer):
    assert longer.resumed_from.name == "checkpoint-3" and longer.run_dir.name == "run"
    assert not same(longer.model_dir, first / "model")
    assert json.loads((longer.run_dir / "results.json").read_text())["steps"] == 6
    assert list(rates(longer.run_dir)) == [1, 2, 3, 4, 5, 6]
    assert json.loads((longer.run_dir / "choices.json").read_text())["said"]["max_steps"] == 6
    assert longer.before == json.loads((first / "results.json").read_text())["before"]
    saved = sorted(path.name for path in longer.run_dir.glob("checkpoints/checkpoint-*"))
    assert saved == ["checkpoint-3", "checkpoint-6"]  # half of the six steps, not of the three


@pytest.mark.slow
def test_it_is_what_plain_trl_does_with_that_checkpoint(first, longer, tmp_path):
    shutil.copytree(first, tmp_path / "plain")
    config = load_config(tmp_path / "plain", overrides=["max_steps=6"])
    prepared = prepare(config)
    parts = load(prepared)
    parts.args.report_to, parts.args.save_strategy = [], "no"
    trainer = SFTTrainer(
        model=parts.model,
        args=parts.args,
        train_dataset=prepared.strategy.datasets(parts)[0],
        processing_class=parts.tokenizer,
        peft_config=parts.peft_config,
    )
    trainer.train(resume_from_checkpoint=str(prepared.checkpoint))
    trainer.save_model(str(tmp_path / "theirs"))
    assert same(longer.model_dir, tmp_path / "theirs")
    theirs = {r["step"]: r["learning_rate"] for r in trainer.state.log_history if "loss" in r}
    assert {k: v for k, v in rates(longer.run_dir).items() if k > 3} == {
        k: v for k, v in theirs.items() if k > 3
    }


@pytest.mark.slow
def test_from_its_checkpoint_it_trains_on_in_a_new_folder_too(first, longer, tmp_path, capsys):
    checkpoint = first / "checkpoints" / "checkpoint-3"
    asked = ("save_steps=0.5", f"resume={checkpoint}", "run_name=new")
    result = run("sft", tmp_path, "max_steps=6", *asked)
    assert result.run_dir.name == "new" and same(result.model_dir, longer.model_dir)
    said = capsys.readouterr().err
    assert "6 steps long now, and was 3" in said and "schedule of 6 steps" in said
    # In epochs: as many steps as they are.
    rows = tmp_path / "few.jsonl"
    data = Path(__file__).parents[1] / "examples/tiny/data/sft_train.jsonl"
    rows.write_text("".join(data.open().readlines()[:8]))
    few = (f"dataset={rows}", "save_steps=1", "run_name=epochs")
    assert run("sft", tmp_path, "num_train_epochs=1", *few).run_dir.name == "epochs"
    again = run("sft", tmp_path, "num_train_epochs=2", *few)
    assert json.loads((again.run_dir / "results.json").read_text())["steps"] == 4
    assert again.resumed_from.name == "checkpoint-2"


@pytest.mark.slow
def test_a_longer_run_that_was_killed_is_not_taken_for_finished(first, tmp_path, monkeypatch):
    shutil.copytree(first, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("modelforge.training.run.load", killed)
        with pytest.raises(Killed):
            run("sft", tmp_path, "max_steps=4", "save_steps=0.5")
    assert not (tmp_path / "run" / "results.json").exists()
    assert run("sft", tmp_path, "max_steps=4", "save_steps=0.5").resumed_from is not None


def asked(folder, **overrides):
    values = json.loads((folder / "choices.json").read_text())["said"]
    return load_config(values | {"output_dir": str(folder.parent), "run_name": "run"} | overrides)


@pytest.mark.slow
def test_what_a_checkpoint_decides_is_refused_or_said(first):
    for more in ({"max_steps": 2}, {"max_steps": 6, "seed": 7}):
        with pytest.raises(RunError, match="holds a run of another config"):
            open_run(asked(first, **more))
    with pytest.raises(RunError, match=r"more max_steps .* train on here"):
        open_run(asked(first, max_steps=2))
    checkpoint = str(first / "checkpoints" / "checkpoint-3")
    for key, value in {"learning_rate": 5e-5, "weight_decay": 0.1, "lora_r": 8}.items():
        config = asked(first, resume=checkpoint, run_name="new", max_steps=6, **{key: value})
        with pytest.raises(UserError, match=rf"{key}: is .* was written with"):
            prepare(config)
    with pytest.raises(UserError, match=r"max_steps: is 2, and .* is of step 3"):
        prepare(asked(first, resume=checkpoint, run_name="new", max_steps=2))


# --- killed at the end ----------------------------------------------------------------------------


class Killed(BaseException):
    """As kill -9: nothing of the run's own code runs after it."""


def killed(*args, **kwargs):
    raise Killed


BEST = (
    *("load_best_model_at_end=true", "eval_steps=1", "metric_for_best_model=eval_loss"),
    *("learning_rate=0.01", "max_steps=2", "save_total_limit=5"),
)
ANSWERS = ("generation.max_new_tokens=4", "eval_prompts=4", "num_generations=2")
OWN = {
    # A figure that falls as it learns: the first checkpoint has the most of it.
    "sft": ("metric_for_best_model=eval_entropy", "greater_is_better=true"),
    "ppo": ("generation.max_new_tokens=4", "ppo.ppo_epochs=1"),
    "grpo": (*ANSWERS, "per_device_train_batch_size=4"),
    "rloo": (*ANSWERS, "per_device_train_batch_size=4", "strategy=rloo"),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "reward", "ppo", "grpo", "rloo"])
def test_killed_in_the_final_measurement_the_best_model_stays(tmp_path, monkeypatch, strategy):
    preset = "grpo" if strategy == "rloo" else strategy
    command = functools.partial(run, preset, tmp_path, *BEST, *OWN.get(strategy, ()))
    whole = results.measured
    with monkeypatch.context() as patch:

        def measured(trainer, *args, **kwargs):
            return whole(trainer, *args, **kwargs) if not trainer.state.global_step else killed()

        patch.setattr("modelforge.evaluation.results.measured", measured)
        with pytest.raises(Killed):
            command()
    folder = tmp_path / "run"
    best = Path(state_of(folder / "checkpoints" / "checkpoint-2").best_model_checkpoint)
    assert strategy != "sft" or best.name == "checkpoint-1"
    assert same(folder / "model", best)
    shutil.copytree(folder / "model", tmp_path / "then")
    assert same(command().model_dir, tmp_path / "then")
    if strategy not in ("sft", "ppo"):
        return
    # Killed while the model is saved, and resumed where the folder lies by then.
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "model")
    moved = tmp_path / "elsewhere" / "run"
    shutil.move(folder, moved)
    assert same(modelforge.train(moved).model_dir, tmp_path / "then")


@pytest.mark.slow
def test_a_figure_that_is_never_measured_is_refused_before_the_first_step(tmp_path):
    asked = ("load_best_model_at_end=true", "metric_for_best_model=accuracy", "max_steps=4")
    with pytest.raises(UserError, match=r"'accuracy' is no figure .* 'eval_mean_token_accuracy'"):
        run("sft", tmp_path, *asked)
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.mark.slow
def test_a_run_that_never_evaluates_says_that_it_kept_the_last_model(tmp_path, capsys):
    asked = ("load_best_model_at_end=true", "eval_delay=9", "eval_steps=1", "max_steps=1")
    run("sft", tmp_path, *asked)
    assert "no checkpoint was evaluated" in capsys.readouterr().err


# --- stopping early -------------------------------------------------------------------------------

STOP = (
    *("early_stopping.patience=2", "early_stopping.min_delta=100", "eval_steps=1", "max_steps=9"),
    *("save_total_limit=9", "per_device_train_batch_size=2", "gradient_accumulation_steps=1"),
)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run whose figure never gets better by as much as is asked for."""
    return run("sft", tmp_path_factory.mktemp("stopped"), *STOP).run_dir


@pytest.mark.slow
def test_a_run_stops_when_its_figure_gets_no_better_and_says_so(stopped):
    results = json.loads((stopped / "results.json").read_text())
    state = state_of(stopped / "checkpoints" / "checkpoint-3")
    assert results["steps"] == 3 and same(stopped / "model", state.best_model_checkpoint)
    early = results["stopped_early"]
    assert (early["step"], early["of"], early["evaluations"]) == (3, 9, 2)
    assert early["metric"] == "eval_loss" and early["best"] == state.best_metric
    told = "topped at step 3 of 9: no better eval_loss (by more than 100) for 2 evaluations; best"
    assert told in early["told"] and told in (stopped / "report.html").read_text()
    assert told in (stopped / "model" / "README.md").read_text()
    choices = json.loads((stopped / "choices.json").read_text())["choices"]
    assert choices["metric_for_best_model"]["value"] == "eval_loss"
    assert choices["load_best_model_at_end"]["reason"] == "early_stopping is set"


@pytest.mark.slow
def test_a_resume_keeps_the_patience_that_was_left(stopped, tmp_path, capsys):
    shutil.copytree(stopped, tmp_path / "run")
    again = run("sft", tmp_path, *STOP)
    assert "it is finished" in capsys.readouterr().err and again.resumed_from is None
    for name in ("results.json", "model", "checkpoints/checkpoint-3"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    again = run("sft", tmp_path, *STOP)
    assert again.resumed_from.name == "checkpoint-2"
    first, second = (json.loads((p / "results.json").read_text()) for p in (stopped, again.run_dir))
    assert first["stopped_early"] == second["stopped_early"] and first["after"] == second["after"]
    (again.run_dir / "results.json").unlink()  # killed at its end: it had stopped
    done = run("sft", tmp_path, *STOP)
    assert "stopped early, at step 3: nothing is left" in capsys.readouterr().err
    third = json.loads((done.run_dir / "results.json").read_text())
    assert third["stopped_early"] == first["stopped_early"] and third["after"] == first["after"]


@pytest.mark.parametrize(
    ("strategy", "said", "metric", "greater"),
    [
        ("reward", {}, "eval_accuracy", True),
        ("grpo", {}, "eval_reward", True),
        ("grpo", {"metric": "rewards/x/mean"}, "rewards/x/mean", None),
        ("sft", {"metric": "loss"}, "loss", False),
        ("ppo", {"metric": "kl/reference"}, "kl/reference", False),
    ],
)
def test_the_figure_is_the_strategys_own_or_the_one_named(strategy, said, metric, greater):
    values = {"strategy": strategy, "model_name": "m", "dataset": "d", "early_stopping": said}
    choices = following(load_config(values), get_strategy(strategy)(), {})
    found = {key: choice.value for key, choice in choices.items()}
    assert found["load_best_model_at_end"] and found["eval_strategy"] == "steps"
    assert (found["metric_for_best_model"], found.get("greater_is_better")) == (metric, greater)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"load_best_model_at_end": False}, "early_stopping: keeps the best model"),
        ({"metric_for_best_model": "eval_loss"}, "watches accuracy, and metric_for_best_model"),
        ({"eval_strategy": "no"}, "early_stopping: needs evaluations, and eval_strategy is no"),
    ],
)
def test_early_stopping_that_contradicts_another_key_is_refused(said, says):
    values = {"strategy": "sft", "model_name": "m", "dataset": "d"}
    config = load_config(values | said | {"early_stopping": {"metric": "accuracy"}})
    with pytest.raises(UserError, match=says):
        following(config, get_strategy("sft")(), {})
