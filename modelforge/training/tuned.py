"""What trials came to: each one's held-out figures, which is the best, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelforge.common.console import headline, show_table
from modelforge.common.files import digest
from modelforge.measuring.intervals import change, wilson
from modelforge.measuring.rows import mean
from modelforge.runs import files
from modelforge.runs.folder import RunDir

if TYPE_CHECKING:
    from modelforge.runs.result import Result
    from modelforge.strategy import Measure
    from modelforge.training.trials import Reached


@dataclass
class Tuned:
    """What `tune` found, and what stands in ``trials.json``.

    Attributes:
        folder: Where the trials' folders are.
        measure: The held-out figure that they are judged by.
        one_pass: Whether they share passes over the base; or why not.
        plan: The memory that they need together, where there is a budget to keep.
        said: Trial → what it says over the config.
        found: Trial → share of the steps → how it stood there.
        chosen: The name of the trial that is kept; ``average`` for their average.
        why: Why this one.
        result: What its run left.
    """

    folder: Path
    measure: Measure
    one_pass: bool | str = True
    plan: Mapping[str, Any] | None = None
    said: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    chosen: str = ""
    why: str = ""
    result: Result | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "measure": self.measure.key,
            "higher_is_better": self.measure.higher_is_better,
            "one_pass": self.one_pass,
            "plan": self.plan,
            "said": {name: dict(said) for name, said in self.said.items()},
            "found": self.found,
            "chosen": self.chosen,
            "why": self.why,
        }

    def write(self) -> None:
        """Write ``trials.json``."""
        RunDir(self.folder).write_json(files.TRIALS, self.to_dict())


def key_of(share: float) -> str:
    """What a share of the steps is called in ``trials.json``."""
    return f"{share:g}"


def row_of(reached: Reached, measure: Measure, asked: Iterable[int]) -> dict[str, Any]:
    """How a trial stood, as plain JSON: each held-out row with its weight and figure.

    Args:
        reached: The trial.
        measure: What it is judged by.
        asked: A fingerprint of each held-out prompt: trials are compared on the same rows alone.
    """
    name = measure.key.removeprefix("eval_")
    rows = [[row.weight, row.figures[name]] for row in reached.rows if name in row.figures]
    return _row(reached.step, rows, measure, reached.why, asked)


def of_a_run(run: RunDir, measure: Measure) -> dict[str, Any]:
    """The same of a finished run, from its folder."""
    name = measure.key.removeprefix("eval_")
    rows = [
        [line["weight"], math.nan if line["after"][name] is None else line["after"][name]]
        for line in run.read_lines(files.HELD_OUT)
        if name in line["after"]
    ]
    asked = (run.read_json(files.PROMPTS) or {}).get("held_out", "").split()
    step = run.read_json(files.RESULTS)["steps"]
    return _row(step, rows, measure, "", [int(key, 16) for key in asked])


def _row(
    step: int, rows: list[list[float]], measure: Measure, why: str, asked: Iterable[int]
) -> dict[str, Any]:
    rows = rows if all(math.isfinite(value) for _, value in rows) else []
    found: dict[str, Any] = {"step": step, "rows": rows}
    if rows:
        found["value"] = mean((value, weight) for weight, value in rows)
        found["interval"] = _interval(rows, measure)
        found["held_out"] = digest(sorted(set(asked)))[:16]
    return found | {"why": why or ("" if rows else "its held-out figure is not finite")}


def _interval(rows: Sequence[Sequence[float]], measure: Measure) -> list[float] | None:
    weights, values = zip(*rows, strict=True)
    if measure.chance is not None:
        return list(wilson(mean(zip(values, weights, strict=True)), len(rows)))
    found = change([0.0] * len(rows), values, weights)
    return None if found is None else list(found[1])


def ranked(tuned: Tuned, names: Sequence[str], share: float) -> list[str]:
    """The best first; those that diverged last."""
    sign = -1 if tuned.measure.higher_is_better else 1

    def place(name: str) -> float:
        found = tuned.found[name][key_of(share)]
        return sign * found["value"] if found["rows"] else math.inf

    return sorted(names, key=place)


def _against(tuned: Tuned, name: str, best: str, share: float) -> str:
    """How far a trial is from the best one, and how sure that is."""
    both = [tuned.found[each][key_of(share)] for each in (best, name)]
    one, other = (found["rows"] for found in both)
    if name == best or not other:
        return ""
    weights = [weight for weight, _ in one]
    same = both[0].get("held_out") == both[1].get("held_out")
    if not same or weights != [weight for weight, _ in other]:  # or not as many tokens of them
        return "measured on other rows"
    here, there = ([value for _, value in rows] for rows in (one, other))
    found = change(here, there, weights)
    if found is None:
        return "too few rows to compare"
    by, (low, high) = found
    sure = "not told apart" if low <= 0 <= high else "told apart"
    return f"{by:+.3g} ({low:+.3g} to {high:+.3g}): {sure}"


def why_best(tuned: Tuned, order: Sequence[str], share: float) -> str:
    """Why the first of these is kept, in words."""
    best = tuned.found[order[0]][key_of(share)]
    told = f"best {tuned.measure.label} of {len(order)} after {best['step']} steps"
    told += f" ({best['value']:.4g})"
    if len(order) > 1 and (by := _against(tuned, order[1], order[0], share)):
        told += f"; the next, {order[1]}, {by}"
    return told


def show(tuned: Tuned) -> None:
    """The trials, each where it was measured last."""
    headline(f"Trials: {tuned.measure.label}")
    rows = []
    for name in tuned.said:
        key = max(tuned.found[name], key=float)
        found, last = tuned.found[name][key], float(key)
        peers = [n for n in tuned.said if key in tuned.found[n]]
        best = ranked(tuned, peers, last)[0]
        value = f"{found['value']:.4g}" if found["rows"] else found["why"]
        interval = found.get("interval")
        within = "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
        rows.append((name, found["step"], value, within, _against(tuned, name, best, last)))
    titles = ("trial", "steps", "held out", "95 % interval", "against the best then")
    show_table(titles, rows)
