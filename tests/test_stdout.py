"""What a command prints finds no place: a full disk, or a pipe that nobody reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TINY = Path(__file__).parents[1] / "configs" / "tiny" / "sft.json"
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "agent": ["docs", "--agent"],
    "strategies": ["strategies"],
    "schema": ["schema", "sft"],
    "check": ["check", str(TINY), "--config-only", "--json"],
    "problems": ["check", "no-such-file.json", "--json"],
}


def ended(words: list[str], stdout: int, unbuffered: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "modelforge", *words]
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_in_one_message(words: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(words, full.fileno(), unbuffered)
    assert done.returncode == 2
    assert "stdout: cannot be written to: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_the_command_quietly(words: list[str], unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = ended(words, writing, unbuffered)
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_what_is_printed_otherwise_stays_whole() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "modelforge", *COMMANDS["check"]], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)
