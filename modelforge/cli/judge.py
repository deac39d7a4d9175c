"""`modelforge judge audit`: whether a judge of answers can be trusted."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import headline, say

JudgeModel = Annotated[
    str | None, typer.Option("--judge-model", help="The model's name at an endpoint.")
]


def audit(
    judge: Annotated[
        str,
        typer.Argument(
            help="A model, an OpenAI-compatible URL, or file.py:function.", show_default=False
        ),
    ],
    data: Annotated[str, typer.Option("--data", help="Pairs that people have judged.")],
    judge_model: JudgeModel = None,
    limit: Annotated[
        int | None, typer.Option("--num-samples", "--limit", help="The most pairs.", min=4)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a judge about pairs in both orders; exit 1 where it cannot be trusted."""
    with working(as_json=as_json):
        from modelforge.evaluation import judge as judges

        pairs = judges.read_pairs(data, limit=limit)
        opened = judges.open_judge(judge, model=judge_model)
        found = judges.audit(opened, pairs, name=judge)
    headline("Audit: passed" if found.passed else "Audit: not to be trusted")
    rows = (
        ("agrees with people", found.agreement, found.agreement_interval),
        ("the same at equal length", found.at_equal_length, found.at_equal_length_interval),
        ("one verdict in both orders", found.consistency, found.consistency_interval),
        ("takes the first answer", found.first, found.first_interval),
    )
    for label, value, (low, high) in rows:
        say(f"{label}: {value:.1%} (95 % interval {low:.1%} to {high:.1%} of {found.rows} pairs)")
    say(f"takes the longer answer: {found.longer:.1%}; people do: {found.people_longer:.1%}")
    say(f"cost: {found.seconds:.1f} s, {found.characters:,} characters read")
    for problem in found.problems:
        say(f"not to be trusted: {problem}")
    if as_json:
        print_json(found.to_dict())
    if not found.passed:
        sys.exit(1)
