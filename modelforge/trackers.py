"""TensorBoard, wandb and the others: a tracker must never keep a run from starting or ending."""

from __future__ import annotations

import netrc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from modelforge.config import Config
from modelforge.console import say
from modelforge.errors import Problem, RunError
from modelforge.rundir import RunDir

# What transformers imports for a tracker; the others fail with their own clear message.
_TRACKER_MODULES = {
    "comet_ml": "comet_ml",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}


def check_trackers(config: Config) -> None:
    """See that the trackers are installed, and that wandb does not ask for an account.

    Raises:
        RunError: If one is not installed.
    """
    named = config.settings.report_to
    trackers = [named] if isinstance(named, str) else named
    missing = [t for t in trackers if t in _TRACKER_MODULES and not find_spec(_TRACKER_MODULES[t])]
    if missing:
        raise RunError(
            *(
                Problem(f"{config.name}: report_to", f"{t} is not installed", f"pip install {t}")
                for t in missing
            )
        )
    if "wandb" in trackers and "WANDB_MODE" not in os.environ and not _knows_wandb():
        say("wandb: no account is set up here, so the run is kept offline (`wandb sync` later)")
        os.environ["WANDB_MODE"] = "offline"


def _knows_wandb() -> bool:
    """Whether wandb has a key. Looked up without importing it: it reads its mode only once."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


@contextmanager
def tensorboard_in(run: RunDir) -> Iterator[None]:
    """Curves beside the checkpoints, not among them; the user's own choice wins."""
    if "TENSORBOARD_LOGGING_DIR" in os.environ:
        yield
        return
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / "tensorboard")
    try:
        yield
    finally:
        del os.environ["TENSORBOARD_LOGGING_DIR"]
