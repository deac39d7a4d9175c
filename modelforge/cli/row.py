"""`modelforge row RUN N`: what happened to one row of a run's data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelforge.cli.data import show_rows
from modelforge.cli.options import AsJson, print_json, working
from modelforge.common.console import headline, say
from modelforge.errors import Problem, RunError
from modelforge.runs import files

if TYPE_CHECKING:
    from modelforge.data.shown import Shown
    from modelforge.evaluation.items import Answer

NEAR = 3  # training rows that are named as the nearest


def row(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.", show_default=False)],
    number: Annotated[
        str, typer.Argument(help="Its line; FILE:LINE of several files.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Say what happened to a row: its fate, its mask, its loss before and after, an answer."""
    with working(as_json=as_json):
        found = one_row_of(run, number)
    if as_json:
        print_json(found)


def one_row_of(folder: Path, number: str) -> dict[str, Any]:
    """Follow a row through a run, and show it.

    Args:
        folder: The run's.
        number: The row's place in its file.

    Returns:
        ``rows``: of each example that the row gave its ``row``, ``fate``, ``tokens``,
        ``supervised``, ``loss_before`` and ``loss_after`` (nats a token) and the trained model's
        ``answer``; ``nearest``: training rows with the most words in common.

    Raises:
        UserError: If there is no such run or row.
    """
    from modelforge.configfile.load import load_config
    from modelforge.data import Watched, preview
    from modelforge.data.shown import one_row
    from modelforge.runs.folder import RunDir
    from modelforge.training.read import read
    from modelforge.training.resolve import resolve

    run = RunDir(folder)
    if not run.finished or not (folder / files.CHOICES).is_file():
        fix = "run `modelforge train` to its end; of a run in stages give a stage's folder"
        raise RunError(Problem(str(folder), "holds no finished run of one stage", fix))
    resolved = resolve(load_config(folder))
    watched = Watched(number)
    rows = read(resolved, watched=watched)
    limit = resolved.strategy.max_row_tokens(resolved.config)
    shown = one_row(rows.data, watched)
    show_rows(
        shown,
        [
            preview(item.row, tokenizer=rows.tokenizer, max_length=limit) if item.row else []
            for item in shown
        ],
    )
    told = [_scored(folder, item, limit, head=resolved.strategy.head) for item in shown]
    near = _nearest(shown, rows)
    if any("loss_after" in each for each in told):
        headline("Before and after")
    for each in told:
        if "loss_after" in each:
            say(f"loss {each['loss_before']:.4g} → {each['loss_after']:.4g} nats a token")
        if "answer" in each:
            say(f"the trained model answers: {each['answer']!r}")
    if near:
        headline("Training rows most like it")
    for where, share in near:
        say(f"near: {where} ({share:.0%} of the words in common)")
    return {"rows": told, "nearest": [{"row": where, "shared": share} for where, share in near]}


def _scored(folder: Path, item: Shown, limit: int | None, *, head: str) -> dict[str, Any]:
    """A row with what both models make of it."""
    told: dict[str, Any] = {"row": item.where, "fate": item.fate}
    if item.row is None:
        return told
    answers, start = _answers(item, limit)
    told |= {"tokens": sum(len(a.ids) for a in answers)}
    told |= {"supervised": sum(label != -100 for a in answers for label in a.labels)}
    if head == "reward":
        return told
    from modelforge.evaluation.opened import Bench, load_tokenizer, named
    from modelforge.evaluation.scores import Sampling, answered, likelihoods

    bench, trained = Bench(), named(str(folder))
    tokenizer = load_tokenizer(trained)
    models = {"loss_after": trained, "loss_before": named(trained.start or trained.source.base)}
    for name, model in models.items():
        with bench.model(model) as opened:
            nats, tokens = likelihoods(opened, answers[:1], pad=tokenizer.pad_token_id)[0]
            if tokens:
                told[name] = nats / tokens
            if name == "loss_after" and start:
                prompt = answers[0].ids[:start]
                ((answer,),) = answered(opened, tokenizer, [prompt], Sampling(), limit=limit)
                told["answer"] = answer.text
    return told


def _answers(item: Shown, limit: int | None) -> tuple[list[Answer], int]:
    """A row's sequences as they are scored, and where its answer begins."""
    from modelforge.evaluation.items import Answer, sequences

    assert item.row is not None, "it was not dropped"
    found = [Answer(ids, labels, 0, "") for ids, labels in sequences(item.row, limit)]
    return found, min(item.row.start, len(found[0].ids))


def _nearest(shown: list[Shown], rows: Any) -> list[tuple[str, float]]:
    """The training rows whose words are most like those of a row (Jaccard's index)."""
    row = next((item.row for item in shown if item.row is not None), None)
    if row is None:
        return []

    def words(tokens: Any) -> set[str]:
        text = rows.tokenizer.decode(tokens.ids[0].tolist(), skip_special_tokens=True)
        return set(text.lower().split())

    own, here = words(row), {item.where for item in shown}
    found = []
    for where, tokens in zip(rows.data.train_places, rows.data.train_tokens, strict=True):
        if where not in here:
            other = words(tokens)
            found.append((where, len(own & other) / max(len(own | other), 1)))
    return sorted(dict(found).items(), key=lambda each: -each[1])[:NEAR]
