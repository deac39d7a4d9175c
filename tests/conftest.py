"""What every test stands on: no hub, no tracker, one thread, no memory of earlier runs."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MODELFORGE_CACHE", tempfile.mkdtemp(prefix="modelforge-tests-"))

import pytest

# Files whose slow tests share a run that is made once for the file.
SHARING = {
    *("test_data_load", "test_data_rows", "test_data_tokens", "test_plan", "test_ppo_adapters"),
    *("test_report", "test_rewards", "test_rlhf", "test_train"),
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Keep a file's tests on one worker, but for slow ones that share nothing made for the file.

    Those are handed out one by one, after the groups, so that all workers end together.
    """
    for item in items:
        shares = item.path.stem in SHARING
        if shares or not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
