"""A trained model in another format: whole and proven, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelforge.common.console import say
from modelforge.common.files import digest, writing
from modelforge.constraints.of_a_run import CARRIED, beside, carried_entries, carry, of_recorded
from modelforge.errors import Problem, RunError, did_you_mean
from modelforge.evaluation.opened import Named
from modelforge.export import gguf, ollama, onnx, transformers_folder
from modelforge.export.bound import bound_of, refuse_without_memory
from modelforge.export.proof import CEILING, Bound, bound_of_scores
from modelforge.export.reference import Reference, reference_of
from modelforge.export.rounding import Rounding
from modelforge.inference.generate import weights_digest
from modelforge.inference.trained import find_trained, weights_of
from modelforge.machine.versions import versions

ABOUT = "export.json"
_KEYS = {"model", "format", "type", "merged_into", "digests"}
_INSTEAD = {
    "torchscript": "tracing fixes one length and drops the cache of keys and values",
    "pickle": "a pickle can run code when it is loaded",
}


@dataclass(frozen=True)
class Format:
    """How a format is written, and read again.

    Attributes:
        types: Its numeric types; the first is the default.
        problems: Why it cannot be made of a model, or here.
        write: Writes it into an empty folder.
        rounding: What a numeric type of it rounds.
        differences: Loads it by its own runtime and holds it against the trained model.
    """

    types: tuple[str, ...]
    problems: Callable[[Named, str], list[Problem]]
    write: Callable[..., None]
    rounding: Callable[[str], Rounding]
    differences: Callable[..., tuple[dict[str, Any], list[str]]]


FORMATS: Mapping[str, Format] = {
    "merged": Format(
        ("bf16", "f16", "f32"),
        lambda found, kind: [],
        transformers_folder.write_merged,
        transformers_folder.rounding,
        transformers_folder.differences,
    ),
    "adapter": Format(
        ("f32",),
        transformers_folder.adapter_problems,
        transformers_folder.write_adapter,
        transformers_folder.rounding,
        transformers_folder.differences,
    ),
    "gguf": Format(gguf.TYPES, gguf.problems, gguf.write, gguf.rounding, gguf.differences),
    "ollama": Format(gguf.TYPES, ollama.problems, ollama.write, gguf.rounding, ollama.differences),
    "onnx": Format(
        ("f32", "int8", "int4"), onnx.problems, onnx.write, onnx.rounding, onnx.differences
    ),
}


@dataclass(frozen=True)
class Exported:
    """A finished export.

    Attributes:
        folder: Where it lies.
        about: What ``export.json`` holds.
    """

    folder: Path
    about: Mapping[str, Any]

    def told(self) -> str:
        """What was proven, and what holds the constraints that travel along, in sentences."""
        if not (names := self.about.get("constraints")):
            return self._proof()
        return (
            f"{self._proof()}\nIts constraints ({', '.join(names)}) lie in {CARRIED}: `modelforge "
            "serve`, `chat` and `generate` hold answers to them, and other runtimes do not"
        )

    def _proof(self) -> str:
        proof = self.about["proof"]
        if "kl_mean" not in proof:
            difference = f"its scores differ by at most {proof['largest_difference']:.2g}"
            return f"{self.folder} is the model that was trained: {difference}"
        near = f"KL {proof['kl_mean']:.2g} nats a token over {proof['tokens']} tokens"
        near += f", of up to {proof['bound']['mean']:.2g} that its type explains"
        near += f"; {proof['ties']} near ties fell the other way" if proof["ties"] else ""
        if self.about["merged_into"] == "original":
            return f"{self.folder} is near the model that was trained, and another: {near}"
        return f"{self.folder} is the model that was trained: {near}"


def export(
    model: str,
    *,
    format: str = "merged",
    kind: str | None = None,
    base: str | None = None,
    output: Path | None = None,
    trust_remote_code: bool = False,
) -> Exported:
    """Write a model in another format, and hold it against the model as it was trained.

    Args:
        model: A finished run, or a model's or an adapter's folder.
        format: One of `FORMATS`.
        kind: The numeric type; by default the format's first.
        base: Which weights a quantised run's adapter is added to; by default the dequantised ones.
        output: A new folder; by default ``export-FORMAT-TYPE`` beside the model.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        UserError: If it cannot be made, or is not the model that was trained; nothing is left then.
    """
    found = find_trained(model, scores_too=True, trust_remote_code=trust_remote_code)
    chosen, kind = _chosen(found, format, kind, base)
    of_recorded(found.recorded, None, said=found.said, option=False)  # seen before hours of work
    target = output or _place(found, f"export-{format}-{kind}")
    if target.exists():
        raise RunError(Problem(str(target), "is there already", "name another with --output"))
    refuse_without_memory(found, merges=format != "adapter")
    half = target.with_name(f".{target.name}.partial")
    shutil.rmtree(half, ignore_errors=True)
    fix = "free some space, or name another place with --output"
    try:
        with writing(target, fix):
            half.mkdir(parents=True)
        reference = reference_of(found)
        say(f"writing {target}")
        with writing(target, fix):
            chosen.write(found, half, kind=kind, base=base or "dequantised")
        bound = _bound(found, reference, chosen.rounding(kind), base)
        figures = _proven(found, half, chosen, reference, bound, shown=target, kind=kind)
        with writing(target, fix):
            constraints = carry(found.recorded, half, said=found.said)
        about = {
            "model": str(found.run or weights_of(found)),
            "format": format,
            "type": kind,
            "merged_into": (base or "dequantised") if _packed(found) else None,
            "constraints": constraints,
            "proof": figures,
            "digests": _digests(found, half),
            "versions": versions(),
        }
        with writing(target, fix):
            (half / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            half.replace(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return Exported(target, about)


def verify(folder: Path, *, trust_remote_code: bool = False) -> Exported:
    """Hold an export against the model that it was made of, again.

    Raises:
        UserError: If it is none, or is not the model that was trained.
    """
    path = folder / ABOUT
    if not path.is_file():
        what = f"holds no {ABOUT}, which `modelforge export` writes"
        raise RunError(Problem(str(folder), what, "name the folder of an export"))
    try:
        about = dict(json.loads(path.read_text(encoding="utf-8")))
        if not about.keys() >= _KEYS or about["format"] not in FORMATS:
            raise ValueError
    except (ValueError, TypeError):
        fix = "export the model again"
        raise RunError(Problem(str(path), "is damaged, or of another version", fix)) from None
    found = find_trained(about["model"], scores_too=True, trust_remote_code=trust_remote_code)
    own = {name: value for name, value in _digests(found, folder).items() if name != "export"}
    changed = [name for name, value in own.items() if about["digests"][name] != value]
    if changed:
        what = f"was made of another {' and another '.join(changed)} than now lies in {found.said}"
        raise RunError(Problem(str(folder), what, "export it again"))
    _see_constraints(found, folder)
    refuse_without_memory(found, merges=about["format"] != "adapter")
    reference = reference_of(found)
    chosen, kind = FORMATS[about["format"]], about["type"]
    bound = _bound(found, reference, chosen.rounding(kind), about["merged_into"])
    figures = _proven(found, folder, chosen, reference, bound, shown=folder, kind=kind)
    return Exported(folder, about | {"proof": figures})


def _see_constraints(found: Named, folder: Path) -> None:
    """That an export carries the constraints of its run.

    Raises:
        UserError: If it does not, or they cannot be read.
    """
    given = (found.recorded, beside(folder))
    each = [of_recorded(own, None, said=str(folder), option=False) for own in given]
    own, carried = ([] if one is None else carried_entries(one) for one in each)
    if own != carried:
        what = "holds other constraints than the run was trained with"
        raise RunError(Problem(str(folder / CARRIED), what, "export the model again"))


def _chosen(found: Named, name: str, kind: str | None, base: str | None) -> tuple[Format, str]:
    """The format and type, once it is known that they can be made.

    Raises:
        RunError: With what is wrong with them.
    """
    if name not in FORMATS:
        why = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
        fix = f"use one of {', '.join(FORMATS)}" if why else did_you_mean(name, FORMATS)
        raise RunError(Problem(f"--format {name}", f"is none of ours{why}", fix))
    chosen = FORMATS[name]
    kind = kind or chosen.types[0]
    problems = chosen.problems(found, kind)
    if kind not in chosen.types:
        fix = f"use one of {', '.join(chosen.types)}"
        problems.append(Problem(f"--type {kind}", f"is no type of {name}", fix))
    if base not in (None, "dequantised", "original"):
        fix = "use dequantised (what it was trained on) or original"
        problems.append(Problem(f"--merge-base {base}", "is none", fix))
    elif base is not None and not _packed(found):
        what = f"has no effect: {found.said} was not trained on quantised weights"
        problems.append(Problem("--merge-base", what, "remove it"))
    if base is not None and name == "adapter":
        problems.append(Problem("--merge-base", "has no effect: nothing is merged", "remove it"))
    if problems:
        raise RunError(*problems)
    return chosen, kind


def _packed(found: Named) -> bool:
    return bool(found.recorded.get("use_4bit") or found.recorded.get("use_8bit"))


def _place(found: Named, name: str) -> Path:
    beside = found.run or Path(weights_of(found))
    if not beside.is_dir():  # a hub id
        return Path(name)
    return beside / name if found.run else beside.with_name(f"{beside.name}-{name}")


def _digests(found: Named, folder: Path) -> dict[str, str]:
    """Of the base, of what was trained, and of the export."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ABOUT)
    own = [[str(path.relative_to(folder)), path.stat().st_size] for path in files]
    return {
        "base": weights_digest(Path(found.source.base)),
        "model": weights_digest(Path(weights_of(found))),
        "export": digest(own),
    }


def _bound(found: Named, reference: Reference, rounding: Rounding, base: str | None) -> Bound:
    """What the proof allows: of a reward model by its type alone."""
    if base == "original":
        return CEILING
    if reference.scores is not None:
        return bound_of_scores(rounding.weights)
    return bound_of(found, reference.cases, rounding)


def _proven(
    found: Named,
    folder: Path,
    chosen: Format,
    reference: Reference,
    bound: Bound,
    *,
    shown: Path,
    kind: str,
) -> dict[str, Any]:
    """The figures of an export that is the model that was trained.

    Raises:
        RunError: With all ways in which it is not.
    """
    figures, wrong = chosen.differences(found, folder, reference, bound=bound)
    figures["bound"] = asdict(bound)
    if wrong:
        fix = "do not use it: it is not the model that was trained"
        if kind != "f32" and "f32" in chosen.types:
            fix += f", or {kind} is too coarse for it, which --type f32 tells"
        raise RunError(*(Problem(str(shown), each, fix) for each in wrong))
    return figures
