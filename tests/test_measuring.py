"""Held-out figures: properties of model and data, whatever the evaluation batch."""

import inspect
import json
import math
import statistics

import pytest
import torch
import trl
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import DATA, ROOT, held_out, quick

from modelforge import ConfigError, get_strategy, list_strategies, load_config
from modelforge.callbacks.metrics import SESSION
from modelforge.config import Choice
from modelforge.measuring import by_prompt
from modelforge.measuring.by_prompt import ByPrompt
from modelforge.measuring.by_row import HOOKS, ByRow
from modelforge.measuring.intervals import change, student, wilson
from modelforge.measuring.one_forward import OneForward
from modelforge.measuring.rows import HeldOutRow, ties_half, together
from modelforge.measuring.trainers import by_row
from modelforge.strategies.grpo import GRPO
from modelforge.strategy import Measure, Strategy
from modelforge.training.follow import refuse_unknown_metric
from modelforge.training.prepare import prepare
from modelforge.training.run import build_trainer, load

ANSWERS = (
    "per_device_train_batch_size=8",
    "dataloader_drop_last=true",
    "eval_prompts=7",
    "generation.max_new_tokens=12",
)
OPTIONS = {
    "sft": (),
    "reward": (),
    "dpo": ("precompute_ref_log_probs=true",),
    "kto": ("precompute_ref_log_probs=true", "per_device_train_batch_size=4"),
    "grpo": (*ANSWERS, "num_generations=4"),
    "rloo": (*ANSWERS, "num_generations=4", "strategy=rloo"),
    "ppo": ANSWERS,
    "distill": (*ANSWERS, f"teacher_model={ROOT / 'examples/tiny/model'}"),
}


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def built(strategy, folder, *overrides):
    """A run's trainer, its adapter moved off the start."""
    preset = "grpo" if strategy == "rloo" else strategy
    rows = held_out(DATA[preset], 11)
    said = [f"output_dir={folder}", f"dataset={rows}", f"eval_dataset={rows}", "report_to=none"]
    config = load_config(ROOT / f"configs/tiny/{preset}.json", overrides=[*said, *overrides])
    prepared = prepare(config)
    prepared.run.path.mkdir(parents=True)
    trainer = build_trainer(prepared, load(prepared))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=chance)
    return trainer


def figures(trainer):
    found = trainer.evaluate()
    return {k: v for k, v in found.items() if not k.endswith(SESSION)}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", OPTIONS)
def test_no_figure_depends_on_the_evaluation_batch(strategy, tmp_path):
    one, other = (
        figures(
            built(strategy, tmp_path / str(size), *OPTIONS[strategy],
                  f"per_device_eval_batch_size={size}")
        )
        for size in (1, 6)
    )  # fmt: skip
    assert len(one) > 3 and one == pytest.approx(other, abs=1e-6, rel=1e-6)
    config = load_config(ROOT / f"configs/tiny/{'grpo' if strategy == 'rloo' else strategy}.json")
    config = (
        config.with_choices({"rewards": Choice(["numeric_answer"], "data")})
        if (get_strategy(strategy).generates)
        else config
    )
    known = {f"eval_{name}" for name in get_strategy(strategy)().figures(config)}
    assert set(one) - {"epoch"} <= known


def test_held_out_answers_are_the_same_where_training_batches_continuously(tmp_path):
    """That draws by the order in which answers end, and TRL left the model in training."""
    said = ("per_device_train_batch_size=4", "eval_prompts=2", "generation.max_new_tokens=4")
    one, other = (
        figures(
            built("ppo", tmp_path / str(on), *said, f"use_transformers_continuous_batching={on}")
        )
        for on in ("true", "false")
    )
    assert one == pytest.approx(other, abs=1e-9)


HARDER = {
    "sft": ("label_smoothing_factor=0.1", "packing=true", "dataloader_drop_last=true"),
    "dpo": ("lora_r=0", "lora_alpha=null", 'loss_type=["sigmoid","sft"]', "ld_alpha=0.5"),
}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", HARDER)
def test_rows_are_measured_in_the_batch_that_was_asked_for(strategy, tmp_path):
    """One forward pass for a batch, padded as little as can be; the figures are the rows' own."""
    found, shapes = {}, {}
    for size in (1, 4):
        trainer = built(strategy, tmp_path / str(size), *HARDER[strategy],
                        f"per_device_eval_batch_size={size}")  # fmt: skip
        seen = shapes[size] = []
        trainer.model.get_input_embeddings().register_forward_hook(
            lambda module, ids, output, seen=seen: seen.append(tuple(ids[0].shape))
        )
        found[size] = figures(trainer), trainer.held_out
    assert found[1][0] == pytest.approx(found[4][0], abs=1e-6, rel=1e-6)
    sides = 2 if strategy == "dpo" else 1
    for one, other in zip(found[1][1], found[4][1], strict=True):  # in the order of the data
        assert one.weight == other.weight
        assert one.figures == pytest.approx(other.figures, abs=1e-5, rel=1e-5)
    once = len(shapes[1]) // 11  # the model is asked twice where labels are smoothed
    assert shapes[1] and {rows for rows, _ in shapes[1]} == {sides}
    assert [rows // sides for rows, _ in shapes[4]][::once] == [4, 4, 3]
    lengths = [length for _, length in shapes[4]]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.slow
def test_the_held_out_loss_is_the_datas_whatever_loss_is_trained(tmp_path):
    """Smoothed labels raise it and the weights of DFT lower it: two runs would not compare."""
    options = ("loss_type=nll", "label_smoothing_factor=0.3", "loss_type=dft")
    plain, *others = (
        figures(built("sft", tmp_path / str(i), said))["eval_loss"]
        for i, said in enumerate(options)
    )
    assert others == pytest.approx([plain, plain], rel=1e-6)


def test_a_figure_of_the_whole_batch_is_no_rows():
    """A mixture's auxiliary loss: then each row goes through the model alone."""

    class Mixture(torch.nn.Module):
        def forward(self, input_ids):
            seen.append(len(input_ids))
            return {"logits": input_ids.float(), "aux_loss": input_ids.float().mean()}

    seen, model = [], Mixture()
    forward, batch = OneForward([model]), torch.arange(6).reshape(3, 2)
    with forward.recording():
        model(input_ids=batch)
    with forward.of_row(1, 3):
        assert model(input_ids=batch[1:2])["aux_loss"] == 2.5
    assert seen == [3, 1] and "forward" not in vars(model)


def test_in_16_bits_rows_are_measured_alone_and_a_batch_is_not_used(capsys):
    for said, value in (({}, 4), ({"per_device_eval_batch_size": 6}, None)):
        config = load_config({"strategy": "sft", "model_name": "m", "dataset": "d",
                              "per_device_train_batch_size": 4, **said})  # fmt: skip
        strategy = get_strategy("sft")()
        found = strategy.derived_defaults(config).get("per_device_eval_batch_size")
        assert (found and found.value) == value
        half = config.with_choices({"bf16": Choice(True, "machine")})
        assert strategy.derived_defaults(half)["per_device_eval_batch_size"].value == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "per_device_eval_batch_size 6 is not used: held-out rows are measured one by one" in said


@pytest.mark.parametrize(
    ("strategy", "metric", "meant"),
    [
        ("sft", "eval_mean_token_acuracy", "eval_mean_token_accuracy"),
        ("dpo", "rewards/acuracies", "eval_rewards/accuracies"),
        ("reward", "acc", "eval_accuracy"),
        ("kto", "rewards/acuracies", "eval_rewards/accuracies"),
        ("grpo", "rewards/numeric_answers/mean", "eval_rewards/numeric_answer/mean"),
    ],
)
def test_a_misspelt_figure_of_the_best_model_is_refused_before_loading(
    strategy, metric, meant, tmp_path
):
    rows = held_out(DATA[strategy], 4)
    said = [f"output_dir={tmp_path}", f"dataset={rows}", f"eval_dataset={rows}", "report_to=none",
            "load_best_model_at_end=true", "eval_steps=2", "max_steps=4"]  # fmt: skip
    path = ROOT / f"configs/tiny/{strategy}.json"
    with pytest.raises(ConfigError, match=f"'{metric}' is no figure of this run .*{meant}"):
        prepare(load_config(path, overrides=[*said, f"metric_for_best_model={metric}"]))
    prepare(load_config(path, overrides=[*said, f"metric_for_best_model={meant}"]))
    watched = [*said, f"early_stopping.metric={metric}"]
    with pytest.raises(ConfigError, match=rf"early_stopping\.metric: '{metric}' .*{meant}"):
        prepare(load_config(path, overrides=watched))


def own(completions, **kwargs):
    return [float(len(completions))] * len(completions)


def logging(completions, log_metric=None, **kwargs):
    log_metric("mine", 1.0)
    return [1.0] * len(completions)


@pytest.mark.parametrize("function", [own, logging])
def test_a_functions_figure_is_known_where_it_logs_no_other(function, tmp_path):
    (tmp_path / "r.py").write_text(inspect.getsource(function))
    name, known = function.__name__, function is own
    values = {"strategy": "grpo", "model_name": "m", "dataset": "d", "eval_strategy": "steps"}
    config = load_config(values | {"rewards": [f"{tmp_path / 'r.py'}:{name}"]})
    for found in (
        GRPO().figures(config),
        GRPO([(function, 1.0)]).figures(load_config(values)),
    ):
        assert (f"rewards/{name}/mean" in found) is known is bool(found)


class Own(Strategy):
    """Of somebody else: its measure is all that is known of it."""

    name, data_kind, measure = "own", "demonstration", Measure("eval_mine", "mine", True)

    @classmethod
    def trl_config_class(cls):
        return trl.SFTConfig

    @classmethod
    def trl_trainer_class(cls):
        return trl.SFTTrainer


def test_a_figure_that_a_strategy_of_ones_own_does_not_name_is_refused():
    values = {"strategy": "sft", "model_name": "m", "dataset": "d", "eval_strategy": "steps"}
    config = load_config(values | {"metric_for_best_model": "eval_mine"})
    refuse_unknown_metric(config, Own().figures(config))
    with pytest.raises(ConfigError, match="set one of eval_loss, eval_mine"):
        other = {"metric_for_best_model": "accuracy"}
        refuse_unknown_metric(load_config(values | other), Own().figures(config))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One short run of a strategy, made when first asked for."""
    made = {}

    def run(strategy):
        if strategy not in made:
            short = ("max_steps=2", "eval_strategy=steps", "eval_steps=1", "warmup_ratio=0")
            options = () if strategy == "dpo" else OPTIONS[strategy]
            options = (f"dataset={held_out(DATA[strategy], 80)}", *options)
            options = (f"model_name={ROOT / 'examples/tiny/model'}", *options)
            folder = tmp_path_factory.mktemp(strategy)
            made[strategy] = quick(strategy, folder, *short, "save_strategy=no", *options)
        return made[strategy]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "grpo"])
def test_what_is_logged_and_chosen_by_is_what_the_run_ends_with(runs, strategy):
    run = runs(strategy)
    logged = [row for row in lines(run.run_dir / "metrics.jsonl") if row["step"] == 2]
    last = {k: v for row in logged for k, v in row.items() if k.startswith("eval_")}
    assert {key: last[key] for key in run.after} == dict(run.after)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "key"), [("sft", "loss"), ("dpo", "rewards/margins"), ("grpo", "reward")]
)
def test_the_rows_are_kept_and_their_weighted_mean_is_the_figure(runs, strategy, key):
    run = runs(strategy)
    rows = lines(run.run_dir / "held_out.jsonl")
    count = 7 if strategy == "grpo" else 8
    assert [row["row"] for row in rows] == list(range(count))
    for when, found in (("before", run.before), ("after", run.after)):
        mean = sum(r["weight"] * r[when][key] for r in rows) / sum(r["weight"] for r in rows)
        assert found[f"eval_{key}"] == pytest.approx(mean, rel=1e-9)
    assert len({row["weight"] for row in rows}) > 1 or strategy != "sft"
    results = json.loads((run.run_dir / "results.json").read_text())
    assert results["rows"] == count
    assert results["verdict"] in (run.run_dir / "model" / "README.md").read_text()


@pytest.mark.slow
def test_the_likeliest_answers_are_rewarded_beside_the_sampled_ones(runs, tmp_path, capsys):
    run = runs("grpo")
    results = json.loads((run.run_dir / "results.json").read_text())
    rows = [row["after"] for row in lines(run.run_dir / "held_out.jsonl")]
    greedy, sampled = ([row[name] for row in rows] for name in ("reward_greedy", "reward"))
    found = results["greedy"]
    assert found["rows"] == 7 and found["after"] == pytest.approx(sum(greedy) / 7)
    assert found["after"] == pytest.approx(run.after["eval_reward_greedy"])
    assert found["sampled"] == pytest.approx(run.after["eval_reward"])
    error = statistics.stdev(sampled) / 7**0.5
    assert run.after["eval_reward_stderr"] == pytest.approx(error) and error > 0
    low, high = found["interval"]
    assert low <= found["after"] - found["before"] <= high
    for page in ("model/README.md", "report.html"):
        assert f"reward {found['before']:.4g} → " in (run.run_dir / page).read_text(), page

    trainer, said = built("ppo", tmp_path, *OPTIONS["ppo"]), []
    reward = trainer.reward_funcs[0]
    trainer.reward_funcs[0] = lambda **given: said.extend(given["completions"]) or reward(**given)
    trainer.evaluate()
    tokenizer = trainer.processing_class
    tokenizer.padding_side = "left"
    inputs = tokenizer.apply_chat_template(
        [trainer.eval_dataset[i]["prompt"] for i in range(7)], add_generation_prompt=True,
        return_dict=True, return_tensors="pt", padding=True,
    )  # fmt: skip
    ids = trainer.model.generate(**inputs, do_sample=False, max_new_tokens=12)
    ids = ids[:, inputs["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [answer[0]["content"] for answer in said[-7:]] == texts and len(said) == 14
    assert " · greedy " in capsys.readouterr().err


@pytest.mark.slow
def test_before_training_dpo_is_at_chance_and_not_at_nothing(runs):
    run = runs("dpo")
    assert run.before["eval_rewards/accuracies"] == 0.5
    results = json.loads((run.run_dir / "results.json").read_text())
    assert results["chance"] == 0.5
    assert results["interval"] == pytest.approx(wilson(run.after["eval_rewards/accuracies"], 8))


def test_trl_still_has_what_the_measuring_leans_on():
    for trainer in (trl.GRPOTrainer, trl.RLOOTrainer):
        for name, parameters in (HOOKS | by_prompt.HOOKS).items():
            known = inspect.signature(getattr(trainer, name)).parameters
            assert not [p for p in parameters if p not in known], f"{trainer.__name__}.{name}"
    for name, parameters in (
        ("_precompute_ref_logps", ["dataset", "name", "batch_size"]),
        ("compute_ref_log_probs", ["model", "inputs"]),
    ):
        known = inspect.signature(getattr(trl.DPOTrainer, name)).parameters
        assert [*known] == ["self", *parameters], name


@pytest.mark.parametrize("name", [n for n in list_strategies() if n != "rlhf"])
def test_every_strategy_measures_row_by_row(name):
    strategy = get_strategy(name)
    made = by_row(strategy.trl_trainer_class())
    assert issubclass(made, ByPrompt if strategy.generates else ByRow) and by_row(made) is made


NUMBERS = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(NUMBERS, st.integers(1, 50)), min_size=1, max_size=20), st.randoms())
@settings(max_examples=50, deadline=None)
def test_rows_come_together_in_any_order(pairs, chance):
    rows = [HeldOutRow(w, {"loss": v, "min_reward": v, "max_reward": v}) for v, w in pairs]
    found = together(rows)
    chance.shuffle(rows)
    assert together(rows) == found
    values = [v for v, _ in pairs]
    assert (found["min_reward"], found["max_reward"]) == (min(values), max(values))
    spread = 1e-9 * max(map(abs, values))
    assert min(values) - spread <= found["loss"] <= max(values) + spread


def test_what_cannot_be_scored_counts_nowhere():
    rows = [
        HeldOutRow(1, {"reward": 1.0}, {"reward": [1.0, 1.0]}),
        HeldOutRow(1, {"reward": math.nan}, {"reward": [math.nan, math.nan]}),
    ]
    assert together(rows) == {"reward": 1.0, "reward_std": 0.0}
    assert math.isnan(together(rows[1:])["reward"])
    assert json.dumps(rows[1].to_dict(), allow_nan=False)


def test_the_length_of_answers_that_ended_is_theirs_alone():
    key, cut = "completions/mean_terminated_length", "completions/clipped_ratio"
    rows = [HeldOutRow(1, {key: 10.0, cut: 0.0}), HeldOutRow(1, {key: 0.0, cut: 1.0})]
    assert together(rows)[key] == 10.0


def test_a_tie_is_half_right():
    assert ties_half({"accuracy": 0.0, "margin": 0.0})["accuracy"] == 0.5
    assert ties_half({"rewards/accuracies": 1.0, "rewards/margins": 0.1})["rewards/accuracies"] == 1


@pytest.mark.parametrize(
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I
    ("right", "count", "interval"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)),
     (1, 29, (0.0061, 0.1718))],
)  # fmt: skip
def test_the_interval_of_a_share_is_wilsons(right, count, interval):
    assert wilson(right / count, count) == pytest.approx(interval, abs=5e-5)


def test_the_interval_of_a_change_is_students():
    for freedom, quantile in ((3, 3.182), (10, 2.228), (30, 2.042)):
        assert student(freedom) == pytest.approx(quantile, rel=0.01)
    before, after = [1.0, 2.0, 3.0, 4.0, 5.0], [1.5, 2.0, 4.0, 4.5, 6.0]
    moved, (low, high) = change(before, after, [1] * 5)
    gaps = [b - a for a, b in zip(before, after, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(5)
    assert moved == pytest.approx(0.6)
    assert [high - moved, moved - low] == pytest.approx([student(4) * error] * 2)
    assert change([1.0] * 3, [2.0] * 3, [1] * 3) is None
