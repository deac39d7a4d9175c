"""Where a model comes from: a folder, a run of ours, an adapter on a base, or a hub id."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from modelforge.errors import ModelError, Problem
from modelforge.providers.base import ModelSource


def find_model(name: str, *, base_dir: Path, revision: str | None, where: str) -> ModelSource:
    """What a ``model_name`` means. Looks at folders only, and loads nothing.

    Args:
        name: A model folder, an adapter folder, the folder of a finished run, or a hub id.
        base_dir: Relative paths are looked up here first, then in the working folder.
        revision: Hub revision of the base.
        where: How to call the key in messages.

    Raises:
        ModelError: If it is a path and no usable model lies there.
    """
    folder = local_folder(name, base_dir)
    if folder is None:
        if _looks_like_a_path(name):
            raise ModelError(Problem(where, f"there is no folder {name}", _nearest(name, base_dir)))
        return ModelSource(base=name, adapter=None, revision=revision, tokenizer=name)
    if (folder / "model").is_dir() and (folder / "choices.json").is_file():
        folder = folder / "model"
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, base_dir=base_dir, revision=revision, where=where)
    _check_model_folder(folder, where)
    return ModelSource(base=str(folder), adapter=None, revision=None, tokenizer=str(folder))


def local_folder(name: str, base_dir: Path) -> Path | None:
    """The folder of that name beside the config or in the working folder, if there is one."""
    for candidate in (base_dir / Path(name).expanduser(), Path(name).expanduser()):
        if candidate.is_dir():
            return candidate.resolve()
    return None


def _adapter(folder: Path, *, base_dir: Path, revision: str | None, where: str) -> ModelSource:
    try:
        adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        base = adapter["base_model_name_or_path"]
    except (ValueError, KeyError, OSError):
        raise ModelError(
            Problem(where, f"{folder}/adapter_config.json names no base model", "train it again")
        ) from None
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(Problem(where, f"{folder} holds no adapter_model.safetensors", ""))
    found = local_folder(base, base_dir)
    if found is None and _looks_like_a_path(base):
        raise ModelError(
            Problem(
                where,
                f"the adapter {folder} was trained on {base}, which is not here",
                "bring that folder back, or correct base_model_name_or_path in adapter_config.json",
            )
        )
    if found is not None:
        _check_model_folder(found, where, tokenizer=False)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return ModelSource(
        base=str(found or base),
        adapter=folder,
        revision=revision or adapter.get("revision"),
        tokenizer=str(folder if has_tokenizer else found or base),
    )


def _check_model_folder(folder: Path, where: str, *, tokenizer: bool = True) -> None:
    """Refuse a folder that cannot be loaded, with all that it lacks."""
    problems = []
    if not (folder / "config.json").is_file():
        problems.append(Problem(where, f"{folder} holds no config.json", "is it a model's folder?"))
    elif not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        problems.append(
            Problem(
                where,
                f"{folder} holds no .safetensors weights",
                "pickled weights can run code when loaded: convert them to safetensors"
                if pickles
                else "copy the weights there too",
            )
        )
    names = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
    if tokenizer and not problems and not any((folder / name).is_file() for name in names):
        problems.append(
            Problem(
                where,
                f"{folder} holds no tokenizer",
                "copy tokenizer.json and tokenizer_config.json of the model there",
            )
        )
    if problems:
        raise ModelError(*problems)


def _looks_like_a_path(name: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; anything else can only be a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _nearest(name: str, base_dir: Path) -> str:
    parent = (base_dir / Path(name).expanduser()).parent
    found = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(Path(name).name, found, n=1)
    return f"did you mean '{parent / near[0]}'?" if near else "give a model's folder or a hub id"
