"""A strategy of a third party: what it inherits, what it says itself, and what it leaves out."""

import json
import runpy
from pathlib import Path

import pytest
from machines import card
from tiny import few, held_out

import modelforge
from modelforge import registry
from modelforge.cli.main import main
from modelforge.machine.attention import attention_defaults
from modelforge.models.providers.unsloth import config_problems
from modelforge.plan import NotPlanned, plan
from modelforge.strategy import Strategy
from modelforge.training.defaults import Facts, fill

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
EXAMPLE = ROOT / "examples" / "04_orpo.py"


@pytest.fixture
def register(monkeypatch):
    """Register strategies for one test alone."""
    monkeypatch.setattr(registry, "_registered", {})
    return registry.register_strategy


def values_of(strategy, **said):
    kind = {"demonstration": "sft", "preference": "preference"}
    data = kind[registry.get_strategy(strategy).data_kind]
    return {
        "strategy": strategy,
        "model_name": str(TINY / "model"),
        "dataset": str(few(f"{data}_train", 200)),
        "eval_dataset": str(held_out(data)),
        "report_to": "none",
        **said,
    }


def own_trainer():
    """A strategy on a trainer of its own that has no hook for the plan."""

    class Unplanned(runpy.run_path(str(EXAMPLE))["ORPO"]):
        name = "unplanned"
        longest_batch = Strategy.longest_batch

    return Unplanned


def test_a_subclass_of_sft_keeps_padding_free_unsloth_and_the_plan(register):
    @register
    class Mine(registry.get_strategy("sft")):
        name = "mine"

    said = {"attn_implementation": "flash_attention_2", "lora_r": 8}
    configs = [
        fill(modelforge.load_config(values_of(name, **said)), Facts(kind(), card(24.0)))
        for name, kind in (("sft", registry.get_strategy("sft")), ("mine", Mine))
    ]
    assert [config.get("padding_free") for config in configs] == [True, True]
    assert not list(config_problems(modelforge.load_config(values_of("mine", lora_r=8))))
    theirs, ours = (plan(config, budget_gb=24, hardware=card(24.0)) for config in configs)
    assert ours.parts == theirs.parts and ours.peak_reserved == theirs.peak_reserved > 0


def test_a_strategy_that_says_nothing_is_promised_nothing(register):
    register(own_trainer())
    config = modelforge.load_config(values_of("unplanned"))
    (problem,) = config_problems(config)
    assert "its class does not say that it can" in problem.what
    said = modelforge.load_config(values_of("unplanned", attn_implementation="flash_attention_2"))
    kernels = frozenset({"flash_attention_2"})
    assert "padding_free" not in attention_defaults(
        said,
        card(24.0),
        kernels=kernels,
        padding_free=registry.get_strategy("unplanned").padding_free,
    )
    with pytest.raises(NotPlanned, match="give Unplanned the hook longest_batch"):
        plan(config)


def test_plan_says_that_there_is_none_and_how_to_add_one(register, tmp_path, capsys, monkeypatch):
    register(own_trainer())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values_of("unplanned")))
    monkeypatch.setattr("sys.argv", ["modelforge", "plan", str(path), "--vram", "12"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "unplanned does not say its longest batch" in said and "docs/architecture.md" in said


@pytest.mark.slow
def test_it_trains_without_a_plan_where_a_card_would_be_planned_for(register, tmp_path, capsys):
    register(own_trainer())
    said = {"max_steps": 2, "max_seq_length": 64, "output_dir": str(tmp_path)}
    result = modelforge.train(values_of("unplanned", memory_budget_gb=0.05, **said))
    assert result.after != result.before
    stored = json.loads((result.run_dir / "plan.json").read_text())
    assert list(stored) == ["unplanned"] and "the hook longest_batch" in stored["unplanned"]
    printed = capsys.readouterr()
    warning = " ".join((printed.out + printed.err).split())
    assert "warning: " in warning and "the hook longest_batch" in warning
    assert "it trains as configured, whether or not that fits in 0.05 GiB" in warning


@pytest.mark.slow
def test_the_example_on_a_trainer_of_its_own_is_short_planned_and_trained(register, tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) < 60
    runpy.run_path(str(EXAMPLE))
    said = {"max_steps": 8, "max_seq_length": 64, "learning_rate": 1e-3}
    result = modelforge.train(
        values_of("orpo", memory_budget_gb=0.03, output_dir=str(tmp_path), **said)
    )
    assert result.after["eval_loss"] < result.before["eval_loss"]
    choices = json.loads((result.run_dir / "choices.json").read_text())["choices"]
    assert choices["per_device_train_batch_size"]["source"] == "plan"  # 8 rows do not fit
    predicted = json.loads((result.run_dir / "plan.json").read_text())["predicted"]
    assert predicted["fits"] and predicted["parts"]["LoRA"] > 0
    with pytest.raises(modelforge.RunError, match="does not fit in"):
        modelforge.train(
            values_of("orpo", memory_budget_gb=0.001, output_dir=str(tmp_path), **said)
        )
