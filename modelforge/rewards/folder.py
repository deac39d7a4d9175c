"""Say what a reward model's folder holds, from its files alone; no ML library is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from modelforge.runs import files
from modelforge.runs.folder import of_a_run

#: The names that transformers' sequence-classification models give their head.
HEAD_NAMES = ("score", "classifier", "classification_head")


def reward_folder(folder: Path) -> Path:
    """The folder itself, or ``model`` below it where a run's folder was given."""
    folder = of_a_run(folder)
    inner = folder / files.MODEL
    # A run's folder has a config.json of its own, which is not a model's.
    is_run = (folder / files.CHOICES).is_file() or not is_model(folder)
    return inner if is_run and is_model(inner) else folder


def is_model(folder: Path) -> bool:
    return is_adapter(folder) or (folder / "config.json").is_file()


def is_adapter(folder: Path) -> bool:
    return (folder / "adapter_config.json").is_file()


def trained_as(folder: Path) -> tuple[str | None, bool | None]:
    """The revision of its base that a reward model was trained on, and whether that was in 4-bit.

    None for what its folder does not tell: other tools than ModelForge's write no run beside it.
    """
    model = reward_folder(folder)
    recorded = model.parent / files.CONFIG
    if (model.parent / files.CHOICES).is_file() and recorded.is_file():
        said = json.loads(recorded.read_text(encoding="utf-8"))
        return said.get("model_revision"), bool(said.get("use_4bit"))
    if not is_adapter(model):
        return None, None
    config = json.loads((model / "adapter_config.json").read_text(encoding="utf-8"))
    return config.get("revision"), None


def folder_problem(folder: Path) -> str:
    """Why this folder is no reward model, in one sentence; empty where it is one."""
    folder = reward_folder(folder)
    if not is_model(folder):
        return f"{folder} holds no model: neither config.json nor adapter_config.json"
    if is_adapter(folder):
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if config.get("task_type") != "SEQ_CLS":
            return f"{folder} is an adapter of {config.get('task_type')}, not of a reward model"
        if not head_keys(folder / "adapter_model.safetensors"):
            return (
                f"{folder} holds an adapter without its score head: it would score with random "
                "weights (it must be trained with modules_to_save=['score'])"
            )
        return ""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    if not any("SequenceClassification" in name for name in architectures):
        return f"{folder} is {', '.join(architectures) or 'a model'}, not a reward model"
    labels = len(config.get("id2label") or ()) or config.get("num_labels", 2)  # transformers' own
    return f"{folder} gives {labels} labels, and a reward model gives one score" * (labels != 1)


def head_keys(path: Path) -> list[str]:
    """The keys of a safetensors file that belong to a score head; empty where it has none."""
    if not path.is_file():
        return []
    from safetensors import safe_open

    with safe_open(str(path), framework="numpy") as file:
        keys = file.keys()
    return [key for key in keys if set(HEAD_NAMES) & set(key.split("."))]
