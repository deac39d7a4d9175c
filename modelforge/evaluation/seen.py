"""Which rows of an evaluation the model was trained on, in its run and in those before it.

Each run's folder says what it was trained on. Its training rows are read again, without those that
it held out, and held against the rows of the evaluation (`modelforge.data.overlap`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import say
from modelforge.common.hub import cache_alone
from modelforge.configfile.load import load_config
from modelforge.data.load import plain_rows
from modelforge.data.overlap import RUN, prompt_key, shared
from modelforge.data.sources import Asked
from modelforge.errors import DataError, Problem, UserError
from modelforge.evaluation.opened import Named, named
from modelforge.runs import files
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from modelforge.data.overlap import Named as Row
    from modelforge.evaluation.items import Item


def trained_on(asked: Named, items: Sequence[Item], asked_data: Asked) -> list[dict[str, Any]]:
    """Of each run that made the model what of the rows it was trained on.

    Args:
        asked: The model; one without a run tells nothing.
        items: The rows of the evaluation.
        asked_data: Where they come from.

    Returns:
        ``run``, its name; ``rows``, how many it trained on; ``shared``: how a row is shared →
        ``doc_id`` of each such row. ``why`` in place of the last two where its rows cannot be read.
    """
    told: list[dict[str, Any]] = []
    wanted: list[Row] | None = None
    for run in _runs(asked):
        if wanted is None:
            numbers = {item.place: item.doc_id for item in items}
            wanted = [row for row in plain_rows(asked_data) if row[0] in numbers]
        try:
            rows = training_rows(run)
        except UserError as error:
            why = str(error.problems[0])
            say(f"the training rows of {run.name} cannot be read: {why}")
            told.append({"run": run.name, "why": why})
            continue
        found = {
            kind: sorted({numbers[where] for where, _ in pairs})
            for kind, pairs in shared(wanted, rows).items()
        }
        told.append({"run": run.name, "rows": len(rows), "shared": found})
    return told


def training_rows(folder: Path) -> list[Row]:
    """The rows that a run was trained on, with their places.

    Raises:
        UserError: If its data cannot be read any more.
    """
    config = load_config(folder, trust_remote_code=True)  # nothing of the model is loaded
    settings = config.settings
    if settings.streaming:
        raise DataError(Problem(str(folder), "its rows were streamed, and are not read again"))
    told = RunDir(folder).read_json(files.PROMPTS) or {}
    held_out = {int(key, 16) for key in told.get("held_out", "").split()}
    asked = Asked(
        settings.dataset,
        dataset_split=settings.dataset_split,
        columns=settings.columns,
        max_samples=settings.max_samples,
        seed=settings.seed,
        base_dir=config.base_dir,
    )
    with cache_alone():  # an evaluation downloads no training data
        rows = plain_rows(asked)
    if settings.eval_dataset is None and held_out:
        rows = [row for row in rows if prompt_key(row[1]) not in held_out]
    return rows


def _runs(asked: Named) -> Iterator[Path]:
    """The run of a model, that which it began with, and so on; and the reward models' of each."""
    todo, done = [asked.run], set[Path]()
    while todo:
        run = todo.pop(0)
        if run is None or run in done:
            continue
        done.add(run)
        yield run
        config = RunDir(run).read_json(files.CONFIG) or {}
        judges = config.get("reward_model") or []
        judges = judges if isinstance(judges, list) else [judges]
        names = [j.get("name") if isinstance(j, Mapping) else j for j in judges]
        for name in (config.get("model_name"), *names):
            try:
                todo.append(named(str(name)).run)
            except UserError:  # its folder is gone
                continue


def rows_seen(told: Sequence[Mapping[str, Any]], *, runs: bool = False) -> list[int]:
    """The numbers of all rows that were trained on somewhere.

    Args:
        told: What `trained_on` gave.
        runs: Whether a run of words in common counts.
    """
    return sorted(
        {
            number
            for each in told
            for kind, numbers in each.get("shared", {}).items()
            if runs or kind != RUN
            for number in numbers
        }
    )


def told(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The same in words, a line for each run."""
    lines = []
    for each in found:
        if "why" in each:
            continue  # it was said when it was found
        kinds = ", ".join(f"{len(rows)} × {kind}" for kind, rows in each["shared"].items())
        rows = f"{each['rows']:,} training rows of {each['run']}"
        lines.append(f"shared with the {rows}: {kinds or 'none found'}")
    return lines
