"""`modelforge benchmark`: lm-evaluation-harness on a model, in this process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.evaluate import as_plain, show
from modelforge.cli.options import AsJson, print_json, working
from modelforge.errors import ConfigError, Problem

KEPT = Path("runs/benchmark")


def benchmark(
    model: Annotated[
        str, typer.Argument(help="A run's or a model's folder, or a hub id.", show_default=False)
    ],
    tasks: Annotated[
        str, typer.Option("--tasks", metavar="NAME,…", help="Tasks of lm-eval: gsm8k,ifeval.")
    ],
    include: Annotated[
        Path | None, typer.Option("--include", help="A folder of task files (YAML) of your own.")
    ] = None,
    task_data: Annotated[
        list[str] | None,
        typer.Option("--task-data", metavar="TASK=FILE", help="A task's rows, without the hub."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--num-samples", "--limit", help="The most rows of a task.")
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option("--few-shot", help="Examples before each question.")
    ] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", help="The longest answer; by default the task's own."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Rows at once.")] = 8,
    chat: Annotated[
        bool | None,
        typer.Option("--chat/--no-chat", help="Whether to ask in the model's chat template."),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output-dir", "-o", help="Where rows are kept.")
    ] = KEPT,
    as_json: AsJson = False,
) -> None:
    """Measure a model by tasks of lm-evaluation-harness. The same command again goes on."""
    with working(as_json=as_json):
        from modelforge.evaluation.harness import Asked
        from modelforge.evaluation.harness import benchmark as run

        asked = Asked(
            tuple(dict.fromkeys(n.strip() for n in tasks.split(",") if n.strip())),
            include=include,
            task_data=_files(task_data or ()),
            limit=limit,
            few_shot=few_shot,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            chat=chat,
            output_dir=output_dir,
        )
        found = run(model, asked)
    show(found, {})
    if as_json:
        print_json(as_plain(found, {}))


def _files(given: Iterable[str]) -> dict[str, str]:
    """Task → file.

    Raises:
        ConfigError: If one is not named as it should be.
    """
    found = {}
    for text in given:
        task, sign, file = text.partition("=")
        if not sign or not task or not file:
            fix = "such as gsm8k=test.jsonl"
            raise ConfigError(Problem(f"--task-data {text}", "is no TASK=FILE", fix))
        found[task] = file
    return found
