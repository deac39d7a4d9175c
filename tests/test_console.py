"""What is said goes through `logging`: it looks plain, and a program can silence it."""

import json
import logging
import sys
from pathlib import Path

import pytest
from rich.text import Text

from modelforge.cli import main as cli
from modelforge.common.console import headline, say, show_line, show_table, warn
from modelforge.common.libraries import libraries_heard

TINY = Path(__file__).parents[1] / "configs" / "tiny"
SECRET = "hf_" + "a" * 30


@pytest.fixture
def logger():
    """The logger that a program sets; as it was, afterwards."""
    logger = logging.getLogger("modelforge")
    level, handlers = logger.level, list(logger.handlers)
    yield logger
    logger.setLevel(level)
    logger.handlers[:] = handlers


def say_all():
    headline("Part [1]")
    say(f"a note of {'long ' * 40}[bold]markup[/bold] :smile: GET {SECRET}")
    warn("the loss is high")
    warn(f"{SECRET} is no key", step=3)
    show_line(Text("in colours"))
    show_table(("key", "value"), [("a[b]", SECRET)])


def test_lines_are_plain_and_keep_what_looks_like_markup(capsys):
    say_all()
    out, err = capsys.readouterr()
    assert out == "" and SECRET not in err
    lines = [line.rstrip() for line in err.splitlines()]
    assert lines[:2] == ["", "Part [1]"]
    assert lines[2] == f"a note of {'long ' * 40}[bold]markup[/bold] :smile: GET <secret>"
    assert lines[3:5] == ["warning: the loss is high", "warning, step 3: <secret> is no key"]
    assert lines[5] == "in colours"
    assert [line.split() for line in lines[6:]] == [["key", "value"], ["a[b]", "<secret>"]]


def test_a_program_silences_notes_and_keeps_warnings(logger, capsys):
    logger.setLevel(logging.WARNING)
    say_all()
    assert capsys.readouterr().err.splitlines() == [
        "warning: the loss is high",
        "warning, step 3: <secret> is no key",
    ]


def test_a_removed_handler_silences_all(logger, capsys):
    logger.handlers.clear()
    say_all()
    assert capsys.readouterr() == ("", "")


def test_a_programs_own_handler_hears_the_same_without_colours_or_secrets(logger, capsys, tmp_path):
    logger.handlers[:] = [logging.FileHandler(tmp_path / "log")]
    say_all()
    logger.handlers[0].close()
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0] == "Part [1]" and lines[-2:] == ["key  value", "a[b]  <secret>"]
    assert "warning: the loss is high" in lines and SECRET not in "".join(lines)


def test_of_several_processes_only_the_main_one_speaks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    say_all()
    assert capsys.readouterr() == ("", "")


def test_json_is_alone_on_stdout(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["modelforge", "check", str(TINY / "sft.json"), "--json"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    out, err = capsys.readouterr()
    assert json.loads(out)["config"] == "ok" and "chosen for you" in err


@pytest.mark.parametrize(
    ("more", "level"),
    [("lm_head.weight | UNEXPECTED |\n", logging.INFO), ("h.0 | MISSING |\n", logging.WARNING)],
)
def test_a_score_head_that_has_to_be_new_is_no_table_of_warnings(logger, more, level):
    """Each reward model of a language model begins so; any other weight that lacks is shown."""
    heard = []
    logger.handlers[:] = [logging.Handler()]
    logger.handlers[0].emit = heard.append
    report = "\x1b[1mLOAD REPORT\x1b[0m\nKey | Status |\n---+---\nscore.weight | MISSING |\n"
    with libraries_heard():
        logging.getLogger("transformers").warning(report + more)
    (found,) = heard
    assert found.levelno == level and "\x1b" not in found.getMessage()
    assert ("starts at random" in found.getMessage()) is (level == logging.INFO)
