"""`plan`, `data`, `check` and `train` go one way: they fill a config with the same values."""

import contextlib
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import few, held_out
from typer.testing import CliRunner

import modelforge
from modelforge import UserError, load_config
from modelforge.cli import main as cli
from modelforge.training.prepare import prepare
from modelforge.training.read import read
from modelforge.training.resolve import resolve

pytestmark = pytest.mark.usefixtures("simulated_once")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples" / "tiny"
DATA = {"sft": "sft", "qlora": "sft", "reward": "preference", "dpo": "preference",
        "grpo": "prompts", "rloo": "prompts", "ppo": "prompts", "rlhf": "preference"}  # fmt: skip
GROUPS = ("grpo", "rloo")
LENGTHS = st.sampled_from([48, 64, 100, 256, 100_000])  # the last is beyond the model's context


@st.composite
def configs(draw):
    """A valid config of any strategy with some keys said; a memory budget now and then."""
    strategy = draw(st.sampled_from(list(DATA)))
    said = {
        "learning_rate": st.sampled_from([1e-5, 3e-4]),
        "lora_r": st.sampled_from([4, 16]),
        "lora_alpha": st.sampled_from([8, 64]),
        "max_seq_length": LENGTHS,
        "per_device_train_batch_size": st.sampled_from([4, 8]),
        "gradient_accumulation_steps": st.sampled_from([1, 2]),
        "hardware_profile": st.sampled_from(["auto", "low", "high"]),
        "gradient_checkpointing": st.booleans(),
        "warmup_ratio": st.sampled_from([0.0, 0.2]),
        "seed": st.integers(0, 3),
        "provider": st.sampled_from(["auto", "huggingface"]),
        "eval_split": st.sampled_from([0, 8, 0.1]),
        "save_steps": st.sampled_from([5, 0.5]),
        "optim": st.sampled_from(["adamw_torch", "paged_adamw_8bit"]),
    }
    keys = draw(st.lists(st.sampled_from(sorted(said)), unique=True, max_size=5))
    values = {key: draw(said[key]) for key in keys}
    if strategy in GROUPS:
        values |= {"num_generations": 4, "per_device_train_batch_size": 8}
    if DATA[strategy] == "prompts" and draw(st.booleans()):
        values["generation"] = {"max_new_tokens": 16}
    if strategy == "ppo":
        values["rewards"] = ["numeric_answer"]
    if strategy == "sft" and draw(st.booleans()):
        values["packing"] = True
    if strategy != "rlhf" and draw(st.integers(0, 3)) == 0:
        values["memory_budget_gb"] = draw(st.sampled_from([1.0, 6.0]))
    return values | {
        "strategy": strategy,
        "model_name": str(TINY / "model"),
        "dataset": str(few(f"{DATA[strategy]}_eval", 80)),
    }


def command(*words, code=0):
    """What a command printed as JSON."""
    done = CliRunner().invoke(cli.app, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == code
    return json.loads(done.stdout)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(values=configs())
def test_every_command_fills_in_the_same_values(values):
    with tempfile.TemporaryDirectory() as name:
        config = Path(name, "c.json")
        config.write_text(json.dumps(values | {"output_dir": name}))
        try:
            trained = prepare(load_config(config))  # as train does before it loads the weights
        except UserError as refused:
            problems = [vars(problem) for problem in refused.problems]
            for other in ("check", "plan"):
                assert command(other, config, code=2)["problems"] == problems
            return
        wanted = {key: vars(choice) for key, choice in trained.config.choices.items()}
        checked = command("check", config)
        assert checked["choices"]["choices"] == json.loads(json.dumps(wanted))
        assert checked["data"] == json.loads(json.dumps(trained.data.ledger.to_dict()))
        assert command("plan", config)["choices"] == checked["choices"]["choices"]
        resolved = resolve(load_config(config))
        shown = {key: vars(choice) for key, choice in resolved.config.choices.items()}
        later = {key for key in wanted if wanted[key] != shown.get(key)}
        # What follows from the rows and the card comes after the data is shown.
        assert {wanted[key]["source"] for key in later} <= {"data", "plan", "default"}
        if "max_seq_length" not in later:
            assert read(resolved).data.ledger == trained.data.ledger


def preset(strategy):
    """The tiny preset on few rows."""
    values = json.loads((ROOT / "configs" / "tiny" / f"{strategy}.json").read_text())
    data = {
        "model_name": TINY / "model",
        "dataset": few(f"{DATA[strategy]}_train", 200),
        "eval_dataset": held_out(DATA[strategy]),
    }
    return values | {key: str(path) for key, path in data.items()}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["sft", "dpo", "grpo"])
def test_a_run_records_what_check_said(strategy, tmp_path):
    values = preset(strategy)
    values |= {"max_steps": 1, "output_dir": str(tmp_path / "runs"), "report_to": "none"}
    config = tmp_path / "c.json"
    config.write_text(json.dumps(values))
    checked = command("check", config)
    with contextlib.redirect_stderr(io.StringIO()):
        run = modelforge.train(config).run_dir
    assert json.loads((run / "choices.json").read_text()) == checked["choices"]
    recorded = json.loads((run / "data.json").read_text())
    assert {key: recorded[key] for key in checked["data"]} == checked["data"]


@pytest.mark.slow
def test_a_resumed_run_looks_at_its_checkpoints_once(tmp_path, capsys):
    values = preset("sft")
    values |= {"max_steps": 4, "save_steps": 2, "output_dir": str(tmp_path), "report_to": "none"}
    run = modelforge.train(values).run_dir
    (run / "results.json").unlink()  # as if it had been killed after its last checkpoint
    (run / "checkpoints" / "checkpoint-4" / "optimizer.pt").write_bytes(b"damaged")
    capsys.readouterr()
    assert modelforge.train(values).resumed_from.name == "checkpoint-2"
    assert capsys.readouterr().err.count("checkpoint-4 is passed over") == 1
