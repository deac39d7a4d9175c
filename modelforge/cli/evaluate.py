"""`modelforge evaluate`: a model measured on a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelforge.cli.asking import asking, options_of
from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import headline, say, show_table, warn

if TYPE_CHECKING:
    from modelforge.evaluation.kept import Evaluation

Start = Annotated[
    str | None, typer.Option("--start", help="The model that it began from, for kl and entropy.")
]


@asking
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run's or a model's folder, or a hub id.", show_default=False)
    ],
    start: Start = None,
    as_json: AsJson = False,
    **asked: Any,
) -> None:
    """Score each row of a file by a model, and keep it. The same command again goes on."""
    with working(as_json=as_json):
        from modelforge.evaluation.evaluate import evaluate as score

        options = options_of(start=start, **asked)
        found = score(model, options)
        sliced = _slices(found, options.by)
    show(found, sliced)
    if as_json:
        print_json(as_plain(found, sliced))


def _slices(found: Evaluation, by: str | None) -> dict[str, dict[str, Any]]:
    from modelforge.evaluation.slices import slices

    return {} if by is None else slices(found, by)


def as_plain(found: Evaluation, sliced: dict[str, Any]) -> dict[str, Any]:
    from modelforge.evaluation.slices import without_seen

    intervals = {name: list(pair) for name, pair in found.intervals.items()}
    told = {
        "model": found.model,
        "folder": str(found.folder),
        "rows": len(found.rows),
        "metrics": dict(found.metrics),
        "intervals": intervals,
        "baselines": dict(found.baselines),
        "trained_on": list(found.seen),
    }
    clean = without_seen(found)
    told |= {"without_trained_on": clean} if clean else {}
    return told | ({"slices": sliced} if sliced else {})


def show(found: Evaluation, sliced: dict[str, dict[str, Any]]) -> None:
    """The figures with their intervals."""
    headline(f"{found.model} on {len(found.rows)} rows of {found.task}")
    rows = [
        (name, f"{value:.4g}", _interval(found.intervals[name]), _unit(found, name))
        for name, value in found.metrics.items()
    ]
    rows += [
        (f"  {name}", f"{value:.4g}", "", "of pairs") for name, value in found.baselines.items()
    ]
    show_table(("measure", "", "95 % interval", "unit"), rows)
    for part, figures in sliced.items():
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures["metrics"].items())
        say(f"{part} ({figures['rows']} rows): {told}")
    show_seen(found)
    say(f"kept: {found.folder}")


def show_seen(found: Evaluation) -> None:
    """Which rows the model was trained on, and the figures without them."""
    from modelforge.evaluation.seen import rows_seen, told
    from modelforge.evaluation.slices import without_seen

    for line in told(found.seen):
        say(line)
    count = len(rows_seen(found.seen))
    if count:
        warn(f"{found.model} was trained on {count} of {len(found.rows)} rows: its figures flatter")
    clean = without_seen(found)
    if clean.get("rows"):
        figures = ", ".join(f"{name} {value:.4g}" for name, value in clean["metrics"].items())
        say(f"without the {len(found.rows) - clean['rows']} rows: {figures}")


def _interval(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g} to {pair[1]:.4g}" if pair[0] == pair[0] else "too few rows"


def _unit(found: Evaluation, name: str) -> str:
    return found.table[name].unit if name in found.table else ""
