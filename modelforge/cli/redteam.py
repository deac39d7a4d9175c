"""`modelforge redteam`: a model under attack."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelforge.cli.judge import JudgeModel
from modelforge.cli.options import AsJson, print_json, working
from modelforge.cli.use import HeldTo, NewTokens, Seed, System
from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from modelforge.safety.redteam import Options

_WORST = 3  # requests named of those that most attacks get through with

Model = Annotated[
    str | None, typer.Argument(help="A run's or a model's folder, or a hub id.", show_default=False)
]
Prompts = Annotated[
    str, typer.Option("--prompts", help="builtin, or a file of requests (AdvBench, XSTest, …).")
]
Attacks = Annotated[
    list[str] | None,
    typer.Option("--attacks", help="Names or file.py:function, comma-separated; by default all."),
]
Out = Annotated[
    Path, typer.Option("-o", "--out", "--output", help="A folder for answers and figures.")
]
Against = Annotated[
    str | None,
    typer.Option("--against", help="A model to compare with; start: the one it began from."),
]
Judge = Annotated[
    str | None, typer.Option("--judge", help="A model, URL or file.py:function; it is audited.")
]
Classifier = Annotated[
    str | None, typer.Option("--classifier", help="A classifier of refusals or of harm.")
]
Label = Annotated[str | None, typer.Option("--label", help="Which label of --classifier counts.")]
Labelled = Annotated[
    str, typer.Option("--labelled", help="Answers labelled by hand, to try the judge on.")
]
Samples = Annotated[int, typer.Option("--samples", help="Answers to each attack.", min=1)]
Limit = Annotated[
    int | None,
    typer.Option("--limit", "--num-samples", help="The most requests of each kind.", min=1),
]
Chosen = Annotated[
    str | None,
    typer.Option("--chosen", help="Write pairs.jsonl; chosen from: own, against or stated."),
]
Refusal = Annotated[
    str | None, typer.Option("--refusal", help="The chosen answer of --chosen stated.")
]
Record = Annotated[
    Path | None,
    typer.Option("--import", help="Judge a report of garak or an export of PyRIT instead."),
]


def redteam(
    model: Model = None,
    prompts: Prompts = "builtin",
    harmless: Annotated[
        bool, typer.Option("--harmless", help="Requests without a label are harmless ones.")
    ] = False,
    attacks: Attacks = None,
    against: Against = None,
    judge: Judge = None,
    judge_model: JudgeModel = None,
    classifier: Classifier = None,
    label: Label = None,
    labelled: Labelled = "builtin",
    samples: Samples = 1,
    limit: Limit = None,
    chosen: Chosen = None,
    refusal: Refusal = None,
    record: Record = None,
    max_new_tokens: NewTokens = 128,
    temperature: Annotated[
        float, typer.Option("--temperature", help="0 takes the likeliest token each time.")
    ] = 0.0,
    seed: Seed = 42,
    system: System = None,
    constraints: HeldTo = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Answers at once.", min=1)] = 8,
    out: Out = Path("redteam"),
    as_json: AsJson = False,
) -> None:
    """Attack a model, and say what gets through. The same command again goes on."""
    with working(as_json=as_json):
        from modelforge.inference.answers import Sampling
        from modelforge.safety.redteam import Options, imported
        from modelforge.safety.redteam import redteam as attack

        names = [name.strip() for each in attacks or () for name in each.split(",")]
        options = Options(
            prompts=prompts, attacks=tuple(filter(None, names)), limit=limit, samples=samples,
            harmless=harmless,
            sampling=Sampling(max_new_tokens, temperature, seed=seed), system=system,
            constraints=constraints,
            batch_size=batch_size, judge=judge, judge_model=judge_model, classifier=classifier,
            label=label, labelled=labelled, refusal=refusal,
            chosen="stated" if chosen is None and refusal is not None else chosen,
        )  # fmt: skip
        _refuse(model, record, against, options)
        if record is not None:
            found = imported(record, options, out)
        else:
            found = attack(str(model), options, out, against=against)
    show(found, out)
    if as_json:
        print_json(found)


def _refuse(model: str | None, record: Path | None, against: str | None, options: Options) -> None:
    """See that there is one thing to judge, and no option that it takes no notice of.

    Raises:
        ConfigError: If there is none or two, or an option has no effect.
    """
    from modelforge.safety.redteam import Options

    if (model is None) == (record is None):
        what = "names neither a model nor a record" if model is None else f"{model} is given too"
        where = "redteam" if model is None else "--import"
        fix = "say `redteam MODEL`, or `redteam --import FILE`"
        raise ConfigError(Problem(where, what, fix))
    if record is None:
        return
    plain = Options()
    said = [name for name in ("prompts", "harmless", "attacks", "limit", "samples", "system",
                              "constraints")
            if getattr(options, name) != getattr(plain, name)]  # fmt: skip
    said += ["against"] if against is not None else []
    said += ["batch-size"] if options.batch_size != plain.batch_size else []
    drawn = inspect.signature(redteam).parameters
    said += [name.replace("_", "-") for name in ("max_new_tokens", "temperature", "seed")
             if getattr(options.sampling, name) != drawn[name].default]  # fmt: skip
    if said:
        names = ", ".join(f"--{name}" for name in said)
        verb, they = ("have", "they are") if len(said) > 1 else ("has", "it is")
        what = f"{verb} no effect beside --import: {they} recorded"
        raise ConfigError(Problem(names, what, "leave it out"))


def show(told: Mapping[str, Any], out: Path) -> None:
    """The figures, worst first what gets through most."""
    from modelforge.common.console import headline, say, show_table
    from modelforge.safety.page import TITLES, change_lines, headlines, table

    headline(f"{told['model']} under attack")
    for line in headlines(told):
        say(line)
    for title, key in (("attack", "by_attack"), ("category", "by_category")):
        parts = told["figures"][key]
        if len(parts) > 1:
            show_table((title, *TITLES[1:]), table(parts))
    for each in told["worst"][:_WORST]:
        say(f"worst: {each['prompt'][:70]} ({', '.join(each['attacks'])})")
    if told["against"]:
        headline(f"Against {told['against']}")
        for line in change_lines(told):
            say(line)
    if "pairs" in told:
        made = told["pairs"]
        missing = "".join(f"; {n} failures have none: {why}" for why, n in made["left_out"].items())
        say(f"{made['rows']} pairs, chosen from {made['chosen_from']}{missing}")
    say(f"the page: {out / 'report.md'}")
