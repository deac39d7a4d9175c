"""`modelforge demo`: sft, then dpo on what sft left, on the tiny model that comes along."""

from __future__ import annotations

import time
from collections.abc import Iterable
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from modelforge.cli.options import AsJson, Overrides, print_json, working
from modelforge.common.console import console, headline


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the runs.")] = Path(
        "runs/demo"
    ),
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Train the tiny model that comes along: sft, then dpo, measured before and after."""
    with working(as_json=as_json):
        report = run_demo(output, overrides=set_ or ())
    if as_json:
        print_json(report)


def run_demo(output: Path, *, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Train and measure; every figure is on rows that were not trained on.

    Args:
        output: Folder of the two runs. Nothing there is reused.
        overrides: ``key=value`` strings that win over the config of either stage.

    Returns:
        Stage → figure → value, and ``seconds``.
    """
    from modelforge.configfile.presets import tiny_preset
    from modelforge.tiny.evaluate import load, preference_accuracy, read_rows, sft_accuracy
    from modelforge.training.train import train

    begin = time.perf_counter()
    asked, pairs = read_rows("sft_eval"), read_rows("preference_eval")

    def measure(folder: Path) -> dict[str, float]:
        model, tokenizer = load(folder)
        return {
            "word problems answered correctly": sft_accuracy(model, tokenizer, asked),
            "preferred answer more likely than the rejected one": preference_accuracy(
                model, tokenizer, pairs
            ),
        }

    with as_file(files("modelforge.tiny")) as tiny:
        report: dict[str, Any] = {"before": measure(tiny / "model")}
        model = tiny / "model"
        for strategy in ("sft", "dpo"):
            headline(f"── {strategy} ──")
            config = tiny_preset(strategy, tiny) | {
                "model_name": str(model),
                "output_dir": str(output),
                "resume": "never",
            }
            result = train(config, overrides=overrides)
            model = result.model_dir
            report[f"after {strategy}"] = measure(model)
    report["seconds"] = round(time.perf_counter() - begin, 1)
    _show(report)
    return report


def _show(report: dict[str, Any]) -> None:
    stages = [name for name in report if name != "seconds"]
    table = Table(title=f"The tiny model on held-out rows, {report['seconds']} s in all")
    table.add_column("")
    for stage in stages:
        table.add_column(stage, justify="right")
    for figure in report[stages[0]]:
        table.add_row(figure, *(f"{report[stage][figure]:.1%}" for stage in stages))
    console.print(table)
