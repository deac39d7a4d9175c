"""`modelforge data`: what is trained on, as numbers and as coloured text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from modelforge.cli.options import (
    AsJson,
    ConfigFile,
    Overrides,
    TrustRemoteCode,
    print_json,
    working,
)
from modelforge.common.console import headline, say, show_line
from modelforge.config import Config
from modelforge.configfile.load import load_config
from modelforge.training.read import read
from modelforge.training.resolve import resolve

if TYPE_CHECKING:
    from modelforge.data import Ledger


def data(
    config: ConfigFile,
    set_: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    rows: Annotated[int, typer.Option("--rows", help="Rows to show.", min=0)] = 3,
    to: Annotated[
        Path | None, typer.Option("--to", help="Write the rows in normal form to this .jsonl.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is trained on: statistics, and rows coloured by what is trained and masked."""
    with working(as_json=as_json):
        loaded = load_config(config, overrides=set_ or (), trust_remote_code=trust_remote_code)
        ledger = show_data(loaded, rows=rows, to=to)
    if as_json:
        print_json(ledger.to_dict())


def show_data(config: Config, *, rows: int, to: Path | None) -> Ledger:
    """Read and check the data with the tokenizer only, show it, and convert it where asked.

    Args:
        config: As loaded.
        rows: How many rows to show.
        to: A .jsonl file for the rows in normal form, or None.

    Raises:
        UserError: If the data cannot train.
    """
    from modelforge.data import preview, write_normal_form

    resolved = resolve(config)
    found = read(resolved)
    if to is not None:
        write_normal_form(found.data.train, to)
        say(f"wrote {len(found.data.train)} rows to {to}")
    if rows:
        headline("What is trained on (green) and what is only read (dim)")
    limit = resolved.strategy.max_row_tokens(resolved.config)
    shown = preview(found.data.train_tokens, tokenizer=found.tokenizer, max_length=limit, n=rows)
    for number, segments in enumerate(shown, start=1):
        line = Text(f"{number:>3} ")
        for text, trained in segments:
            line.append(text, style="green" if trained else "dim")
        show_line(line)
    return found.data.ledger
