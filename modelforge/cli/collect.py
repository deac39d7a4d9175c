"""`modelforge collect`: people compare answers in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelforge.cli.options import Overrides, working

Db = Annotated[Path, typer.Option("--db", help="SQLite file for the votes; goes on where it was.")]
Prompts = Annotated[
    str | None, typer.Option("--prompts", help="A data file that the models answer.")
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--models", help="A run, a folder or a hub id; NAME=PATH. Repeatable, or several in one."
    ),
]
More = Annotated[list[str] | None, typer.Argument(help="Further models.", show_default=False)]
Responses = Annotated[
    Path | None,
    typer.Option("--responses", help="Answers: rows of prompt and responses (model: text)."),
]
Overlap = Annotated[
    int, typer.Option("--overlap", help="Annotators who are asked of each pair.", min=1)
]
Ranked = Annotated[bool, typer.Option("--rank", help="Rank all answers to a prompt at once.")]
Guidelines = Annotated[
    Path | None, typer.Option("--guidelines", help="A text file shown beside each task.")
]
RewardModel = Annotated[
    str | None, typer.Option("--reward-model", help="Deal first where it is least sure.")
]
InOrder = Annotated[
    bool, typer.Option("--in-order", help="Deal in the file's order, not what tells most.")
]
Train = Annotated[
    str | None,
    typer.Option("--train", help='What "Train on these" trains; else the last of --models.'),
]
NewTokens = Annotated[int, typer.Option("--max-new-tokens", help="The longest answer of a model.")]
Temperature = Annotated[
    float, typer.Option("--temperature", help="0 takes the likeliest token each time.")
]
Port = Annotated[int, typer.Option("--port", help="0 takes a free one.", min=0, max=65535)]
Host = Annotated[
    str, typer.Option("--host", help="Another than loopback is open with a token alone.")
]


def collect(
    db: Db = Path("feedback.sqlite"),
    prompts: Prompts = None,
    models: Models = None,
    more: More = None,
    responses: Responses = None,
    overlap: Overlap = 2,
    ranked: Ranked = False,
    guidelines: Guidelines = None,
    reward_model: RewardModel = None,
    in_order: InOrder = False,
    train: Train = None,
    overrides: Overrides = None,
    max_new_tokens: NewTokens = 256,
    temperature: Temperature = 0.0,
    port: Port = 7879,
    host: Host = "127.0.0.1",
) -> None:
    """Let people compare answers blindly in a browser, and train on what they say."""
    with working(as_json=False, lasting=True):
        from modelforge.feedback.collecting import Collecting
        from modelforge.feedback.collecting import collect as serve
        from modelforge.inference.answers import Sampling

        serve(
            Collecting(
                db=db,
                prompts=prompts,
                models=[*(models or ()), *(more or ())],
                responses=responses,
                overlap=overlap,
                ranked=ranked,
                guidelines=_text(guidelines) if guidelines else "",
                reward_model=reward_model,
                active=not in_order,
                train=train,
                overrides=overrides or (),
                sampling=Sampling(max_new_tokens=max_new_tokens, temperature=temperature),
                host=host,
                port=port,
            )
        )


def _text(path: Path) -> str:
    """The text of a file.

    Raises:
        DataError: If it holds none.
    """
    from modelforge.errors import DataError, Problem

    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
        raise DataError(Problem(f"--guidelines {path}", what)) from None
