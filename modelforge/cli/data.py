"""`modelforge data`: what is trained on, as numbers and as coloured text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from modelforge import registry
from modelforge.common.console import console, headline, say
from modelforge.config import Config
from modelforge.machine.hardware import detect_hardware
from modelforge.models.providers.choice import choose_provider
from modelforge.models.source import find_model
from modelforge.training.prepare import fill_defaults, read_data

if TYPE_CHECKING:
    from modelforge.data import Ledger


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

    strategy = registry.get_strategy(config.settings.strategy)()
    hardware = detect_hardware()
    source = find_model(
        config.settings.model_name,
        base_dir=config.base_dir,
        revision=config.settings.model_revision,
        where=f"{config.name}: model_name",
        trust_remote_code=config.settings.trust_remote_code,
    )
    provider, _ = choose_provider(config, strategy, source, hardware)
    config = fill_defaults(config, strategy, hardware)
    tokenizer = provider.load_tokenizer(source)
    stops = provider.stop_tokens(source)
    data = read_data(config, strategy, tokenizer, eos_token_ids=stops)
    if to is not None:
        write_normal_form(data.train, to)
        say(f"wrote {len(data.train)} rows to {to}")
    if rows:
        headline("What is trained on (green) and what is only read (dim)")
    shown = preview(
        data.train_tokens,
        tokenizer=tokenizer,
        max_length=strategy.max_row_tokens(config),
        n=rows,
    )
    for number, segments in enumerate(shown, start=1):
        line = Text(f"{number:>3} ")
        for text, trained in segments:
            line.append(text, style="green" if trained else "dim")
        console.print(line)
    return data.ledger
