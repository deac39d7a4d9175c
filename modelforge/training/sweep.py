"""`modelforge sweep`: every combination of a grid as an ordinary run, ranked by held-out rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge import registry
from modelforge.common.console import headline, say, show_table, warn
from modelforge.common.libraries import libraries_heard
from modelforge.common.progress import clock
from modelforge.errors import ConfigError, DivergedError, Problem, RunError, UserError
from modelforge.machine.environment import prepare_environment
from modelforge.runs import files
from modelforge.runs.folder import RunDir, finished, open_run
from modelforge.training.grid import (
    MOST,
    Combination,
    Grid,
    combinations,
    refuse_another_measure,
)
from modelforge.training.recovery import free_memory
from modelforge.training.run import result_with_model, run_once
from modelforge.training.tune import prepared_together, runs_of
from modelforge.training.tuned import Tuned, key_of, of_a_run, ranked, show, why_best

if TYPE_CHECKING:
    from modelforge.config import Config

_END = key_of(1.0)
#: Keys that leave the rows alone, which are then read once for all runs.
_NOT_OF_THE_ROWS = frozenset(
    (
        *("learning_rate", "lora_r", "lora_alpha", "lora_dropout", "weight_decay", "beta"),
        *("lr_scheduler_type", "warmup_ratio", "warmup_steps", "max_grad_norm", "optim"),
        *("num_train_epochs", "max_steps", "gradient_accumulation_steps"),
    )
)


def sweep(
    config: str | Path | Mapping[str, Any],
    *,
    grid: Grid,
    overrides: Iterable[str] = (),
    most: int = MOST,
    trust_remote_code: bool = False,
) -> Tuned:
    """Train every combination of a grid to its end, and rank them by the strategy's measure.

    A run that fails is named in the table, and the others go on.

    Args:
        config: A file, or a mapping.
        grid: Keys, and the values of each as ``--set`` takes them.
        overrides: ``key=value`` strings that win over the config.
        most: How many runs may be trained.
        trust_remote_code: Whether the model's own code may run.

    Returns:
        The runs, the best first; ``result`` is the best one's.

    Raises:
        UserError: If the config or a combination cannot be trained, nothing is held out, or every
            run failed. Unless runs have begun, nothing is written.
        Interrupted: If a signal asked to stop; the same call goes on with that run.
    """
    prepare_environment()
    with libraries_heard():
        base, folder, loaded = runs_of(
            "sweep", config, overrides, trust_remote_code=trust_remote_code
        )
        strategy = registry.get_strategy(base.settings.strategy)()
        refuse_another_measure(grid, strategy.measure.key)
        made = combinations(grid, most=most)
        configs = _loaded(made, loaded)
        swept = Tuned(folder, strategy.measure, one_pass="one after the other, each to its end")
        swept.found = (RunDir(folder).read_json(files.TRIALS) or {}).get("found", {})
        said = {each.trial.name: each.trial.said for each in made}
        todo = {name: each for name, each in configs.items() if not _is_settled(swept, name, each)}
        prepared_together(todo, rows_of=lambda name: _of_the_rows(said[name]))
        _train(swept, todo, len(configs))
        _rank(swept, said)
        return swept


def _loaded(made: Iterable[Combination], load: Callable[..., Config]) -> dict[str, Config]:
    """The config of each combination, by its name.

    Raises:
        ConfigError: With every problem of all, each once, by the key of the grid.
    """
    problems: dict[Problem, None] = {}
    found = {}
    for each in made:
        try:
            found[each.trial.name] = load(f"run_name={each.trial.name}", *each.overrides)
        except ConfigError as error:
            for problem in error.problems:
                key = problem.where.rpartition(": ")[2]
                where = f"--grid {key}" if key in each.trial.said else problem.where
                problems[Problem(where, problem.what, problem.fix)] = None
    if problems:
        raise ConfigError(*problems)
    return found


def _of_the_rows(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a combination says that the rows may depend on."""
    return [(key, str(value)) for key, value in said.items() if key not in _NOT_OF_THE_ROWS]


def _train(swept: Tuned, todo: Mapping[str, Config], count: int) -> None:
    """Train runs one after the other.

    Args:
        swept: Takes their outcomes.
        todo: Those that no earlier call ended.
        count: How many there are in all.
    """
    done = count - len(todo)
    if done:
        say(f"{done} of {count} runs are done")
    begin = time.monotonic()
    for number, (name, config) in enumerate(todo.items(), 1):
        headline(f"Run {done + number} of {count}: {name}")
        swept.found[name] = {_END: _outcome(swept, name, config)}
        swept.write()
        free_memory()
        left = len(todo) - number
        if left:
            seconds = (time.monotonic() - begin) / number
            say(f"about {clock(seconds * left)} left for the other runs")


def _rank(swept: Tuned, said: Mapping[str, Mapping[str, Any]]) -> None:
    """Choose the best run, and show all.

    Raises:
        RunError: If every run failed.
    """
    order = ranked(swept, list(said), 1.0)
    swept.said = {name: said[name] for name in order}
    whole = [name for name in order if swept.found[name][_END]["rows"]]
    if not whole:
        why = swept.found[order[0]][_END]["why"]
        raise RunError(Problem(str(swept.folder), f"every run failed, the first for: {why}"))
    swept.chosen, swept.why = whole[0], why_best(swept, whole, 1.0)
    swept.result = result_with_model(RunDir(swept.folder / swept.chosen), None)
    swept.write()
    show(swept)
    _show_over_seeds(swept)
    say(f"best: {swept.chosen}: {swept.why}")
    say(f"runs: {swept.folder}")


def _is_settled(swept: Tuned, name: str, config: Config) -> bool:
    """Whether a run has ended, well or by diverging; one that failed otherwise is tried again.

    Raises:
        RunError: If its folder holds a run of another config.
    """
    run, _ = open_run(config)
    found = swept.found.get(name, {}).get(_END)
    if found is None:
        return False
    return finished(run, config) if found["rows"] else bool(found.get("settled"))


def _outcome(swept: Tuned, name: str, config: Config) -> dict[str, Any]:
    """How a run ended: its held-out rows, or why there are none."""
    run = RunDir(swept.folder / name)
    strategy = registry.get_strategy(config.settings.strategy)()
    try:
        run_once(config, strategy)
    except UserError as error:
        problem = error.problems[0]
        why = f"{problem.where}: {problem.what}"
        warn(f"{name} failed: {why}")
        settled = isinstance(error, DivergedError) or run.finished
        return {"step": 0, "rows": [], "why": why, "settled": settled}
    return of_a_run(run, swept.measure)


def _show_over_seeds(swept: Tuned) -> None:
    """Of each combination the mean over its seeds, where seeds are swept."""
    groups: dict[str, list[float]] = {}
    for name, said in swept.said.items():
        rest = ", ".join(f"{key} {value}" for key, value in said.items() if key != "seed")
        found = swept.found[name][_END]
        if "seed" in said and found["rows"]:
            groups.setdefault(rest or "all", []).append(found["value"])
    if not any(len(values) > 1 for values in groups.values()):
        return
    headline(f"Over seeds: {swept.measure.label}")
    sign = -1 if swept.measure.higher_is_better else 1
    order = sorted(groups, key=lambda rest: sign * statistics.fmean(groups[rest]))
    rows = [
        (rest, len(values), f"{statistics.fmean(values):.4g}",
         f"{min(values):.4g} to {max(values):.4g}")
        for rest in order for values in [groups[rest]]
    ]  # fmt: skip
    show_table(("values", "seeds", "mean", "least to most"), rows)
