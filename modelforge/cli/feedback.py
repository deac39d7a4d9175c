"""`modelforge feedback`: what people say of answers, counted, written as rows, and carried over."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from modelforge.cli.options import AsJson, print_json, working
from modelforge.errors import DataError, Problem, RunError, did_you_mean

Store = Annotated[
    Path,
    typer.Argument(help="That `modelforge collect` or `modelforge serve` wrote.", metavar="DB"),
]
Careless = Annotated[
    str,
    typer.Option("--careless", help="Annotators found careless: keep, drop, or weigh all."),
]
_KINDS = ("preference", "labelled", "demonstration")


def feedback_export(
    file: Store,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the rows go.")] = Path(
        "preferences.jsonl"
    ),
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            "--for",
            help="preference, labelled or demonstration; or the strategy they are for: dpo, "
            "reward, rlhf, kto, sft.",
        ),
    ] = "preference",
    conflicts: Annotated[
        str, typer.Option("--conflicts", help="Votes against each other: vote, or leave-out.")
    ] = "vote",
    careless: Careless = "keep",
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="Write all votes for argilla, label-studio or arena."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write feedback as rows that `modelforge train` takes, or as votes for another tool."""
    with working(as_json=as_json):
        if output.resolve() == file.resolve():
            what, fix = "is the feedback itself", "name another file"
            raise RunError(Problem(f"--output {output}", what, fix))
        if layout is not None:
            if (kind, conflicts, careless) != ("preference", "vote", "keep"):
                what = "writes every vote: --kind, --conflicts and --careless have no effect"
                raise RunError(Problem(f"--layout {layout}", what, "leave them out"))
            told = _votes_out(file, output, layout)
        else:
            told = _rows_out(file, output, _kind(kind), conflicts, careless)
    if as_json:
        print_json({**told, "file": str(output)})


def _rows_out(file: Path, output: Path, kind: str, conflicts: str, careless: str) -> dict[str, Any]:
    from modelforge.common.console import say
    from modelforge.feedback.export import export

    found = export(file, kind, conflicts=conflicts, careless=careless)
    if not found.rows:
        what = f"holds {found.ratings} ratings and {found.votes} votes, of which no {kind} row "
        what += "can be made"
        fix = "write better answers" if kind == "demonstration" else "judge more answers"
        raise DataError(Problem(str(file), what, fix))
    write_rows(output, found.rows)
    beside = output.with_suffix(".left-out.jsonl")
    if found.left_out:
        write_rows(beside, found.left_out)
    else:
        beside.unlink(missing_ok=True)  # of an export before this one
    say(f"{len(found.rows)} {kind} rows of {found.ratings} ratings and {found.votes} votes "
        f"in {output}")  # fmt: skip
    for name in found.dropped:
        say(f"left out all of {name}")
    for why, count in found.reasons().items():
        say(f"left out {count}: {why} ({beside})")
    return {"rows": len(found.rows), "ratings": found.ratings, "votes": found.votes,
            "left_out": found.reasons(), "dropped": found.dropped}  # fmt: skip


def _votes_out(file: Path, output: Path, name: str) -> dict[str, Any]:
    from modelforge.common.console import say
    from modelforge.feedback.collected import open_collected
    from modelforge.feedback.layouts import layout

    write, _ = layout(name)
    store = open_collected(file)
    votes = []
    if store is not None:
        with closing(store):
            votes = store.votes()
    if not votes:
        fix = "collect some with `modelforge collect`; ratings have no place in this layout"
        raise DataError(Problem(str(file), "holds no votes", fix))
    records = write(votes)
    write_rows(output, records, lines=output.suffix != ".json")
    say(f"{len(votes)} votes as {len(records)} records of {name} in {output}")
    return {"votes": len(votes), "records": len(records)}


def feedback_import(
    file: Annotated[Path, typer.Argument(help="Where the votes go; it may hold some.")],
    source: Annotated[
        Path, typer.Argument(help="JSON or JSON Lines of Argilla, Label Studio or the arena.")
    ],
    layout: Annotated[
        str | None,
        typer.Option("--layout", help="argilla, label-studio or arena; by default recognised."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Take in the votes that another tool collected."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.feedback.collected import Collected
        from modelforge.feedback.layouts import layout as layout_of
        from modelforge.feedback.layouts import recognised, votes_of
        from modelforge.feedback.responses import records_of

        records = records_of(source)
        name = layout or recognised(records[0])
        if name is None:
            fix = "say it with --layout: argilla, label-studio or arena"
            raise DataError(Problem(str(source), "is in no layout that is recognised", fix))
        votes = votes_of(records, layout_of(name)[1], source)
        with closing(Collected(file)) as store:
            new = store.keep(votes)
        say(f"{len(votes)} votes of {len(records)} records of {name}; {new} are new in {file}")
    if as_json:
        print_json({"layout": name, "records": len(records), "votes": len(votes), "new": new})


def feedback_stats(file: Store, as_json: AsJson = False) -> None:
    """Say who wins, how far annotators agree, and what each of them does."""
    with working(as_json=as_json):
        from modelforge.feedback.collected import open_collected
        from modelforge.feedback.stats import stats
        from modelforge.feedback.store import read

        store = open_collected(file)
        if store is None:
            ratings = list(read(file))
            found: dict[str, Any] = {"votes": 0}
        else:
            with closing(store):
                found = stats(store.votes(), store.texts())
            ratings = list(read(file, none_is_fine=True))
        found["ratings"] = {
            "up": sum(r.rating == "up" for r in ratings),
            "down": sum(r.rating == "down" for r in ratings),
            "better": sum(r.better is not None for r in ratings),
        }
        _show(found)
    if as_json:
        print_json(found)


def _show(found: Mapping[str, Any]) -> None:
    from modelforge.common.console import headline, say, show_table
    from modelforge.feedback.stats import told

    rated = found["ratings"]
    if any(rated.values()):
        say(f"ratings: {rated['up']} up, {rated['down']} down, {rated['better']} better answers")
    if not found["votes"]:
        return say("no votes yet")
    say(f"{found['votes']} votes on {found['prompts']} prompts, {found['skips']} skipped")
    for contest in found["contests"]:
        say(told(contest))
    for name, (value, low, high) in found["strengths"].items():
        say(f"strength of {name}: {value:+.2f} [{low:+.2f}, {high:+.2f}] log odds")
    same = found["agreement"]
    headline("Agreement (1 is full, 0 is chance)")
    say(f"{same['twice']} pairs were judged by two or more")
    if same["twice"]:
        say(f"Krippendorff's alpha: {same['alpha_nominal']:.3f} (nominal), "
            f"{same['alpha_ordinal']:.3f} (ordinal)")  # fmt: skip
        say(f"Fleiss' kappa: {same['fleiss']:.3f} of {same['fleiss_units']} pairs")
        for each in same["cohen"]:
            first, second = each["annotators"]
            say(f"Cohen's kappa of {first} and {second}: {each['kappa']:.3f} of {each['units']}")
    headline("Annotators")
    titles = ("", "votes", "skips", "takes first", "takes longer", "median", "hurried", "circles",
              "agrees", "right, estimated")  # fmt: skip
    rows = [
        (a["name"], a["votes"], a["skips"], f"{a['left']:.0%}", f"{a['longer']:.0%}",
         f"{a['seconds']:.1f} s", f"{a['hurried']:.0%}", a["contradictions"],
         f"{a['agrees']:.0%} of {a['shared']}", f"{a['accuracy']:.0%}")
        for a in found["annotators"]
    ]  # fmt: skip
    show_table(
        titles, [[str(c).replace("nan%", "–").replace("nan s", "–") for c in r] for r in rows]
    )
    for each in found["annotators"]:
        for problem in each["problems"]:
            say(f"careless: {each['name']} {problem}")


def _kind(said: str) -> str:
    """The kind of row, by its name or that of the strategy that it is for.

    Raises:
        RunError: If there is none.
    """
    from modelforge.registry import get_strategy, list_strategies

    if said in _KINDS:
        return said
    known = [n for n in list_strategies() if get_strategy(n).data_kind in _KINDS]
    if said in known:
        return get_strategy(said).data_kind
    raise RunError(
        Problem(f"--kind {said}", "is no kind of row", did_you_mean(said, [*_KINDS, *known]))
    )


def write_rows(output: Path, rows: list[dict[str, Any]], *, lines: bool = True) -> None:
    """Write rows as JSON Lines, or as one JSON list."""
    import json

    from modelforge.common.files import write_whole, writing

    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "".join(f"{each}\n" for each in texts)
    with writing(output, "name another place with --output"):
        write_whole(
            output, text if lines else json.dumps(rows, ensure_ascii=False, indent=1) + "\n"
        )
