"""`modelforge serve` and `modelforge feedback`: trained models answer, and hear what users say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, print_json, working
from modelforge.errors import Problem, RunError


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            help="Runs, exports, model folders, hub ids, or the address of an engine; NAME=PATH.",
            show_default=False,
        ),
    ],
    port: Annotated[int, typer.Option("--port", help="0 takes a free one.", min=0, max=65535)] = (
        8000
    ),
    host: Annotated[
        str, typer.Option("--host", help="Another than loopback needs MODELFORGE_API_KEY.")
    ] = "127.0.0.1",
    max_batch_size: Annotated[
        int, typer.Option("--max-batch-size", help="Requests that are worked on at once.", min=1)
    ] = 32,
    max_concurrent_requests: Annotated[
        int, typer.Option("--max-concurrent-requests", help="Further ones are told 429.", min=1)
    ] = 100,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for an answer.")] = 600.0,
    feedback: Annotated[
        Path, typer.Option("--feedback", help="SQLite file for what users say of answers.")
    ] = Path("feedback.sqlite"),
) -> None:
    """Serve trained models in OpenAI's words. MODELFORGE_API_KEY is what clients have to name."""
    with working(as_json=False):
        from modelforge.serving import require_installed

        require_installed()
        from modelforge.serving.run import run

        run(
            models,
            host=host,
            port=port,
            size=max_batch_size,
            limit=max_concurrent_requests,
            timeout=timeout,
            feedback=feedback,
        )


def feedback_export(
    file: Annotated[Path, typer.Argument(help="That `modelforge serve` wrote.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Where the rows go.")] = Path(
        "preferences.jsonl"
    ),
    kind: Annotated[
        str, typer.Option("--kind", help="preference (dpo, reward), or labelled (kto).")
    ] = "preference",
    as_json: AsJson = False,
) -> None:
    """Write feedback as rows that `modelforge train` takes."""
    with working(as_json=as_json):
        import json

        from modelforge.common.console import say
        from modelforge.common.files import write_whole, writing
        from modelforge.errors import DataError, did_you_mean
        from modelforge.feedback.rows import labelled, preferences
        from modelforge.feedback.store import read

        kinds = {"preference": preferences, "labelled": labelled}
        if kind not in kinds:
            raise RunError(
                Problem(f"--kind {kind}", "is no kind of row", did_you_mean(kind, kinds))
            )
        if output.resolve() == file.resolve():
            what, fix = "is the feedback itself", "name another file"
            raise RunError(Problem(f"--output {output}", what, fix))
        found = list(read(file))
        rows = kinds[kind](found)
        if not rows:
            what = f"holds {len(found)} ratings, of which no {kind} row can be made"
            fix = "give better answers, or rate several answers to one prompt"
            raise DataError(Problem(str(file), what, fix))
        with writing(output, "name another place with --output"):
            write_whole(output, "".join(f"{json.dumps(r, ensure_ascii=False)}\n" for r in rows))
        say(f"{len(rows)} {kind} rows of {len(found)} ratings in {output}")
    if as_json:
        print_json({"rows": len(rows), "ratings": len(found), "file": str(output)})
