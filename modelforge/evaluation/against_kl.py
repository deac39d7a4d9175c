"""Reward and judge against the distance from the reference: where more optimising stops helping.

A reward stands in for what is wanted, and a policy that follows it far enough finds what only the
reward likes. Gao, Schulman and Hilton 2022 ("Scaling laws for reward model overoptimization",
arXiv 2210.10760) draw the proxy's reward and that of a gold judge over the square root of the KL
divergence from the start; the judge's turns down first. Here each held-out evaluation of a run is a
point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelforge.config import JUDGE
from modelforge.runs import files
from modelforge.runs.folder import RunDir
from modelforge.web.charts import Chart, against

_LEAST = 3  # evaluations that make a curve


@dataclass(frozen=True)
class Point:
    """One evaluation.

    Attributes:
        step: After which it was made.
        kl: From the reference, in nats an answer.
        mean: Of the scores.
        error: The standard error of the mean over prompts.
    """

    step: int
    kl: float
    mean: float
    error: float


def over_optimised(run: RunDir) -> dict[str, Any] | None:
    """The drawings of a run and what they say; None where it measured no distance or too seldom.

    Returns:
        ``charts``, of the reward and of the judge where there is one; ``told``, in words.
    """
    rows = run.read_lines(files.METRICS)
    prompts = len(run.read_lines(files.HELD_OUT)) or 1
    series = {
        "Reward": _points(rows, "eval_reward", "eval_reward_std", prompts),
        "Judge": _points(rows, f"eval_rewards/{JUDGE}/mean", f"eval_rewards/{JUDGE}/std", prompts),
    }
    series = {name: points for name, points in series.items() if len(points) >= _LEAST}
    if not series:
        return None
    return {
        "charts": [_chart(name, points) for name, points in series.items()],
        "told": " ".join(_told(name, points, run) for name, points in series.items()),
    }


def _points(rows: Sequence[Mapping[str, Any]], mean: str, spread: str, prompts: int) -> list[Point]:
    """The evaluations of a run, each step once."""
    found: dict[int, Point] = {}
    for row in rows:
        kl, value = _kl(row), row.get(mean)
        if kl is None or value is None or not math.isfinite(value):
            continue
        error = (row.get(spread) or 0.0) / math.sqrt(prompts)
        found[row["step"]] = Point(row["step"], kl, value, error if math.isfinite(error) else 0.0)
    return [found[step] for step in sorted(found)]


def _kl(row: Mapping[str, Any]) -> float | None:
    """The divergence of an answer in nats: PPO's own figure, or TRL's of a token and the length."""
    whole, token = row.get("eval_kl/reference"), row.get("eval_kl")
    if whole is None and token is not None:
        whole = token * row.get("eval_completions/mean_length", math.nan)
    if whole is None or not math.isfinite(whole):
        return None
    return max(float(whole), 0.0)  # an estimate from draws may fall below


def _chart(name: str, points: Sequence[Point]) -> Chart:
    places = [(math.sqrt(p.kl), p.mean, 2 * p.error) for p in points]
    by = "the square root of the KL from the reference, in nats an answer; ± two standard errors"
    return against(f"{name} against distance", "score", by, places)


def _told(name: str, points: Sequence[Point], run: RunDir) -> str:
    """Where it was highest, which checkpoint that is, and whether it fell since."""
    top, last = max(points, key=lambda p: (p.mean, -p.step)), points[-1]
    told = (
        f"{name}: highest after step {top.step} ({top.mean:.4g} ± {2 * top.error:.2g}, "
        f"KL {top.kl:.3g} nats)"
    )
    kept = run.checkpoints / f"checkpoint-{top.step}"
    if top is last:
        return f"{told}, the last."
    told += f", {kept.relative_to(run.path)}" if kept.is_dir() else ", no checkpoint of it is kept"
    fall, error = top.mean - last.mean, math.hypot(top.error, last.error)
    if fall > 2 * error:
        return f"{told}. Since then it fell to {last.mean:.4g}, beyond two standard errors."
    return f"{told}. The last ({last.mean:.4g}) cannot be told apart from it."
