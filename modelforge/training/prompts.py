"""What each run was asked in training and in evaluation: runs that build on it hold out the same.

A prompt that a policy is measured on and its reward model was trained on measures too well. So the
stages of a run hold out the same prompts, a run of its own can by ``held_out_as``, and one whose
reward model was trained on its held-out prompts says so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modelforge.common.console import warn
from modelforge.common.paths import find_path
from modelforge.errors import ConfigError, Problem
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.data import Data
    from modelforge.strategy import Strategy

Side = Literal["trained", "held_out"]


def record(trained: Iterable[int], held_out: Iterable[int]) -> dict[str, str]:
    """What stands in a run's folder: fingerprints in hexadecimal, each once."""
    sides = {"trained": trained, "held_out": held_out}
    return {
        side: " ".join(f"{key:016x}" for key in sorted(set(keys))) for side, keys in sides.items()
    }


def recorded(path: Path, side: Side) -> frozenset[int] | None:
    """What a run was asked, by its folder, its model's or the file; None where nothing says so."""
    folder = path.parent if path.name == files.MODEL else path
    file = folder / files.PROMPTS if folder.is_dir() else folder
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return frozenset(int(key, 16) for key in told[side].split())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def held_out_as(config: Config) -> frozenset[int] | None:
    """What the run that the config names held out; None where it names none.

    Raises:
        ConfigError: If there is no such run, or it held out nothing.
    """
    name = config.settings.held_out_as
    if name is None:
        return None
    path = find_path(name, config.base_dir)
    found = None if path is None else recorded(path, "held_out")
    if not found:
        where = f"{config.name}: held_out_as"
        what = f"'{name}' is no run of ours" if found is None else f"'{name}' held out nothing"
        fix = f"name the folder of a run, which holds {files.PROMPTS}, or set eval_split instead"
        raise ConfigError(Problem(where, what, fix))
    return found


def warn_of_known(config: Config, strategy: Strategy, data: Data) -> None:
    """Say how many held-out prompts a reward model, or the judge, was trained on."""
    held_out = frozenset(data.eval_prompts)
    for key, name in _scored_by(config, strategy):
        path = find_path(name, config.base_dir) if name else None
        trained = None if path is None else recorded(path, "trained")
        if held_out and trained and (known := held_out & trained):
            assert path is not None
            fix = f'set "held_out_as": "{path}" in place of eval_split or eval_dataset'
            if key == "judge_model":
                fix = "train it on other prompts"
            warn(
                f"{key}: {name} was trained on {len(known)} of the {len(held_out)} held-out "
                f"prompts, on which it judges too well → {fix}"
            )


def _scored_by(config: Config, strategy: Strategy) -> Sequence[tuple[str, str]]:
    models: Collection[str] = getattr(strategy, "reward_models", lambda _: ())(config)
    judge = config.get("judge_model")
    return [("reward_model", name) for name in models] + ([("judge_model", judge)] if judge else [])
