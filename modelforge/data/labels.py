"""Pairs → answers that stand alone, each with the label good or bad."""

from __future__ import annotations

from modelforge.data.convert import Made

# Side of a pair → whether it is the better one.
SIDES = (("chosen", True), ("rejected", False))


def parted(made: Made) -> Made:
    """Each pair as two labelled answers to its prompt; what is labelled already as it is."""
    for row, example in made:
        if "chosen" not in example:
            yield row, example
            continue
        for side, good in SIDES:
            yield row, {"prompt": example["prompt"], "completion": example[side], "label": good}
