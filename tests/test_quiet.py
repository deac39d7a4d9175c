"""The tool is quick and quiet: what it says, how much of it, and what a program gets."""

import logging
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import few, held_out, quick, shallow

import modelforge

TINY = Path(__file__).parents[1] / "configs" / "tiny"
NAMES = "modelforge.config", "pydantic", "yaml", "rich.markdown", "jsonschema"


def test_help_lists_every_command_and_imports_no_config():
    """Typing `modelforge --help` should feel like `ls`: benchmarks/startup.py measures it."""
    program = (
        "import sys; sys.argv = ['modelforge', '--help']\n"
        "from modelforge.cli.main import main\n"
        "try: main()\n"
        f"finally: print([n for n in {NAMES} if n in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]" and done.returncode == 0
    assert "train       Train by a config" in done.stdout and "…" not in done.stdout


def test_version_and_completion(command, monkeypatch):
    from importlib.metadata import version

    assert command("--version")[1] == f"modelforge {version('modelforge-trl')}\n"
    monkeypatch.setenv("_MODELFORGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "modelforge che")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert command()[1].strip() == "check"


def test_a_command_says_as_much_as_it_is_asked_to(command):
    usual = command("check", TINY / "rlhf.json")[2]
    quiet = command("check", TINY / "rlhf.json", "--quiet")
    full = command("check", TINY / "rlhf.json", "-v")[2]
    assert quiet[:2] == (0, "") and all("warning" in line for line in quiet[2].splitlines())
    assert "logging_first_step" in full and "logging_first_step" not in usual
    assert "more values were chosen; --verbose shows them" in usual
    # Three configs are checked: the whole and its two stages. What they share is told once.
    assert usual.count("gradient_accumulation_steps") == 1
    # Of a section, what was chosen; all of it among the details.
    assert "missing_eos_penalty" in usual and "gae_lambda" not in usual and "gae_lambda" in full
    assert logging.getLogger("modelforge").level == logging.INFO
    assert command("strategies", "-q", "-v")[0] == 2


def test_what_is_other_than_said_is_always_told(command):
    usual = command("check", TINY / "sft.json", "--set", "bf16=true")[2]
    assert "bf16" in usual and "fp16" not in usual


def test_no_color_is_heeded(monkeypatch):
    import io

    from rich.console import Console

    from modelforge.common.console import console

    assert type(console) is Console  # which reads NO_COLOR itself
    monkeypatch.setenv("NO_COLOR", "1")
    plain = Console(file=io.StringIO(), force_terminal=True)
    plain.print("[red]x[/red]")
    assert "\x1b[31m" not in plain.file.getvalue()


@pytest.mark.slow
def test_a_silenced_run_prints_nothing_and_its_result_gives_model_tokenizer_and_history(
    tmp_path, capfd
):
    shallow()  # making this model for the tests may print
    capfd.readouterr()
    logger = logging.getLogger("modelforge")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        result = quick("sft", tmp_path, "max_steps=1", "logging_steps=1")
        assert [row["step"] for row in result.history if "loss" in row] == [1]
        ids = result.tokenizer("2 + 3", return_tensors="pt").input_ids
        with torch.inference_mode():
            assert result.model(input_ids=ids).logits.shape[:2] == ids.shape
        assert result.model is result.model and not result.model.training
        # The same command again gives the same, and trains nothing.
        again = quick("sft", tmp_path, "max_steps=1", "logging_steps=1")
    finally:
        logger.setLevel(before)
    assert again == result and again.history == result.history
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_run_in_stages_and_an_evaluation_can_be_silenced_too(tmp_path, capfd):
    """Also what libraries warn of while the stages are only checked."""
    model = shallow()
    house, theirs = logging.getLogger("modelforge"), logging.getLogger("transformers")
    before = house.level, theirs.level
    capfd.readouterr()
    house.setLevel(logging.ERROR)
    theirs.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True) as leaked:
            warnings.simplefilter("always")
            modelforge.train(
                {
                    "strategy": "rlhf",
                    "model_name": str(model),
                    "dataset": str(few("preference_train", 16)),
                    "eval_dataset": str(held_out("preference", 4)),
                    "max_steps": 1,
                    "per_device_train_batch_size": 2,
                    "max_seq_length": 64,
                    "min_reward_accuracy": 0,
                    "reward_stage": {"max_steps": 1},
                    "generation": {"max_new_tokens": 4},
                    "report_to": "none",
                    "output_dir": str(tmp_path / "runs"),
                }
            )
            found = modelforge.evaluate(model, held_out("sft", 4), output_dir=tmp_path / "scores")
    finally:
        house.setLevel(before[0])
        theirs.setLevel(before[1])
    assert found.rows and not [str(warning.message) for warning in leaked]
    assert capfd.readouterr() == ("", "")
