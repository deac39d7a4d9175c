"""The reward models of a run in stages: one or several, and what they come to together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say, warn
from modelforge.common.files import digest, file_digest
from modelforge.errors import Problem, RunError
from modelforge.measuring.intervals import wilson
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.training.average import mean_of

if TYPE_CHECKING:
    from modelforge.runs.result import Result

WEAK_ACCURACY = 0.6


def numbered(name: str, count: int) -> list[str]:
    """The names of so many stages of one kind: ``reward``, ``reward_2``, ``reward_3``."""
    return [name, *(f"{name}_{number}" for number in range(2, count + 1))]


def kind_of(name: str) -> tuple[str, int]:
    """The strategy of a stage by its name, and its number from 1 on."""
    kind, _, number = name.partition("_")
    return kind, int(number or 1)


def together(runs: Sequence[Path], root: Path, *, average: bool) -> list[Any]:
    """What ``reward_model`` says of the reward models that stages have trained.

    Args:
        runs: Their folders.
        root: That of the whole, where an average is written.
        average: Whether they are averaged into one (WARM: Rame et al. 2024, arXiv:2401.12187).

    Raises:
        RunError: If one of them has no adapter.
    """
    if average:
        return [str(_averaged(runs, root).resolve())]
    if len(runs) == 1:
        return [str(runs[0].resolve())]
    return [{"name": str(run.resolve()), "weight": 1 / len(runs)} for run in runs]


def _averaged(runs: Sequence[Path], root: Path) -> Path:
    """The folder of the average: a run's of its own but for what a run of training leaves."""
    models = [run / files.MODEL for run in runs]
    made_of = [file_digest(model / "adapter_model.safetensors") for model in models]
    folder = root / f"reward-average-{digest(made_of)[:8]}"
    if not folder.is_dir():
        from safetensors.torch import save_file

        mean, shape = mean_of(models)
        half = folder.with_name(f".{folder.name}")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for name in (files.CONFIG, files.CHOICES, files.PROMPTS):
            shutil.copy(runs[0] / name, half / name)
        shutil.copytree(models[0], half / files.MODEL)
        save_file(mean, half / files.MODEL / "adapter_model.safetensors", {"format": "pt"})
        text = json.dumps(shape, indent=2)
        (half / files.MODEL / "adapter_config.json").write_text(text, encoding="utf-8")
        half.rename(folder)
        say(f"{folder}: the average of {len(runs)} reward models")
    return folder


def look_at(result: Result, least: float | None, where: str) -> None:
    """Say how often the reward model is right on held-out pairs; refuse one that misleads.

    Raises:
        RunError: Its accuracy is below ``least``, or the 95 % interval of it below one half.
    """
    accuracy = result.after.get("eval_accuracy")
    if accuracy is None:
        say("the reward model was not checked: no pairs are held out (eval_dataset, eval_split)")
        return
    pairs = RunDir(result.run_dir).read_json(files.DATA)["eval_rows"]
    low, high = wilson(accuracy, max(pairs, 1))
    what = f"is right on {accuracy:.1%} of {pairs} held-out pairs"
    more = "train it on more pairs, longer, or with a higher reward_stage.learning_rate"
    if least is not None and accuracy < least:
        raise RunError(
            Problem(f"{where}: reward model", f"{what}; {least:.1%} was asked for", more)
        )
    if high < 0.5:
        fix = "see whether chosen and rejected are exchanged in the data"
        raise RunError(Problem(f"{where}: reward model", f"{what}: worse than chance", fix))
    say(f"the reward model {what} (95 % interval {low:.1%} to {high:.1%})")
    if low <= 0.5:
        warn(f"this accuracy may be chance, so PPO would optimise noise → {more}")
    elif accuracy < WEAK_ACCURACY:
        more = f"{more}, or raise ppo.kl_coef"
        warn(f"this accuracy is low, so the policy can exploit the reward easily → {more}")
