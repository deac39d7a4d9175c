"""`modelforge serve`: trained models answer, and hear what users say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import working
from modelforge.cli.use import HeldTo


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
    constraints: HeldTo = None,
    reward_model: Annotated[
        str | None,
        typer.Option("--reward-model", help="A reward run; its scores stand in /metrics."),
    ] = None,
    reward_share: Annotated[
        float | None, typer.Option("--reward-share", help="Of the answers that it scores; 0.05.")
    ] = None,
) -> None:
    """Serve trained models in OpenAI's words. MODELFORGE_API_KEY is what clients have to name."""
    with working(as_json=False, lasting=True):
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
            constraints=constraints,
            reward_model=reward_model,
            reward_share=reward_share,
        )
