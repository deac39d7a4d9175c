"""What every test stands on: no hub, no tracker, one thread, no memory of earlier runs."""

import dataclasses
import gc
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# One thread for a worker, unless the user says another number: a model this small is slower on
# several, and much slower where they are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# With more, those that wait sleep: beside another worker they took three times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MODELFORGE_CACHE", tempfile.mkdtemp(prefix="modelforge-tests-"))


# No test by the clock, for a machine may have other work, and none by chance: what fails here fails
# everywhere. `--hypothesis-profile default` draws anew.
settings.register_profile("the same", deadline=None, derandomize=True)
settings.load_profile("the same")

frozen = 0  # modules that no collection of garbage looks through

#: Begun first, so that two workers end together.
SLOW = ["test_rlhf", "test_serve", "test_plan", "test_cli", "test_real_data", "test_plan_step",
        "test_train", "test_distributed", "test_recovery", "test_recipe", "test_tools",
        "test_tune", "test_lora", "test_attention", "test_one_path", "test_longer",
        "test_unsloth", "test_export", "test_longest_batch", "test_vllm"]  # fmt: skip


def pytest_collection_modifyitems(items):
    rank = {name: place for place, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))


def pytest_runtest_teardown(item, nextitem):
    """What was imported by now stays: no collection of garbage need look through it again."""
    global frozen
    ends = nextitem is None or nextitem.path != item.path
    if len(sys.modules) > frozen + (100 if ends else 1000):
        frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def python():
    """A command that stands for ``python`` and has torch and TRL imported already (Linux)."""
    if not hasattr(os, "pidfd_open"):
        yield sys.executable
        return
    import warm

    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    server, stand_in = warm.start(folder)
    yield str(stand_in)
    server.stdin.close()
    server.wait()
    server.stdout.close()
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def simulated_once():
    """A step of the same values is not simulated again: `fit` and `plan` ask for many of them."""
    from modelforge import registry
    from modelforge.plan import memory

    made, simulated = {}, memory.simulate
    no_matter = {"model_name", "dataset", "eval_dataset", "output_dir", "run_name"}

    def simulate(config, found, hardware, *, timed=True):
        values = {k: v for k, v in config.resolved().items() if k not in no_matter}
        strategy = registry.get_strategy(config.settings.strategy)
        said = sorted(config.said.keys() - no_matter)
        card = dataclasses.replace(hardware, vram_gb=0.0, device_name="")
        shape = found.architecture.to_dict()
        key = (strategy, json.dumps([values, said, shape], default=str), card, found.adapter)
        key += (config.base_dir, timed)
        if key not in made:
            made[key] = simulated(config, found, hardware, timed=timed)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "simulate", simulate)
        yield


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
