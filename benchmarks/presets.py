"""Every preset planned for the smallest card of its profile: does it fit, and at what length.

    OMP_NUM_THREADS=1 python benchmarks/presets.py [--families qwen3 llama] [--seconds 900]

Each place is an estimate by short models, as `modelforge plan --cards` makes it, with rows of the
full length. The table goes into docs/presets.md. What was planned is kept beside the preset in
`benchmarks/results/presets.json`. A preset that has not changed is not planned again, so that the
command goes on where it was stopped.
`tests/test_starts.py` holds each kept figure against the preset of today.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modelforge import load_config
from modelforge.configfile.starts import Asked, all_starts, start
from modelforge.errors import UserError
from modelforge.machine.cards import Card, list_cards
from modelforge.machine.hardware import choose_profile
from modelforge.plan.result import GIB
from modelforge.training.many_plans import _fitted, _quiet
from modelforge.training.resolve import resolve

KEPT = Path(__file__).parent / "results" / "presets.json"
PAGE, TITLE = Path(__file__).parents[1] / "docs" / "presets.md", "## What fits"
TOLD = """\
`modelforge plan CONFIG --gpu NAME` says how much memory of a card a preset takes; `--cards` says it
for all cards. `python benchmarks/presets.py` wrote this table (2-core x86_64 CPU, 2026-11-28): each
preset on the card with the least memory of its profile, with rows of the full length. The figures
are estimates, simulated on models of fewer layers; no card was at hand. A preset that is missing
was not planned yet. Where the length is below 2048, the plan shortened it."""
SHOWN = ("max_seq_length", "per_device_train_batch_size", "gradient_accumulation_steps", "use_4bit")


def smallest_cards() -> dict[str, Card]:
    """The card with the least memory of each profile."""
    found: dict[str, Card] = {}
    for card in sorted(list_cards(), key=lambda card: -card.vram_gib):
        found[choose_profile(card.hardware)[0].name] = card
    return found


def planned(config: dict[str, Any], card: Card) -> dict[str, Any]:
    """What of a preset fits a card."""
    row: dict[str, Any] = {"preset": config, "card": card.name, "budget_gb": card.vram_gib}
    begin = time.process_time()
    try:
        with _quiet():
            resolved = resolve(
                load_config(config | {"dataset": "none"}), planned_for=card.hardware, planning=True
            )
            (found,) = _fitted(resolved, None, [card.vram_gib], {})
    except UserError as error:
        return row | {"fits": False, "why": str(error.problems[0])}
    if found is None:
        return row | {"fits": False, "why": "does not fit"}
    fitted, total = found
    chosen = {key: fitted.get(key) for key in SHOWN}
    seconds = round(time.process_time() - begin, 1)
    return row | {"fits": True, "gib": round(total / GIB, 2), "cpu_seconds": seconds} | chosen


def wanted(families: list[str]) -> Iterator[tuple[str, Asked]]:
    """The presets for a card, the families in the order they were asked for."""
    for family in families:
        for strategy, asked in all_starts():
            if asked.family == family and asked.profile != "cpu":
                yield strategy, asked


def table(kept: dict[str, Any]) -> str:
    """All that was planned, for a reader."""
    lines = ["| preset | model | card | GiB | length | rows | weights |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, row in kept.items():
        model = row["preset"]["model_name"].rpartition("/")[2]
        if not row["fits"]:
            lines.append(f"| {name} | {model} | {row['card']} | {row['why']} | | | |")
            continue
        rows = f"{row[SHOWN[1]]} × {row[SHOWN[2]] or 1}"
        weights = "4-bit" if row["use_4bit"] else "16-bit"
        used = f"{row['gib']} of {row['budget_gb']}"
        lines.append(
            f"| {name} | {model} | {row['card']} | {used} | {row[SHOWN[0]]} | {rows} | {weights} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--families", nargs="+", default=["qwen3"])
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of processor time")
    options = parser.parse_args()
    kept = json.loads(KEPT.read_text()) if KEPT.is_file() else {}
    cards = smallest_cards()
    for strategy, asked in wanted(options.families):
        assert asked.profile is not None
        name, config = f"{asked.family}, {asked.profile}, {strategy}", start(strategy, asked)
        if kept.get(name, {}).get("preset") == config or time.process_time() > options.seconds:
            continue
        kept[name] = planned(config, cards[asked.profile])
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        print(name, {k: v for k, v in kept[name].items() if k != "preset"}, flush=True)
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(TITLE)
    PAGE.write_text(f"{before}{TITLE}\n\n{TOLD}\n\n{table(kept)}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
