"""TensorBoard, wandb and the others: a tracker must never keep a run from starting or ending."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say, warn
from modelforge.config import Config
from modelforge.errors import Problem, RunError
from modelforge.runs import files
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from transformers import TrainerCallback

# The package whose module transformers imports for a tracker, where it has another name.
_PACKAGES = {"azure_ml": ("azureml", "azureml-core"), "flyte": ("flytekit", "flytekit")}


def check_trackers(config: Config) -> None:
    """See that the trackers are installed.

    Raises:
        RunError: If one is not installed.
    """
    packages = [_PACKAGES.get(name, (name, name)) for name in _named(config)]
    problems = [
        Problem(f"{config.name}: report_to", f"{name} is not installed", f"pip install {package}")
        for name, (module, package) in zip(_named(config), packages, strict=True)
        if name != "none" and not find_spec(module)
    ]
    if problems:
        raise RunError(*problems)


def prepare_trackers(config: Config) -> None:
    """Keep wandb offline where it would ask for an account."""
    if "wandb" in _named(config) and "WANDB_MODE" not in os.environ and not _knows_wandb():
        say("wandb: no account is set up here, so the run stays offline (`wandb sync` later)")
        os.environ["WANDB_MODE"] = "offline"


def _named(config: Config) -> list[str]:
    named = config.settings.report_to
    return [named] if isinstance(named, str) else list(named)


def _knows_wandb() -> bool:
    """Whether wandb has a key. Looked up without importing it: it reads its mode only once."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return any("wandb" in host for host in netrc.netrc().hosts)
    except (OSError, netrc.NetrcParseError):
        return False


def add_trackers(trainer: Any, names: Sequence[str], run: RunDir) -> None:
    """Give a built trainer its trackers, each held back from ending the run.

    What a tracker raises, from its making to its last call, is said once; that tracker is then off
    for the rest of the run, and the others and the training continue.

    Args:
        trainer: Made with ``report_to`` empty; its arguments get the trackers that work.
        names: transformers' names of them.
        run: Where TensorBoard's files go.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    trainer.args.report_to = list(names)
    for name in names:
        off = partial(_switch_off, trainer, name)
        try:
            with _tensorboard_in(run):
                tracker = INTEGRATION_TO_CALLBACK[name]()
        except Exception as error:
            off(error)
            continue
        _guard(tracker, off)
        trainer.add_callback(tracker)
        tracker.on_init_end(trainer.args, trainer.state, trainer.control)


def _guard(tracker: TrainerCallback, off: Callable[[Exception], None]) -> None:
    """Catch what the tracker raises at any event, once; it hears of no event after that."""
    events = [name for name in dir(tracker) if name.startswith("on_")]

    def guarded(event: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return event(*args, **kwargs)
        except Exception as error:
            for name in events:
                setattr(tracker, name, lambda *args, **kwargs: None)
            off(error)
            return None

    for name in events:
        setattr(tracker, name, partial(guarded, getattr(tracker, name)))


def _switch_off(trainer: Any, name: str, error: Exception) -> None:
    # TRL's trainers also write tables to those that are named here.
    trainer.args.report_to = [other for other in trainer.args.report_to if other != name]
    what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    warn(f"{name} failed and is off for this run, which continues ({what})")


@contextmanager
def _tensorboard_in(run: RunDir) -> Iterator[None]:
    """Curves beside the checkpoints, not among them; the user's own choice wins."""
    if "TENSORBOARD_LOGGING_DIR" in os.environ:
        yield
        return
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.path / files.TENSORBOARD)
    try:
        yield
    finally:
        del os.environ["TENSORBOARD_LOGGING_DIR"]
