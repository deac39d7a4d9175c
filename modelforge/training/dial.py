"""How much of a run to keep: W_start + λ·ΔW for a few λ, each measured, and one of them saved.

Between the model a run began with and the trained one lies a line of models. Those near the start
forget less (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", for full weights). An
adapter's part of the line is again an adapter: the trained one scaled by λ, beside the one it began
from scaled by 1 - λ; PEFT joins both exactly, with their ranks added.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import headline, say, show_table, warn
from modelforge.config import OUT_OF_BASE
from modelforge.configfile.load import load_config
from modelforge.errors import Problem, RunError, UserError
from modelforge.runs import files
from modelforge.runs.folder import RunDir, of_a_run
from modelforge.training.prepare import Prepared, prepare

if TYPE_CHECKING:
    from modelforge.strategy import Measure

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_CONDITION = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign>>=|<=|>|<)\s*(?P<value>[-+.\deE]+)\s*")
_SIGNS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}
_NAME = "dial"
# Fields of LoRA by which an adapter holds more than a product of two matrices beside each layer,
# or not the same one: PEFT's sum of adapters leaves these out, or refuses them.
_MORE = (
    *("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices"),
    *("rank_pattern", "target_parameters"),
)


@dataclass(frozen=True)
class Dialled:
    """What was measured, and what was saved.

    Attributes:
        figures: λ → figure → value. The run's figures have their own names, its parent's begin
            with ``parent.``; ``neutral_kl`` and ``neutral_loss`` are those on neutral texts.
        chosen: The λ that was saved, or None.
        folder: Where, or None.
    """

    figures: Mapping[float, Mapping[str, float]]
    chosen: float | None = None
    folder: Path | None = None


def dial(
    folder: Path,
    *,
    at: float | None = None,
    keep: Sequence[str] = (),
    output: Path | None = None,
    trust_remote_code: bool = False,
) -> Dialled:
    """Measure a few models between a run's start and its end, and save the one that is asked for.

    Args:
        folder: A finished run's.
        at: Save this λ: 0 is the start, 1 the trained model.
        keep: Conditions such as ``eval_loss<=1.2``: of the λ that meet all, the one that the run's
            measure likes best is saved.
        output: Where; by default ``model-at-λ`` in the run's folder.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        UserError: If the run cannot be dialled, a condition is none, or no λ meets them all.
    """
    folder = of_a_run(folder)
    run = RunDir(folder)
    if run.read_json(files.RESULTS) is None or not run.model.is_dir():
        fix = "run `modelforge train` to its end"
        raise RunError(Problem(str(folder), "holds no finished run", fix))
    wanted = [_condition(text) for text in keep]
    _refuse_what_cannot_be_saved(at, wanted, output, run.path)
    config = load_config(folder, trust_remote_code=trust_remote_code)
    prepared = prepare(config, opened=(run, None))
    _refuse_what_is_no_line(prepared)
    begin = prepared.source.adapter or Path(prepared.source.base)
    line = _Line(prepared, _parent(begin, trust_remote_code))
    figures = {}
    for share in LAMBDAS if at is None else sorted({0.0, at, 1.0}):
        with line.at(share):
            figures[share] = line.figures(share)
        _refuse_unknown(wanted, figures[share])
    measure = prepared.strategy.measure
    _show(figures, measure)
    chosen = at
    if at is None and wanted:
        chosen = _best(figures, wanted, measure)
    if chosen is None:
        return Dialled(figures)
    target = output or _place(run.path, chosen)
    with line.at(chosen):
        line.save(target, {"lambda": chosen, "run": str(run.path), "figures": figures[chosen]})
    say(f"saved the model at {chosen:g} to {target}")
    return Dialled(figures, chosen, target)


def _place(folder: Path, share: float) -> Path:
    """Where a share of a run is saved if nothing else is said."""
    return folder / f"model-at-{share:g}"


def _refuse_what_cannot_be_saved(
    at: float | None, wanted: Sequence[Any], output: Path | None, folder: Path
) -> None:
    """See, before anything is measured, what is to be saved and that its place is free.

    Raises:
        RunError: If the options contradict each other, or something lies where it is to go.
    """
    if at is not None and not 0 <= at <= 1:
        raise RunError(Problem("--at", f"is {at:g}", "set a share from 0 (start) to 1 (trained)"))
    if at is not None and wanted:
        raise RunError(Problem("--keep", "has no effect: --at names the share", "keep one of both"))
    if output is not None and at is None and not wanted:
        raise RunError(Problem("--output", "has no effect: nothing is saved", "add --at or --keep"))
    target = _place(folder, at) if output is None and at is not None else output
    if target is not None:
        _refuse_taken(target)


def _refuse_taken(target: Path) -> None:
    if target.exists():
        raise RunError(Problem(str(target), "is there already", "name another with --output"))


def _parent(begin: Path, trust_remote_code: bool) -> Prepared | None:
    """The finished run whose model this run began with, if it is one and can be measured."""
    folder = begin.parent
    if begin.name != files.MODEL or not (folder / files.RESULTS).is_file():
        return None
    say(f"it began with the run {folder}, whose figures are measured too")
    try:
        config = load_config(folder, trust_remote_code=trust_remote_code)
        return prepare(config, opened=(RunDir(folder), None))
    except UserError as error:  # its data may have moved since; this run's figures need none of it
        warn(f"the figures of {folder} are left out: {error}")
        return None


class _Line:
    """The models between a run's start and its end, as one model that is moved along.

    Args:
        prepared: The run.
        parent: The run it began with, if there is one.
    """

    def __init__(self, prepared: Prepared, parent: Prepared | None) -> None:
        from modelforge.training.run import build_trainer, load

        self.prepared = prepared
        parts = load(prepared)
        self.trainers = {"": build_trainer(prepared, parts)}
        self.model: Any = self.trainers[""].accelerator.unwrap_model(self.trainers[""].model)
        if parent is not None and parent.strategy.head == prepared.strategy.head:
            same = replace(parts, **_of(parent), model=self.model, peft_config=None)
            self.trainers["parent."] = build_trainer(parent, same)
        self.adapted = hasattr(self.model, "peft_config")
        if self.adapted:
            self.model.load_adapter(str(prepared.run.model), "trained", is_trainable=False)
        else:
            self.ends = self._weights()

    def _weights(self) -> tuple[dict[str, Any], dict[str, Any]]:
        trained = type(self.model).from_pretrained(
            str(self.prepared.run.model),
            dtype=self.model.dtype,
            trust_remote_code=self.prepared.source.trust_remote_code,
            use_safetensors=True,
        )
        start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        return start, {name: p.detach() for name, p in trained.named_parameters()}

    @contextmanager
    def at(self, share: float) -> Iterator[None]:
        """Within it, the model is the one that far along."""
        import torch

        if not self.adapted:
            start, end = self.ends
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    there = end[name].to(parameter.device)
                    parameter.copy_(torch.lerp(start[name], there, share))
            yield
            return
        names, weights = ["trained"], [share]
        if self.prepared.source.adapter is not None:
            names, weights = ["default", "trained"], [1 - share, share]
        self.model.add_weighted_adapter(names, weights, _NAME, combination_type="cat")
        self.model.set_adapter(_NAME)
        try:
            yield
        finally:
            self.model.set_adapter("default")
            self.model.delete_adapter(_NAME)

    def figures(self, share: float) -> dict[str, float]:
        """What is measured of the model as it is now, that far along."""
        from modelforge.callbacks.progress import Progress
        from modelforge.evaluation.neutral import moved
        from modelforge.evaluation.results import held_out_figures
        from modelforge.evaluation.samples import undisturbed

        found: dict[str, float] = {}
        for prefix, trainer in self.trainers.items():
            for shown in trainer.callback_handler.callbacks:
                if isinstance(shown, Progress):
                    shown.untrained = f"λ {share:g}"
            if trainer.eval_dataset is not None:
                measured = held_out_figures(trainer)
                found |= {f"{prefix}{name}": value for name, value in measured.items()}
        start = (self.prepared.run.read_json(files.BEFORE) or {}).get("neutral")
        if start:
            with undisturbed(self.model):
                neutral = moved(self.model, self.prepared.tokenizer, start)
            found |= {"neutral_kl": neutral["kl"], "neutral_loss": neutral["loss_after"]}
        return found

    def save(self, target: Path, about: Mapping[str, Any]) -> None:
        """Write the model as it is now, whole or not at all, and see that it loads.

        Raises:
            RunError: If it cannot be written, or does not load as it is.
        """
        from safetensors import SafetensorError

        from modelforge.evaluation.reload import see_that_it_loads
        from modelforge.evaluation.samples import undisturbed

        _refuse_taken(target)
        half = target.with_name(f".{target.name}")
        shutil.rmtree(half, ignore_errors=True)
        try:
            self._write(half)
            (half / "dial.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            with undisturbed(self.model):
                see_that_it_loads(
                    self.model, half, self.prepared.tokenizer, self.prepared.data.train_tokens,
                    head=self.prepared.strategy.head,
                    trust_remote_code=self.prepared.config.settings.trust_remote_code,
                )  # fmt: skip
            half.replace(target)
        except (OSError, SafetensorError) as error:
            fix = "free some space, or name another place with --output"
            raise RunError(Problem(str(target), f"cannot be written: {error}", fix)) from error
        finally:
            shutil.rmtree(half, ignore_errors=True)

    def _write(self, folder: Path) -> None:
        if self.adapted:
            self.model.save_pretrained(folder, selected_adapters=[_NAME])
            for path in (folder / _NAME).iterdir():
                path.replace(folder / path.name)
            (folder / _NAME).rmdir()
            self.model.get_base_model().generation_config.save_pretrained(folder)
        else:
            self.model.save_pretrained(folder)
        self.prepared.tokenizer.save_pretrained(folder)


def _of(prepared: Prepared) -> dict[str, Any]:
    """The parts of a run's trainer that are its own."""
    names = ("config", "tokenizer", "data", "args")
    return {name: getattr(prepared, name) for name in names} | {"run_dir": prepared.run.path}


def _refuse_what_is_no_line(prepared: Prepared) -> None:
    """See that the adapters' sum is an adapter; a run of all weights has none.

    Raises:
        RunError: If one of them is more than LoRA beside the base's weights.
    """
    begin = prepared.source.adapter
    for folder in (prepared.run.model, *([begin] if begin else [])):
        path = folder / "adapter_config.json"
        if not path.is_file():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        more = [name for name in _MORE if found.get(name)]
        if found.get("peft_type") != "LORA":
            more.append(f"peft_type {found.get('peft_type')}")
        if found.get("init_lora_weights") in OUT_OF_BASE:
            more.append(f"init_lora_weights {found['init_lora_weights']}")
        if found.get("bias", "none") != "none":
            more.append("bias")
        if more:
            what = f"its adapter is more than low-rank parts beside the base ({', '.join(more)}): "
            what += "a share of it is no adapter"
            fix = "merge start and end into their bases, and average those"
            raise RunError(Problem(str(folder), what, fix))


def _condition(text: str) -> tuple[str, str, float]:
    """``name>=value`` in its parts.

    Raises:
        RunError: If it is none.
    """
    found = _CONDITION.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        return found["name"], found["sign"], float(found["value"])
    except ValueError:
        fix = "write a figure, >= or <=, and a number, such as eval_loss<=1.2"
        raise RunError(Problem(f"--keep {text}", "is no condition", fix)) from None


def _refuse_unknown(wanted: Sequence[tuple[str, str, float]], figures: Mapping[str, float]) -> None:
    """See that each condition is on a figure that was measured.

    Raises:
        RunError: If one is not.
    """
    for name, _, _ in wanted:
        if _named(name, list(figures)) is None:
            fix = f"one of {', '.join(figures)}"
            raise RunError(Problem(f"--keep {name}", "is no figure of this run", fix))


def _best(
    figures: Mapping[float, Mapping[str, float]],
    wanted: Sequence[tuple[str, str, float]],
    measure: Measure,
) -> float:
    """Of the λ that meet all conditions the one that the measure likes best; of two the lower.

    Raises:
        RunError: If no λ meets them all.
    """
    known = list(next(iter(figures.values())))
    meeting = [
        share
        for share, found in figures.items()
        if all(_SIGNS[sign](found[_named(n, known) or n], value) for n, sign, value in wanted)
    ]
    if not meeting:
        names = [_named(name, known) or name for name, _, _ in wanted]
        reach = "; ".join(
            f"{name} is {min(f[name] for f in figures.values()):.4g} to "
            f"{max(f[name] for f in figures.values()):.4g}"
            for name in names
        )
        raise RunError(Problem("--keep", f"no λ meets it: {reach}", "ask for less"))
    sign = 1 if measure.higher_is_better else -1
    return max(meeting, key=lambda share: (sign * figures[share].get(measure.key, 0.0), -share))


def _named(name: str, known: Sequence[str]) -> str | None:
    """The figure that a name means: itself, without ``eval_``, or the parent's of that name."""
    bare = name.removeprefix("parent.")
    forms = (name, f"eval_{name}", f"parent.{bare}", f"parent.eval_{bare}")
    tails = [figure for figure in known if figure.rpartition("/")[2] == name]
    return next((f for f in forms if f in known), tails[0] if len(tails) == 1 else None)


def _show(figures: Mapping[float, Mapping[str, float]], measure: Measure) -> None:
    headline("From the start (0) to the trained model (1)")
    names = [
        name
        for name in next(iter(figures.values()))
        if name == measure.key or "loss" in name or name.startswith(("parent.", "neutral"))
        if not name.endswith(("entropy", "num_tokens"))
    ]
    titles = ["λ", *(name.replace("eval_", "") for name in names)]
    rows = [(f"{share:g}", *(f"{found[n]:.4g}" for n in names)) for share, found in figures.items()]
    show_table(titles, rows)
