"""`modelforge compare`: models held together on the same rows, and a gate for CI."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from modelforge.cli.asking import asking, options_of, refuse_beside_kept
from modelforge.cli.evaluate import as_plain, show_seen
from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import headline, say, show_table
from modelforge.common.files import write_whole, writing
from modelforge.errors import ConfigError, DataError, Problem

if TYPE_CHECKING:
    from modelforge.evaluation.compare import Verdict
    from modelforge.evaluation.kept import Evaluation
    from modelforge.evaluation.options import Options

JudgeName = Annotated[
    str | None,
    typer.Option("--judge", help="Who says which answer wins: a model, a URL, file.py:function."),
]
JudgeModel = Annotated[str | None, typer.Option("--judge-model", help="Its name at a URL.")]
JudgeData = Annotated[
    str | None,
    typer.Option("--judge-data", help="Pairs that the judge is audited on; by default --data."),
]
AgainstData = Annotated[
    bool,
    typer.Option("--against-data", help="Hold each model against the data's own answers too."),
]


class Who(NamedTuple):
    """Who judges, on what, and whether the data's own answers compete."""

    judge: str | None
    model: str | None
    pairs: str | None
    against_data: bool


@asking
def compare(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="NAME=MODEL, or NAME=FOLDER of kept rows; the others are held against the first.",
            show_default=False,
        ),
    ] = None,
    reference_model: Annotated[
        str | None, typer.Option("--reference-model", help="The first model, under the name base.")
    ] = None,
    ppo_model: Annotated[
        str | None, typer.Option("--ppo-model", help="A model under the name ppo.")
    ] = None,
    grpo_model: Annotated[
        str | None, typer.Option("--grpo-model", help="A model under the name grpo.")
    ] = None,
    dpo_model: Annotated[
        str | None, typer.Option("--dpo-model", help="A model under the name dpo.")
    ] = None,
    gate: Annotated[
        bool, typer.Option("--gate", help="Exit 0 not worse, 1 worse, 3 too few rows to tell.")
    ] = False,
    margin: Annotated[
        float | None, typer.Option("--margin", help="What may be lost, for --gate: 0.02.", min=0)
    ] = None,
    needs: Annotated[
        float | None, typer.Option("--needs", help="Say how many rows find this difference.")
    ] = None,
    judge: JudgeName = None,
    judge_model: JudgeModel = None,
    judge_data: JudgeData = None,
    against_data: AgainstData = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write verdicts, figures and rows to this page.")
    ] = None,
    as_json: AsJson = False,
    **asked: Any,
) -> None:
    """Compare models on the same rows, and say what is better, worse and not distinguishable."""
    roles = {"base": reference_model, "ppo": ppo_model, "grpo": grpo_model, "dpo": dpo_model}
    with working(as_json=as_json):
        told = _compared(
            _pairs(models or (), roles, alone=against_data and not gate),
            options_of(**asked),
            gate=gate,
            margin=margin,
            needs=needs,
            who=Who(judge, judge_model, judge_data, against_data),
            html=html,
        )
    if as_json:
        print_json(told)
    code = told.get("gate", {}).get("code", 0)
    if code:
        sys.exit(code)


def _compared(
    pairs: Sequence[tuple[str, str]],
    options: Options,
    *,
    gate: bool,
    margin: float | None,
    needs: float | None,
    who: Who,
    html: Path | None,
) -> dict[str, Any]:
    """Compare, show, and give what ``--json`` prints.

    Raises:
        UserError: If options contradict each other, or a model or the data cannot be used.
    """
    if margin is not None and not gate:
        raise ConfigError(Problem("--margin", "has no effect", "add --gate, or leave it out"))
    if who.against_data:
        from modelforge.evaluation.contest import DATA

        if any(name == DATA for name, _ in pairs):
            what = "is what the data's own answers are called"
            raise ConfigError(Problem(DATA, what, "name the model otherwise"))
    if needs is not None and needs <= 0:
        raise ConfigError(Problem("--needs", f"is {needs}", "set a difference above 0"))
    ask = _judge(who, options.data)
    found, verdicts = run_compare(pairs, options, by=options.by)
    _show_compared(found, verdicts)
    told: dict[str, Any] = {
        "baseline": found[0].model,
        "models": [as_plain(each, {}) for each in found],
        "verdicts": [verdict.to_dict() for verdict in verdicts],
    }
    if needs is not None:
        told["needs"] = _show_needs(verdicts, needs)
    if ask is not None:
        told["judge"] = _show_contests(ask, found, against_data=who.against_data)
    if gate:
        told["gate"] = vars(_gate(verdicts, 0.02 if margin is None else margin))
    if html is not None:
        _write_page(html, found, verdicts, told)
    return told


def _write_page(
    target: Path, found: Sequence[Evaluation], verdicts: Sequence[Verdict], told: dict[str, Any]
) -> None:
    """Write the page of a comparison.

    Raises:
        RunError: If it cannot be written.
    """
    from modelforge.evaluation.compare_page import compare_page

    notes = [*told.get("judge", {}).get("told", ()), *told.get("gate", {}).get("told", ())]
    with writing(target, "name another with --html"):
        write_whole(target, compare_page(found, verdicts, notes=notes))
    say(f"wrote {target}")


def _judge(who: Who, data: str) -> Any:
    """The judge, which has passed its audit; None where none is asked for.

    Raises:
        UserError: If there is none, or it cannot be trusted.
    """
    name, model, pairs, against_data = who
    if name is None:
        idle = {"--judge-model": model, "--judge-data": pairs, "--against-data": against_data}
        for option, said in idle.items():
            if said:
                raise ConfigError(Problem(option, "has no effect", "add --judge"))
        return None
    from modelforge.evaluation import judge as judges

    try:
        known = judges.read_pairs(pairs or data)
    except DataError as error:
        if pairs is not None:
            raise
        fix = "name pairs that people have judged"
        why = Problem("--judge-data", "is not said, so that the judge is audited on --data", fix)
        raise DataError(*error.problems, why) from None
    opened = judges.open_judge(name, model=model)
    audited = judges.audit(opened, known, name=name)
    if not audited.passed:
        what = f"awards no win rate: {'; '.join(audited.problems)}"
        raise ConfigError(Problem(f"--judge {name}", what, "take another judge"))
    say(f"the judge agrees with people in {audited.agreement:.1%} of {audited.rows} pairs")
    return opened


def _show_contests(
    judge: Any, found: Sequence[Evaluation], *, against_data: bool
) -> dict[str, Any]:
    from modelforge.evaluation.contest import contests, of_the_data

    told = contests(judge, [of_the_data(found[0]), *found] if against_data else found)
    headline("Before the judge")
    bare = sum(not row["target"] for row in found[0].rows) if against_data else 0
    if bare:
        say(f"{bare} of {len(found[0].rows)} rows hold no answer to compete with, and are left out")
    for line in told["told"]:
        say(line)
    for name, (value, low, high) in told["strengths"].items():
        say(f"strength of {name}: {value:+.2f} [{low:+.2f}, {high:+.2f}] log odds (Bradley–Terry)")
    return told


def run_compare(
    pairs: Sequence[tuple[str, str]], options: Options, *, by: str | None = None
) -> tuple[list[Evaluation], list[Verdict]]:
    """Evaluate models, or read what was kept, and compare each with the first.

    Args:
        pairs: (name, model), the baseline first.
        options: The same for all.
        by: A column to divide the figures by.

    Raises:
        UserError: If one of them cannot be used.
    """
    from modelforge.evaluation.compare import compare as verdicts_of
    from modelforge.evaluation.evaluate import evaluate as score
    from modelforge.evaluation.opened import Bench, named

    done = _kept(pairs, options)
    if done:
        return done, verdicts_of(done[0], done[1:], by=by)
    found = [named(said, name=name, where=name) for name, said in pairs]
    bench = Bench()
    done = [score(model, options, bench=bench) for model in found]
    return done, verdicts_of(done[0], done[1:], by=by)


def _kept(pairs: Sequence[tuple[str, str]], options: Options) -> list[Evaluation]:
    """The evaluations, where folders of kept rows are named and no models; else none.

    Raises:
        ConfigError: If both are named, or something is asked that only models can be.
    """
    from modelforge.evaluation.harness_kept import holds_rows, read_kept

    rows = [holds_rows(Path(said)) for _, said in pairs]
    if not any(rows):
        return []
    if not all(rows):
        name, said = pairs[rows.index(False)]
        what = f"{said} holds no kept rows, and {pairs[rows.index(True)][1]} does"
        raise ConfigError(Problem(name, what, "name models alone, or folders of kept rows alone"))
    refuse_beside_kept(options)
    return [replace(read_kept(Path(said), name), model=name) for name, said in pairs]


def _pairs(
    given: Sequence[str], roles: dict[str, str | None], *, alone: bool
) -> list[tuple[str, str]]:
    """The models under their names, the baseline first.

    Args:
        given: ``name=model``, or a model.
        roles: Name → model, or None.
        alone: Whether one model is enough: it competes with the data's own answers.

    Raises:
        ConfigError: If there are too few, or two of one name.
    """
    pairs = [(name, said) for name, said in roles.items() if said is not None]
    for text in given:
        name, sign, said = text.partition("=")
        pairs.append((name, said) if sign and said else (Path(text).name or text, text))
    names = [name for name, _ in pairs]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        fix = "name them, such as first=… second=…"
        raise ConfigError(Problem("compare", f"two models are called '{double}'", fix))
    if len(pairs) < (1 if alone else 2):
        what = f"two models or more are compared, and {len(pairs)} named"
        raise ConfigError(Problem("compare", what, "such as base=MODEL tuned=runs/…"))
    return pairs


def _show_compared(found: Sequence[Evaluation], verdicts: Sequence[Verdict]) -> None:
    from modelforge.evaluation.compare import lines

    headline(f"{len(found[0].rows)} rows of {found[0].task}")
    names = list(found[0].metrics)
    rows = [(name, *(_cell(each, name) for each in found)) for name in names]
    show_table(("measure", *(each.model for each in found)), rows)
    for each in found:
        show_seen(each)
    for line in lines(verdicts, found[0].model):
        say(line)


def _cell(found: Evaluation, name: str) -> str:
    if name not in found.metrics:
        return "–"
    low, high = found.intervals[name]
    interval = f" [{low:.3g}, {high:.3g}]" if low == low else ""
    return f"{found.metrics[name]:.4g}{interval}"


def _show_needs(verdicts: Sequence[Verdict], effect: float) -> list[dict[str, Any]]:
    """How many rows find a difference of this size in each measure, and what these rows find."""
    from modelforge.evaluation.statistics import rows_needed, smallest_effect

    told = []
    for verdict in verdicts:
        if verdict.part or not verdict.metric.primary or not verdict.change.spread > 0:
            continue
        spread, rows = verdict.change.spread, verdict.change.rows
        needed, least = rows_needed(spread, effect), smallest_effect(spread, rows)
        told.append(
            {"model": verdict.model, "metric": verdict.metric.name, "rows": needed,
             "found_with_these": least}
        )  # fmt: skip
        say(
            f"{verdict.model}, {verdict.metric.label}: {needed:,} rows find a difference of "
            f"{effect:g} in 80 % of cases; these {rows} find {least:.3g}"
        )
    return told


def _gate(verdicts: Sequence[Verdict], margin: float) -> Any:
    from modelforge.evaluation.compare import gate

    passed = gate(verdicts, margin)
    headline({0: "Gate: not worse", 1: "Gate: worse", 3: "Gate: too few rows"}[passed.code])
    for line in passed.told:
        say(line)
    return passed
