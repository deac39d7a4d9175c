"""`modelforge data`: what is trained on, as numbers, as marked text, and as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from modelforge.cli.against import show_shared
from modelforge.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    TrustRemoteCode,
    print_json,
    working,
)
from modelforge.common.console import console, headline, say, show_line
from modelforge.common.files import write_whole
from modelforge.errors import ConfigError, Problem

if TYPE_CHECKING:
    from modelforge.config import Config
    from modelforge.data import Segment
    from modelforge.data.shown import Shown


@dataclass(frozen=True)
class Asked:
    """What is to be shown.

    Attributes:
        rows: How many rows.
        row: One row by its place; None for those by number.
        longest: The longest rows.
        random: Rows at random, by the run's seed.
        to: A .jsonl file for the rows in normal form, or None.
        html: A file for the page, or None.
    """

    rows: int = 3
    row: str | None = None
    longest: bool = False
    random: bool = False
    to: Path | None = None
    html: Path | None = None


def data(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    rows: Annotated[int, typer.Option("--rows", help="Rows to show.", min=0)] = 3,
    row: Annotated[
        str | None,
        typer.Option("--row", help="One row, by its line; FILE:LINE of several files."),
    ] = None,
    longest: Annotated[bool, typer.Option("--longest", help="The longest rows.")] = False,
    random: Annotated[
        bool, typer.Option("--random", help="Rows at random, by the config's seed.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write a page with tokens, masks and lengths.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            help="Say what rows two sets share: configs, data files or folders; needs no model.",
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the rows in normal form to this .jsonl.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is trained on: statistics, and rows marked by what is trained and masked."""
    with working(as_json=as_json):
        if against is not None:
            found = show_shared(config, against, overrides=set_ or ())
        else:
            if (row is not None) + longest + random > 1:
                what = "of --row, --longest and --random only one can be meant"
                raise ConfigError(Problem("modelforge data", what, "give one of them"))
            from modelforge.configfile.load import load_config

            loaded = load_config(config, overrides=set_ or (), trust_remote_code=trust_remote_code)
            found = show_data(loaded, Asked(rows, row, longest, random, to, html))
    if as_json:
        print_json(found)


def show_data(config: Config, asked: Asked) -> dict[str, Any]:
    """Read and check the data with the tokenizer only, show it, and write what is asked for.

    Returns:
        The ledger; ``preview``: of each row shown its stretches; ``preview_rows``: where these rows
        stand, and what becomes of them.

    Raises:
        UserError: If the data cannot train, or holds no such row.
    """
    from modelforge.data import Watched, preview, write_normal_form
    from modelforge.data.shown import one_row, some_rows
    from modelforge.training.read import read
    from modelforge.training.resolve import resolve

    resolved = resolve(config)
    watched = Watched(asked.row) if asked.row is not None else None
    found = read(resolved, watched=watched)
    if asked.to is not None:
        write_normal_form(found.data.train, asked.to)
        say(f"wrote {len(found.data.train)} rows to {asked.to}")
    seed = config.settings.seed if asked.random else None
    shown = (
        some_rows(found.data, asked.rows, longest=asked.longest, seed=seed)
        if watched is None
        else one_row(found.data, watched)
    )
    limit: int | None = resolved.strategy.max_row_tokens(resolved.config)
    if resolved.strategy.long_rows(resolved.config) == "split":
        limit = None
    segments = [
        preview(item.row, tokenizer=found.tokenizer, max_length=limit) if item.row else []
        for item in shown
    ]
    show_rows(shown, segments)
    if asked.html is not None:
        from modelforge.evaluation.data_page import data_page

        page = data_page(
            found.data, shown, segments, title=config.name, tokenizer=found.tokenizer, limit=limit
        )
        write_whole(asked.html, page)
        say(f"wrote {asked.html}")
    return found.data.ledger.to_dict() | {
        "preview": [[segment.to_dict() for segment in row] for row in segments],
        "preview_rows": [
            {"row": item.where, "fate": item.fate, "tokens": sum(len(s.ids) for s in row)}
            for item, row in zip(shown, segments, strict=True)
        ],
    }


def show_rows(shown: list[Shown], segments: list[list[Segment]]) -> None:
    """Rows in colours; without colours what is trained on stands in brackets."""
    from modelforge.web.page import visible

    colours = console.color_system is not None and not console.no_color
    if shown and colours:
        headline("What is trained on (green) and what is only read (dim)")
    elif shown:
        headline("What is trained on stands between [[ and ]]; all else is only read")
    for item, row in zip(shown, segments, strict=True):
        line = Text(f"{visible(item.where)} ({visible(item.fate)}): ")
        for segment in row:
            if segment.part == "rejected" and segment.ids:
                line.append("\nrejected:\n", style="dim")
            text = visible(segment.text)
            if colours:
                line.append(text, style="green" if segment.trained else "dim")
            else:
                line.append(f"[[{text}]]" if segment.trained else text)
        show_line(line)
