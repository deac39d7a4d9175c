"""Where a model comes from: a folder, a run of ours, an adapter on a base, or a hub id."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelforge.common.paths import find_path
from modelforge.errors import ModelError, Problem
from modelforge.runs import files
from modelforge.runs.folder import of_a_run


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        base: Folder or hub id of the base weights.
        adapter: Folder of a LoRA adapter to train further, or None.
        revision: Hub revision of the base, or None.
        tokenizer: Folder or hub id that holds the tokenizer.
        trust_remote_code: Whether the model's own code may run: the config and the command line
            both said so.
    """

    base: str
    adapter: Path | None
    revision: str | None
    tokenizer: str
    trust_remote_code: bool = False


def find_model(
    name: str,
    *,
    base_dir: Path,
    revision: str | None,
    where: str,
    trust_remote_code: bool = False,
) -> ModelSource:
    """What a ``model_name`` means. Looks at folders only, and loads nothing.

    Args:
        name: A model folder, an adapter folder, the folder of a finished run, or a hub id.
        base_dir: Relative paths are looked up here first, then in the working folder.
        revision: Hub revision of the base.
        where: How to call the key in messages.
        trust_remote_code: Whether the provider may run the model's own code.

    Raises:
        ModelError: If it is a path and no usable model lies there.
    """
    source = _found(name, base_dir=base_dir, revision=revision, where=where)
    return replace(source, trust_remote_code=trust_remote_code)


def _found(name: str, *, base_dir: Path, revision: str | None, where: str) -> ModelSource:
    folder = local_folder(name, base_dir)
    if folder is None:
        if (found := find_path(name, base_dir, wanted=Path.is_file)) is not None:
            what = f"{found} is a file, and a model is a folder"
            raise ModelError(Problem(where, what, f"give its folder, {found.parent}"))
        if _looks_like_a_path(name):
            raise ModelError(Problem(where, f"there is no folder {name}", _nearest(name, base_dir)))
        return ModelSource(base=name, adapter=None, revision=revision, tokenizer=name)
    folder = of_a_run(folder)
    if (folder / files.MODEL).is_dir() and (folder / files.CHOICES).is_file():
        folder = folder / files.MODEL
    elif any((folder / name).is_file() for name in (files.CHOICES, files.STAGES)):
        what = f"the run in {folder} has not ended, and holds no model yet"
        raise ModelError(Problem(where, what, f"`modelforge train {folder}` goes on with it"))
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, base_dir=base_dir, revision=revision, where=where)
    _check_model_folder(folder, where)
    if revision is not None:
        key = where.replace("model_name", "model_revision")
        what = f"has no effect: {folder} is a folder, and revisions are the hub's"
        raise ModelError(Problem(key, what, "remove it, or set model_name to the hub id"))
    return ModelSource(base=str(folder), adapter=None, revision=None, tokenizer=str(folder))


def local_folder(name: str, base_dir: Path) -> Path | None:
    """The folder of that name beside the config or in the working folder, if there is one."""
    return find_path(name, base_dir, wanted=Path.is_dir)


def _adapter(folder: Path, *, base_dir: Path, revision: str | None, where: str) -> ModelSource:
    adapter = _read_object(folder / "adapter_config.json")
    base = adapter.get("base_model_name_or_path")
    if not isinstance(base, str) or not base or "\0" in base:
        raise ModelError(
            Problem(where, f"{folder}/adapter_config.json names no base model", "train it again")
        )
    if not (folder / "adapter_model.safetensors").is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        fix = _PICKLES if pickled else "copy the weights there too"
        raise ModelError(Problem(where, f"{folder} holds no adapter_model.safetensors", fix))
    found = local_folder(base, base_dir)
    if found is None and _looks_like_a_path(base):
        raise ModelError(
            Problem(
                where,
                f"the adapter {folder} was trained on {base}, and that folder does not exist",
                "bring that folder back, or correct base_model_name_or_path in adapter_config.json",
            )
        )
    if found is not None:
        _check_model_folder(found, where, tokenizer=False)
    problems = list(_paths_that_leave(folder, where))
    if problems:
        raise ModelError(*problems)
    has_tokenizer = (folder / "tokenizer_config.json").is_file()
    return ModelSource(
        base=str(found or base),
        adapter=folder,
        revision=revision or adapter.get("revision"),
        tokenizer=str(folder if has_tokenizer else found or base),
    )


def _check_model_folder(folder: Path, where: str, *, tokenizer: bool = True) -> None:
    """Refuse a folder that cannot be loaded, with all that it lacks."""
    problems = list(_paths_that_leave(folder, where))
    if not (folder / "config.json").is_file():
        problems.append(Problem(where, f"{folder} holds no config.json", "is it a model's folder?"))
    elif not any(folder.glob("*.safetensors")):
        pickles = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        problems.append(
            Problem(
                where,
                f"{folder} holds no .safetensors weights",
                _PICKLES if pickles else "copy the weights there too",
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


def _paths_that_leave(folder: Path, where: str) -> Iterator[Problem]:
    """The names of files in a model's own JSON that are no files of its folder.

    Whoever made the folder wrote them; what they name is opened as the user.
    """
    for index in sorted(folder.glob("*.index.json")):
        shards = _read_object(index).get("weight_map")
        if not isinstance(shards, dict):
            yield Problem(where, f"{index} has no weight_map", "copy the file again")
            continue
        for shard in sorted({str(shard) for shard in shards.values()}):
            if not _is_plain(shard):
                yield Problem(where, f"{index} names a file outside its folder: {shard!r}", _LEAVES)
            elif not shard.endswith(".safetensors"):
                what = f"{index} names weights that are not .safetensors: {shard!r}"
                yield Problem(where, what, _PICKLES)
            elif not (folder / shard).is_file():
                yield Problem(where, f"{folder} holds no {shard}", "copy the weights there too")
    path = folder / "tokenizer_config.json"
    for key, value in _read_object(path).items():
        names = value if isinstance(value, list) else [value]
        if key.endswith(("_file", "_files")):
            for name in names:
                if isinstance(name, str) and not _is_plain(name):
                    what = f"{path}: {key} names a file outside its folder: {name!r}"
                    yield Problem(where, what, _LEAVES)


_PICKLES = "pickled weights can run code when loaded: convert them to safetensors"
_LEAVES = "trust this folder only if you know why it does that, and correct it by hand"


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the same folder."""
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\:\0")


def _read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, which its reader will say."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _looks_like_a_path(name: str) -> bool:
    """A hub id is ``name`` or ``owner/name``; anything else can only be a path."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name


def _nearest(name: str, base_dir: Path) -> str:
    parent = (base_dir / Path(name).expanduser()).parent
    found = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
    near = difflib.get_close_matches(Path(name).name, found, n=1)
    return f"did you mean '{parent / near[0]}'?" if near else "give a model's folder or a hub id"
