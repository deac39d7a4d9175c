"""A run that resumes from a checkpoint: what the checkpoint decides, whatever the config says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modelforge.checkpointing.checkpoints import step_of
from modelforge.config import LORA_KEYS, Config
from modelforge.errors import ConfigError, Problem
from modelforge.runs import files

#: What transformers and PyTorch restore with the optimiser and the scheduler, over the arguments;
#: and the shape of the weights that it restores.
_KEPT = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim"),
    *(*LORA_KEYS, "use_4bit", "use_8bit"),
)


def refuse_what_it_keeps(config: Config, checkpoint: Path) -> None:
    """See that the config says of its checkpoint's optimiser and adapter what they are.

    Args:
        config: With every value filled in.
        checkpoint: Of this run, or of another one whose config.json lies beside it.

    Raises:
        ConfigError: With every key that the checkpoint would leave without effect, and if the run
            is shorter than the checkpoint.
    """
    problems = []
    most, step = config.get("max_steps") or -1, step_of(checkpoint)
    if 0 < most < step:
        what = f"is {most}, and {checkpoint} is of step {step}"
        problems.append(Problem(f"{config.name}: max_steps", what, f"set it to {step} or more"))
    then = _config_of(checkpoint)
    for key in _KEPT:
        now = config.get(key)
        if then is not None and key in config.said and key in then and _plain(now) != then[key]:
            what = f"is {now!r}, and {checkpoint} goes on with {then[key]!r}"
            fix = (
                f"set it to {then[key]!r}; or begin anew from that model, with model_name "
                f"{checkpoint.parent.parent} and resume never"
            )
            problems.append(Problem(f"{config.name}: {key}", what, fix))
    if problems:
        raise ConfigError(*problems)


def _config_of(checkpoint: Path) -> dict[str, Any] | None:
    """The config of the run that wrote a checkpoint, where it is there."""
    path = checkpoint.parent.parent / files.CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
