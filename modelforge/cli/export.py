"""`modelforge export` and `modelforge verify`: another format, held against the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, TrustRemoteCode, print_json, working
from modelforge.cli.use import Model


def export(
    model: Model,
    format: Annotated[
        str, typer.Option("--format", help="merged, adapter, gguf or ollama.")
    ] = "merged",
    type: Annotated[
        str | None, typer.Option("--type", help="f32, f16, bf16, q8_0; as the format has them.")
    ] = None,
    merge_base: Annotated[
        str | None,
        typer.Option("--merge-base", help="Of a quantised run: dequantised, or original."),
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="A new folder.")] = None,
    push: Annotated[
        str | None, typer.Option("--push", help="Hub id to upload it to, once it is proven.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Write a trained model in another format, and prove that it answers as it was trained."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.export.export import export as write
        from modelforge.export.push import push as upload
        from modelforge.export.push import see_that_it_can_be_pushed

        if push is not None:
            see_that_it_can_be_pushed(push)
        found = write(
            model,
            format=format,
            kind=type,
            base=merge_base,
            output=output,
            trust_remote_code=trust_remote_code,
        )
        say(found.told())
        pushed = None if push is None else upload(found.folder, push)
        if pushed is not None:
            say(f"pushed: {pushed}")
    if as_json:
        print_json({"folder": str(found.folder), "pushed": pushed, **found.about})


def verify(
    folder: Annotated[Path, typer.Argument(help="An export's folder.", show_default=False)],
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Hold an export against the model that it was made of, again."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.export.export import verify as hold

        found = hold(folder, trust_remote_code=trust_remote_code)
        say(found.told())
    if as_json:
        print_json({"folder": str(found.folder), **found.about})
