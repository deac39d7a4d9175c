"""The average of several adapters on one base, as the last checkpoint of a run of its own.

Averaging what runs of one start have learned often does better than the best of them (Wortsman et
al. 2022, "Model soups"). The mean of products B·A is one product again, with all ranks side by
side.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.checkpointing.checkpoints import PARTIAL, seal
from modelforge.config import OUT_OF_BASE
from modelforge.errors import ConfigError, Problem, RunError
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from modelforge.training.prepare import Prepared

#: The run's folder, among those of the trials.
AVERAGE = "average"
_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields of LoRA by which an adapter holds more than a product of two matrices beside each layer,
# or not one of the same rank and scale in each.
_MORE = (
    *("use_dora", "lora_bias", "target_parameters"),
    *("rank_pattern", "alpha_pattern"),
)


def refuse_no_average(*trials: Prepared) -> None:
    """See that the mean of such adapters is one again, before any of them is trained.

    Raises:
        ConfigError: If it is not, or all weights are trained.
    """
    for trial in trials:
        config, more = trial.config, _more(trial)
        if more:
            what = f"the trials of {', '.join(more)} are not averaged: they are more than products "
            what += "of one rank beside the base"
            raise ConfigError(Problem(f"{config.name}: keep", what, "set it to best"))


def _more(trial: Prepared) -> list[str]:
    """What a trial trains beyond products of one rank."""
    settings, begin = trial.config.settings, trial.source.adapter
    fields: Mapping[str, Any] = settings.lora
    if begin is not None:
        fields = json.loads((begin / _CONFIG).read_text(encoding="utf-8"))
    more = [name for name in _MORE if fields.get(name)]
    if fields.get("peft_type", "LORA") != "LORA":
        more.append(f"peft_type {fields['peft_type']}")
    if fields.get("init_lora_weights") in OUT_OF_BASE:
        more.append(f"init_lora_weights {fields['init_lora_weights']}")
    if settings.lora_r == 0:
        more.append("lora_r 0")
    return more


def write_average(run: RunDir, trials: Sequence[RunDir], best: RunDir) -> None:
    """Write the checkpoint from which a run of the average has nothing left to train.

    Args:
        run: Of the average.
        trials: Finished ones, on one base.
        best: That of them whose counters are taken over.

    Raises:
        RunError: If a trial has no adapter.
    """
    from safetensors.torch import save_file

    last = {trial.path: trial.last_checkpoint() for trial in trials}
    for path, checkpoint in last.items():
        if checkpoint is None or not (checkpoint / _WEIGHTS).is_file():
            raise RunError(Problem(str(path), "has no adapter to average", "set keep to best"))
    folders = [checkpoint for checkpoint in last.values() if checkpoint is not None]
    mean, settings = mean_of(folders)
    begin = last[best.path]
    assert begin is not None, "it is one of them"
    aside = run.checkpoints / PARTIAL / begin.name
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(begin, aside)
    save_file(mean, aside / _WEIGHTS, metadata={"format": "pt"})
    (aside / _CONFIG).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    seal(aside, run.checkpoints / begin.name)


def mean_of(folders: Sequence[Path]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The weights and the config of the mean of adapters on one base.

    Raises:
        RunError: If a folder holds no adapter.
    """
    from safetensors.torch import load_file

    for folder in folders:
        if not (folder / _WEIGHTS).is_file():
            raise RunError(Problem(str(folder), "has no adapter to average", "train with LoRA"))
    settings = [json.loads((folder / _CONFIG).read_text(encoding="utf-8")) for folder in folders]
    weights = [load_file(folder / _WEIGHTS) for folder in folders]
    scales = [_scale(each) / len(folders) for each in settings]
    mean = {name: _mean(name, [each[name] for each in weights], scales) for name in weights[0]}
    rank = sum(each["r"] for each in settings)
    return mean, settings[0] | {"r": rank, "lora_alpha": rank, "use_rslora": False}


def _scale(settings: dict[str, Any]) -> float:
    rank = settings["r"]
    return settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)


def _mean(name: str, each: Sequence[Any], scales: Sequence[float]) -> Any:
    """One matrix of all ranks, or the mean of what is trained whole."""
    import torch

    if ".lora_A." in name or name.endswith(".lora_embedding_A"):
        return torch.cat(list(each)).contiguous()
    if ".lora_B." in name or name.endswith(".lora_embedding_B"):
        return torch.cat([b * s for b, s in zip(each, scales, strict=True)], dim=1).contiguous()
    return torch.stack(list(each)).mean(0)
