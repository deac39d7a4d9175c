"""What every test stands on: no hub, no tracker, one thread, no memory of earlier runs."""

import os
import tempfile

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MODELFORGE_CACHE", tempfile.mkdtemp(prefix="modelforge-tests-"))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command in this process: exit code, stdout, stderr."""

    from modelforge.cli import main as cli

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["modelforge", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stopped:
            code = stopped.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
