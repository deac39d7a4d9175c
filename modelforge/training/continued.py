"""A run that resumes from a checkpoint: what the checkpoint decides, whatever the config says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.checkpointing.checkpoints import step_of
from modelforge.config import LORA_KEYS, Config
from modelforge.errors import ConfigError, Problem
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.strategy import Strategy

#: What transformers and PyTorch restore with the optimiser and the scheduler, over the arguments;
#: and the shape of the weights that it restores.
_KEPT = (
    *("learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "optim"),
    *(*LORA_KEYS, "use_4bit", "use_8bit"),
    *("add_tokens", "add_special_tokens", "resize_vocab"),
)


def refuse_what_it_keeps(config: Config, checkpoint: Path, strategy: Strategy) -> None:
    """See that the config says of its checkpoint's optimiser and adapter what they are.

    Args:
        config: With every value filled in.
        checkpoint: Of this run, or of another one whose config.json lies beside it.
        strategy: Whose defaults hold for what that config.json leaves out.

    Raises:
        ConfigError: With every key that the checkpoint would leave without effect, and if the run
            is shorter than the checkpoint.
    """
    problems = []
    most, step = config.get("max_steps") or -1, step_of(checkpoint)
    if 0 < most < step:
        what = f"is {most}, and {checkpoint} is of step {step}"
        problems.append(Problem(f"{config.name}: max_steps", what, f"set it to {step} or more"))
    recorded = _config_of(checkpoint)
    before = _defaults(strategy) | recorded if recorded is not None else {}
    for key in _KEPT:
        now, then = config.get(key), before.get(key)
        if config.given(key) and key in before and _plain(now) != _plain(then):
            what = f"is {now!r}, and {checkpoint} was written with {then!r}"
            fix = (
                f"set it to {then!r}; or start a new run from that model, with model_name "
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


def _defaults(strategy: Strategy) -> dict[str, Any]:
    """TRL's own values for what no config says."""
    fields = dataclasses.fields(strategy.trl_config_class())
    return {f.name: getattr(f.default, "value", f.default) for f in fields if f.name in _KEPT}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))
