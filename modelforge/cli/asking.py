"""What `modelforge evaluate` and `modelforge compare` both ask for, as options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from modelforge.evaluation.options import Options

Data = Annotated[str, typer.Option("--data", help="A file, a folder or a hub id.")]
Metrics = Annotated[
    list[str] | None,
    typer.Option("--metrics", metavar="NAME,…", help="Measures; by default all that come free."),
]
Samples = Annotated[
    int, typer.Option("--samples", help="Answers to each prompt; above 1 they are sampled.")
]
Temperature = Annotated[
    float | None, typer.Option("--temperature", help="0 takes the likeliest token each time.")
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="The longest answer, in tokens.")]
Seed = Annotated[int, typer.Option("--seed", help="Of what is sampled.")]
Limit = Annotated[
    int | None, typer.Option("--num-samples", "--limit", help="The most rows of the data.")
]
Rewards = Annotated[
    list[str] | None,
    typer.Option("--reward", help="A reward by name or file.py:function. Repeatable."),
]
RewardModel = Annotated[
    str | None, typer.Option("--reward-model", help="A reward model that scores the answers.")
]
Classifier = Annotated[
    str | None, typer.Option("--classifier", help="A text classifier that finds toxicity.")
]
HeldTo = Annotated[
    str | None,
    typer.Option(
        "--constraints",
        help="A file of constraints whose violations are counted, or none; else the run's own.",
    ),
]
By = Annotated[str | None, typer.Option("--by", help="A column to divide the figures by.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="OURS=THEIRS", help="Name a column of the file."),
]
OutputDir = Annotated[Path, typer.Option("--output-dir", "-o", help="Where rows are kept.")]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", help="Rows at once; by default as many as fit.")
]
Contamination = Annotated[
    bool,
    typer.Option(
        "--contamination/--no-contamination", help="Say which rows the model was trained on."
    ),
]
KEPT = Path("runs/evaluate")


def _asked(
    data: Data = "",
    metrics: Metrics = None,
    samples: Samples = 1,
    temperature: Temperature = None,
    max_new_tokens: NewTokens = 128,
    seed: Seed = 0,
    limit: Limit = None,
    reward: Rewards = None,
    reward_model: RewardModel = None,
    classifier: Classifier = None,
    constraints: HeldTo = None,
    by: By = None,
    column: Columns = None,
    output_dir: OutputDir = KEPT,
    batch_size: BatchSize = None,
    contamination: Contamination = True,
) -> None:
    """What both commands ask for."""


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `_asked` for its ``**asked``, behind its argument."""
    own, shared = (inspect.signature(each, eval_str=True) for each in (command, _asked))
    argument, *options, _ = own.parameters.values()
    told = [p.replace(kind=p.KEYWORD_ONLY) for p in (*shared.parameters.values(), *options)]
    vars(command)["__signature__"] = own.replace(parameters=[argument, *told])
    return command


def options_of(**given: Any) -> Options:
    """The options of the command line.

    Raises:
        ConfigError: If a column is not named as it should be.
    """
    from modelforge.evaluation.options import Options

    names = given.pop("metrics")
    listed = None if names is None else tuple(n.strip() for each in names for n in each.split(","))
    columns = {}
    for text in given.pop("column") or ():
        ours, sign, theirs = text.partition("=")
        if not sign or not ours or not theirs:
            raise ConfigError(Problem(f"--column {text}", "is no OURS=THEIRS", "such as prompt=q"))
        columns[ours] = theirs
    rewards = tuple(given.pop("reward") or ())
    return Options(metrics=listed, columns=columns, rewards=rewards, **given)


# Fields of `Options` whose option has another name.
_OPTIONS = {"limit": "num_samples", "rewards": "reward", "columns": "column",
            "contamination": "no_contamination"}  # fmt: skip


def refuse_beside_kept(options: Options) -> None:
    """See that nothing is asked of rows that are kept which only models can answer.

    Raises:
        ConfigError: If something is.
    """
    plain = type(options)("")
    differ = [f.name for f in fields(options) if getattr(options, f.name) != getattr(plain, f.name)]
    asked = [_OPTIONS.get(name, name) for name in differ if name not in ("by", "output_dir")]
    if asked:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        what = f"{'have' if len(asked) > 1 else 'has'} no effect on rows that are kept"
        raise ConfigError(Problem(named, what, "leave it out, or name models"))
