"""`modelforge export` and `modelforge verify`: another format, held against the trained model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import AsJson, TrustRemoteCode, print_json, working
from modelforge.cli.use import Model


def export(
    model: Model,
    format: Annotated[
        str, typer.Option("--format", help="merged, adapter, gguf, ollama or onnx.")
    ] = "merged",
    type: Annotated[
        str | None,
        typer.Option("--type", help="f32, bf16, q8_0, int8 …: see docs/use.md."),
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
    folder: Annotated[
        Path, typer.Argument(help="An export's folder, or a run's.", show_default=False)
    ],
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Of a run: how many to train again; 4.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of a run: draws the checkpoint to begin from.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: AsJson = False,
) -> None:
    """Hold an export against its model again, or train some steps of a run again."""
    with working(as_json=as_json):
        from modelforge.common.console import say
        from modelforge.errors import Problem, RunError
        from modelforge.export.export import ABOUT
        from modelforge.export.export import verify as hold

        if (folder / ABOUT).is_file() or not folder.is_dir():
            if steps is not None or seed is not None:
                option = "--seed" if steps is None else "--steps"
                raise RunError(Problem(option, f"is for a run, and {folder} is none", "leave it"))
            exported = hold(folder, trust_remote_code=trust_remote_code)
            say(exported.told())
            found = {"folder": str(exported.folder), **exported.about}
        else:
            from modelforge.training.replay import STEPS, replay

            replayed = replay(folder, steps=steps or STEPS, seed=seed)
            say(replayed.told())
            found = {"folder": str(replayed.run), **asdict(replayed), "run": str(replayed.run)}
    if as_json:
        print_json(found)
