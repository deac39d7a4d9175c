"""`modelforge feedback pairs`: pairs that a machine makes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelforge.cli.judge import JudgeModel
from modelforge.cli.options import AsJson, print_json, working
from modelforge.cli.use import Model, NewTokens, Seed
from modelforge.errors import ConfigError, DataError, ModelError, Problem

if TYPE_CHECKING:
    from modelforge.constraints import Constraints
    from modelforge.feedback.machine import Scorer

Prompts = Annotated[str, typer.Option("--prompts", help="A data file, or a .txt, one a line.")]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="The pairs; every step lies beside them.")
]
By = Annotated[
    str | None, typer.Option("--by", help="A reward model: best and worst of several answers.")
]
Judge = Annotated[
    str | None, typer.Option("--judge", help="The same by a judge; it needs --audit.")
]
Audit = Annotated[
    str | None, typer.Option("--audit", help="Pairs that people have judged, for --judge.")
]
Principles = Annotated[
    Path | None,
    typer.Option("--principles", help="JSON; the model criticises and rewrites its answers."),
]
Constrained = Annotated[
    Path | None,
    typer.Option("--constraints", help="A JSON file of constraints; fewest broken is best."),
]
Rounds = Annotated[
    int | None,
    typer.Option("--rounds", help="How often an answer is revised; once by default.", min=1),
]
Num = Annotated[
    int | None,
    typer.Option("--num", help="Answers to a prompt that are compared; 4 by default.", min=2),
]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", help="By default 0.8 for several answers, else 0."),
]
_DRAWN = 0.8  # temperature of several answers, where none is said
Batch = Annotated[int, typer.Option("--batch-size", help="Prompts answered at once.", min=1)]


def feedback_pairs(
    model: Model,
    prompts: Prompts,
    output: Output = Path("pairs.jsonl"),
    by: By = None,
    judge: Judge = None,
    judge_model: JudgeModel = None,
    audit: Audit = None,
    principles: Principles = None,
    constraints: Constrained = None,
    rounds: Rounds = None,
    num: Num = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = None,
    seed: Seed = 42,
    batch_size: Batch = 8,
    as_json: AsJson = False,
) -> None:
    """Make pairs without people: best and worst of several answers, or critique and revision."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.constraints.principles import read_principles
        from modelforge.feedback.machine import best_and_worst, revised
        from modelforge.inference.answers import Sampling

        _refuse(by, judge, judge_model, audit, principles, constraints)
        unused = ("--num", num) if principles is not None else ("--rounds", rounds)
        if unused[1] is not None:
            ways = "--by, --judge or --constraints" if principles is not None else "--principles"
            raise ConfigError(Problem(unused[0], f"has no effect without {ways}", "leave it out"))
        _refuse_over(output, prompts, audit, principles, constraints)
        folder = output.with_suffix(".files")
        if temperature is None:
            temperature = 0.0 if principles is not None else _DRAWN
        sampling = Sampling(max_new_tokens, temperature, seed=seed)
        if principles is not None:
            held_to = read_principles(principles)
            made = revised(model, prompts, folder, held_to, rounds=rounds or 1, sampling=sampling,
                           batch_size=batch_size)  # fmt: skip
        else:
            rules = None if constraints is None else _rules(constraints)
            named = by or " ".join(filter(None, (judge, judge_model))) or _called(rules)
            scorer = partial(_scorer, by, judge, judge_model, audit, rules)
            made = best_and_worst(model, prompts, folder, scorer, named=named, num=num or 4,
                                  sampling=sampling, batch_size=batch_size)  # fmt: skip
        told = "; ".join(f"{n} without: {why}" for why, n in made.left_out.items())
        if not made.rows:
            raise DataError(Problem(prompts, f"gave no pair ({told})", "ask other prompts"))
        from modelforge.cli.feedback import write_rows

        write_rows(output, made.rows)
        say(f"{len(made.rows)} pairs in {output}, every step in {folder}" + (told and f"; {told}"))
    if as_json:
        print_json({"pairs": len(made.rows), "left_out": made.left_out, "file": str(output)})


def _rules(path: Path) -> Constraints:
    """The constraints of a file.

    Raises:
        UserError: If something is wrong with them, or none is on answers.
    """
    from modelforge.constraints import Constraints

    rules = Constraints(path)
    if not any(each.on_output for each in rules.each):
        what, fix = "holds no constraint on answers", "set on to output or both"
        raise ConfigError(Problem(f"--constraints {path}", what, fix))
    return rules


def _refuse_over(output: Path, *read: str | Path | None) -> None:
    """See that what is written takes the place of nothing that is read.

    Raises:
        ConfigError: If it does.
    """
    if output.exists() and any(f and Path(f).exists() and output.samefile(f) for f in read):
        what = "is a file that this command reads"
        raise ConfigError(Problem(f"--output {output}", what, "name another file"))


def _called(rules: Constraints | None) -> str:
    """What tells constraints from others, and from the same ones with other models."""
    from modelforge.common.files import digest
    from modelforge.evaluation.opened import constraints_key

    return digest(constraints_key(rules)) if rules else ""


def _scorer(
    by: str | None,
    judge: str | None,
    model: str | None,
    audit: str | None,
    rules: Constraints | None,
) -> Scorer:
    from modelforge.feedback.machine import by_constraints, by_judge, by_reward_model

    if rules is not None:
        return by_constraints(rules)
    if by is not None:
        return by_reward_model(by)
    return by_judge(str(judge), model=model, audit=str(audit))


def _refuse(
    by: str | None,
    judge: str | None,
    model: str | None,
    audit: str | None,
    principles: Path | None,
    constraints: Path | None,
) -> None:
    """See that one way to make pairs is asked for.

    Raises:
        UserError: If none or several are, a judge is not audited, or a folder scores nothing.
    """
    from modelforge.rewards.folder import folder_problem

    ways = {
        "--by": by,
        "--judge": judge,
        "--principles": principles,
        "--constraints": constraints,
    }
    said = [name for name, value in ways.items() if value is not None]
    if len(said) != 1:
        what = f"{' and '.join(said)} are given" if said else "no way to make pairs is given"
        fix = "say one of --by REWARD_MODEL, --judge JUDGE, --principles FILE, --constraints FILE"
        raise ConfigError(Problem("feedback pairs", what, fix))
    if by is not None and Path(by).is_dir() and (what := folder_problem(Path(by))):
        raise ModelError(Problem(f"--by {by}", what, "name the run of a reward model"))
    if judge is not None and audit is None:
        what, fix = "is not known to be worth trusting", "say --audit PAIRS that people have judged"
        raise ConfigError(Problem(f"--judge {judge}", what, fix))
    for option, value in (("--audit", audit), ("--judge-model", model)):
        if judge is None and value is not None:
            raise ConfigError(Problem(option, "has no effect without --judge", "leave it out"))
