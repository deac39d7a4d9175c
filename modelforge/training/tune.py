"""`modelforge tune`: trials of one config side by side, and the best of them as an ordinary run.

After a part of the steps the trials are measured on the held-out rows, and the best quarter goes
on: successive halving (Jamieson and Talwalkar 2016, "Non-stochastic best arm identification and
hyperparameter optimization") by four in place of two. Each trial follows its own schedule for the
whole run, so the best one goes on to the end as if it were alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelforge import registry
from modelforge.common.console import headline, say
from modelforge.common.libraries import libraries_heard
from modelforge.config import Choice
from modelforge.configfile.load import load_config
from modelforge.errors import ConfigError, Problem, RunError
from modelforge.machine.environment import prepare_environment
from modelforge.machine.launch import processes_of
from modelforge.runs import files
from modelforge.runs.folder import RunDir, run_name
from modelforge.training.average import AVERAGE, refuse_no_average, write_average
from modelforge.training.joined import CannotJoinError
from modelforge.training.prepare import Prepared, build_args, prepare_on, refuse_no_step, try_out
from modelforge.training.read import read
from modelforge.training.recovery import free_memory
from modelforge.training.resolve import resolve
from modelforge.training.run import run_once
from modelforge.training.trials import (
    Trial,
    on_one_card,
    trained_until,
    trials_of,
    why_not_joined,
)
from modelforge.training.tuned import Tuned, key_of, ranked, row_of, show, why_best

if TYPE_CHECKING:
    from modelforge.config import Config

#: The share of the steps after which one trial is left. A high rate that is the best in the end
#: looks worse before: see benchmarks/results/tune.md.
LAST_RUNG = 1 / 2
Keep = Literal["best", "average"]


def tune(
    config: str | Path | Mapping[str, Any],
    *,
    overrides: Iterable[str] = (),
    count: int = 4,
    rates: Sequence[float] = (),
    ranks: Sequence[int] = (),
    seeds: Sequence[int] = (),
    keep: Keep = "best",
    to_the_end: bool = False,
    trust_remote_code: bool = False,
) -> Tuned:
    """Train trials of a config, and keep the best by the strategy's held-out measure.

    Args:
        config: A file, or a mapping.
        overrides: ``key=value`` strings that win over the config.
        count: How many learning rates to try, from a third of the config's to thrice it.
        rates: Learning rates to try in their place.
        ranks: LoRA ranks to try.
        seeds: Seeds to try.
        keep: ``average`` also measures the average of all adapters, and keeps it if it is better.
        to_the_end: Whether no trial stops early; it follows from ``average``.
        trust_remote_code: Whether the model's own code may run.

    Raises:
        UserError: If the config cannot be trained, nothing is held out, or every trial diverges.
        Interrupted: If a signal asked to stop; the same call resumes all trials.
    """
    prepare_environment()
    with libraries_heard():
        base, folder, loaded = runs_of(
            "tune", config, overrides, trust_remote_code=trust_remote_code
        )
        trials = trials_of(_rate(base, folder), count=count, rates=rates, ranks=ranks, seeds=seeds)
        configs = {
            trial.name: loaded(f"run_name={trial.name}", *_overrides(trial)) for trial in trials
        }
        prepared = prepared_together(configs, rows_of=lambda name: configs[name].settings.seed)
        if keep == "average":
            refuse_no_average(*prepared.values())
        tuned = Tuned(folder, next(iter(prepared.values())).strategy.measure)
        tuned.said = {trial.name: trial.said for trial in trials}
        tuned.found = (RunDir(folder).read_json(files.TRIALS) or {}).get("found", {})
        whole = to_the_end or keep == "average"
        tuned.chosen = _search(tuned, prepared, [] if whole else rungs(len(trials)))
        show(tuned)
        tuned.result = run_once(configs[tuned.chosen], prepared[tuned.chosen].strategy)
        if keep == "average":
            _try_average(tuned, prepared, configs)
        say(f"kept: {tuned.chosen}: {tuned.why}")
        tuned.write()
        return tuned


def asked(
    *, trials: int | None, rates: str | None, ranks: str | None, seeds: str | None, keep: str
) -> dict[str, Any]:
    """The command line's words as arguments of `tune`.

    Raises:
        ConfigError: With everything that cannot be tried.
    """
    problems = []

    def numbers(option: str, text: str | None, kind: type, least: float) -> list[Any]:
        try:
            values = [kind(word) for word in (text or "").replace(",", " ").split()]
        except ValueError:
            values = [math.nan]
        if (text is not None and not values) or not all(v >= least for v in values):
            what, such = "a list of numbers above 0", "1e-4,3e-4"
            if kind is int:
                what, such = f"a list of whole numbers of {least} or more", "1,2,4"
            problems.append(Problem(option, f"'{text}' is not {what}", f"write such as {such}"))
        return values

    found = {
        "rates": numbers("--rates", rates, float, 1e-12),
        "ranks": numbers("--ranks", ranks, int, 1),
        "seeds": numbers("--seeds", seeds, int, 0),
    }
    if trials is not None and rates is not None:
        what = "has no effect: --rates names the rates"
        problems.append(Problem("--trials", what, "keep one of both"))
    if keep not in ("best", "average"):
        what = f"is '{keep}'"
        problems.append(Problem("--keep", what, "set best or average"))
    if problems:
        raise ConfigError(*problems)
    others = ranks is not None or seeds is not None
    return found | {"count": trials or (1 if others else 4), "keep": keep}


def rungs(count: int) -> list[float]:
    """The shares of the steps after which all but a quarter of so many trials stop."""
    steps = math.ceil(math.log(count, 4) - 1e-9)
    return [LAST_RUNG / 4 ** (steps - 1 - i) for i in range(steps)]


def runs_of(
    command: str,
    config: str | Path | Mapping[str, Any],
    overrides: Iterable[str],
    *,
    trust_remote_code: bool,
) -> tuple[Config, Path, Callable[..., Config]]:
    """What a command over many runs of a config begins with.

    Args:
        command: Its name, which the folder's name begins with.
        config: A file, or a mapping.
        overrides: ``key=value`` strings that win over the config.
        trust_remote_code: Whether the model's own code may run.

    Returns:
        The config; the folder of its runs; and a function that loads the config of a run in that
        folder, from ``key=value`` strings that win over all others.

    Raises:
        ConfigError: If it is no config, or not of one run on one card.
    """
    said = list(overrides)
    base = load_config(config, overrides=said, trust_remote_code=trust_remote_code)
    _refuse_what_has_no_trials(base)
    name = f"{command}-{run_name(base)}"
    folder = Path(base.settings.output_dir).expanduser().absolute() / name
    said += [f"output_dir={folder}", "resume=auto"]

    def loaded(*more: str) -> Config:
        return load_config(config, overrides=[*said, *more], trust_remote_code=trust_remote_code)

    return base, folder, loaded


def _refuse_what_has_no_trials(config: Config) -> None:
    """See that a run of this config is one run on one card.

    Raises:
        ConfigError: If it has stages, or several processes.
    """
    name = config.settings.strategy
    stages = registry.get_strategy(name)().stages(config)
    if stages:
        what = (
            f"{name} trains {' and '.join(stages)} one after the other, each at a rate of its own"
        )
        raise ConfigError(Problem(f"{config.name}: strategy", what, f"tune {stages[0]} by itself"))
    if processes_of(config) > 1:
        what = "the trials share one card"
        fix = "set distributed.num_processes to 1"
        raise ConfigError(Problem(f"{config.name}: distributed.num_processes", what, fix))


def _rate(config: Config, folder: Path) -> float:
    """The learning rate that a run of this config would have."""
    resolved = resolve(config, opened=(RunDir(folder), None))
    args = build_args(
        resolved.config, resolved.strategy, resolved.provider, resolved.hardware, resolved.run
    )
    return float(args.learning_rate)


def _overrides(trial: Trial) -> list[str]:
    return [f"{key}={value}" for key, value in trial.said.items()]


def prepared_together(
    configs: Mapping[str, Config], *, rows_of: Callable[[str], Any]
) -> dict[str, Prepared]:
    """The trials, ready to start; rows are read once for those that have the same.

    Args:
        configs: Of each trial.
        rows_of: What the rows of a trial depend on, beside the config that all share.

    Raises:
        UserError: If one cannot be trained, or nothing is held out to judge by.
    """
    rows: list[tuple[Any, Any]] = []
    found: dict[str, Prepared] = {}
    for name, config in configs.items():
        resolved = resolve(config)
        key = rows_of(name)
        here = next((each for other, each in rows if other == key), None)
        if here is None:
            here = read(resolved)
            rows.append((key, here))
        prepared = prepare_on(resolved, here)
        if not found:
            try_out(prepared, resolved, here)
        refuse_no_step(prepared)
        if prepared.data.eval is None:
            what = "is missing, and trials are judged by held-out rows"
            fix = "set it, or eval_split"
            raise ConfigError(Problem(f"{config.name}: eval_dataset", what, fix))
        found[name] = prepared
    return found


def _search(tuned: Tuned, prepared: Mapping[str, Prepared], shares: Sequence[float]) -> str:
    """Train the trials from rung to rung, and to the end while several are left; the best's name.

    A trial that an earlier call took further is not measured against those that are behind it.

    Raises:
        RunError: If all have diverged.
    """
    alive = list(prepared)
    for share in (*shares, 1.0):
        if tuned.why and len(alive) == 1:
            break
        ahead = [name for name in alive if _is_ahead(tuned, name, share)]
        here = [name for name in alive if name not in ahead]
        _reach(tuned, {name: prepared[name] for name in here}, share)
        order = [n for n in ranked(tuned, here, share) if tuned.found[n][key_of(share)]["rows"]]
        if not order and not ahead:
            fix = "lower --rates"
            raise RunError(Problem(str(tuned.folder), "every trial has diverged", fix))
        if order:
            tuned.why = why_best(tuned, order, share)
        alive = order[: math.ceil(len(here) / 4)] + ahead
    return alive[0]


def _is_ahead(tuned: Tuned, name: str, share: float) -> bool:
    """Whether a trial went past this share of the steps, and was not measured there."""
    found = tuned.found.get(name, {})
    return key_of(share) not in found and any(float(key) > share for key in found)


def _reach(tuned: Tuned, prepared: Mapping[str, Prepared], share: float) -> None:
    """Train trials to this share of their steps, but for those that were there before."""
    todo = [p for name, p in prepared.items() if key_of(share) not in tuned.found.get(name, {})]
    if not todo:
        return
    names = ", ".join(p.run.path.name for p in todo)
    headline(f"Trials to {share:.3g} of the steps: {names}")
    why, fitting = why_not_joined(todo), None
    if why is None:
        fitting = on_one_card(todo)
        why = "the card does not hold a row of each" if fitting is None else None
    if fitting is not None:
        ready, planned = fitting
        tuned.plan = tuned.plan if planned is None else planned.to_dict()
        try:
            return _train(tuned, ready, share, joined=True)
        except CannotJoinError as error:
            why = str(error)
        free_memory()  # the error held the models of all
    if len(todo) > 1:
        tuned.one_pass = f"one after the other: {why}"
        say(tuned.one_pass)
    _train(tuned, todo, share, joined=False)


def _train(tuned: Tuned, todo: Sequence[Prepared], share: float, *, joined: bool) -> None:
    for each, reached in trained_until(share, todo, joined=joined):
        value = reached.figures.get(tuned.measure.key.removeprefix("eval_"), math.nan)
        told = reached.why or f"{tuned.measure.label} {value:.4g} after {reached.step} steps"
        say(f"{each.run.path.name}: {told}")
        found = tuned.found.setdefault(each.run.path.name, {})
        found[key_of(share)] = row_of(reached, tuned.measure, each.data.eval_prompts)
        tuned.write()


def _try_average(
    tuned: Tuned, prepared: Mapping[str, Prepared], configs: Mapping[str, Config]
) -> None:
    """Average all adapters as a run of their own; keep it if it is better than the best."""
    names = [name for name in prepared if tuned.found[name]["1"]["rows"]]
    rank = sum(prepared[name].config.settings.lora_r for name in names)
    best = configs[tuned.chosen]
    shape = {"lora_r": rank, "lora_alpha": rank, "run_name": AVERAGE}
    config = best.with_choices({key: Choice(value, "tune", "") for key, value in shape.items()})
    config = replace(config, said={**config.said, **shape})
    run = RunDir(tuned.folder / AVERAGE)
    if run.last_checkpoint() is None:
        write_average(
            run, [prepared[name].run for name in names], RunDir(tuned.folder / tuned.chosen)
        )
    result = run_once(config, prepared[tuned.chosen].strategy)
    key = tuned.measure.key
    assert tuned.result is not None, "the best one is trained"
    ours, theirs = result.after[key], tuned.result.after[key]
    if ours > theirs if tuned.measure.higher_is_better else ours < theirs:
        tuned.why = (
            f"{tuned.measure.label} {ours:.4g}, and {theirs:.4g} for {tuned.chosen}, the best"
        )
        tuned.chosen, tuned.result = AVERAGE, result
    else:
        tuned.why += f"; the average of all {len(names)} comes to {ours:.4g}"
