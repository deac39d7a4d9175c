"""Which model is better, from rows that were kept: paired statistics, and a verdict in words.

Every model is compared with the first one, row by row. The p values of all primary measures (and
of all models and slices) are adjusted together by Holm. So "better" and "worse" are said of
nothing at all in 95 % of comparisons of models that are alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from modelforge.errors import ConfigError, DataError, Problem, did_you_mean
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.metrics import Metric
from modelforge.evaluation.statistics import ALPHA, Change, holm, paired, rows_needed

UNSURE = "not distinguishable"
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Verdict:
    """One measure of one model against the baseline.

    Attributes:
        model: The model.
        metric: The measure.
        part: Which rows: ``column=value``; empty for all.
        first, second: The figure of the baseline and of the model, over the rows that both have.
        change: Second against first.
        p: Adjusted for all primary measures; as it is for the others.
        word: ``better``, ``worse``, ``higher``, ``lower`` or ``not distinguishable``.
    """

    model: str
    metric: Metric
    part: str
    first: float
    second: float
    change: Change
    p: float
    word: str = UNSURE

    def told(self) -> str:
        """The change in words, with its interval."""
        c = self.change
        interval = f" [{c.low:+.3g}, {c.high:+.3g}]" if math.isfinite(c.low) else ""
        where = f" ({self.part})" if self.part else ""
        return f"{self.metric.label}{where} {self.first:.4g} → {self.second:.4g}{interval}"

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self) | {"metric": self.metric.name, "label": self.metric.label}


def compare(
    first: Evaluation, others: Sequence[Evaluation], *, by: str | None = None
) -> list[Verdict]:
    """Each other evaluation against the first.

    Args:
        first: The baseline's.
        others: Of the same data.
        by: A column of the data: each of its values is compared too.

    Raises:
        UserError: If the rows are not the same, or lack the column.
    """
    found: list[Verdict] = []
    for other in others:
        _refuse_other_rows(first, other)
        for part, rows in parts_of(first, by):
            found += _verdicts(first, other, part, rows)
    primary = [i for i, verdict in enumerate(found) if verdict.metric.primary]
    adjusted = dict(zip(primary, holm([found[i].change.p for i in primary]), strict=True))
    return [_worded(verdict, adjusted.get(i, verdict.p)) for i, verdict in enumerate(found)]


def _refuse_other_rows(first: Evaluation, other: Evaluation) -> None:
    mine, theirs = ({row["doc_id"]: row["doc_hash"] for row in e.rows} for e in (first, other))
    if mine != theirs:
        what = f"{other.model} was evaluated on other rows than {first.model}"
        raise DataError(Problem(str(other.folder), what, "evaluate both on the same --data"))


def parts_of(found: Evaluation, by: str | None) -> Iterator[tuple[str, list[int]]]:
    """The rows of each slice, all of them first."""
    yield "", [row["doc_id"] for row in found.rows]
    if by is None:
        return
    values: dict[str, list[int]] = {}
    for row in found.rows:
        if by in row["doc"]:
            values.setdefault(str(row["doc"][by]), []).append(row["doc_id"])
    if not values:
        known = {name for row in found.rows for name in row["doc"]}
        fix = did_you_mean(by, known) or f"one of {', '.join(sorted(known))}"
        raise ConfigError(Problem(f"--by {by}", "is no column of the data", fix))
    most = 20
    if len(values) > most:
        what = f"has {len(values)} values, and at most {most} slices can be read"
        raise ConfigError(Problem(f"--by {by}", what, "name a column with fewer"))
    for value in sorted(values):
        yield f"{by}={value}", values[value]


def _verdicts(
    first: Evaluation, other: Evaluation, part: str, ids: Sequence[int]
) -> Iterator[Verdict]:
    one, two = ({row["doc_id"]: row for row in e.rows} for e in (first, other))
    for name, metric in first.table.items():
        if name not in other.table or other.table[name].label != metric.label:
            continue  # nats of one model and scores of another are not one unit
        both = [i for i in ids if one[i].get(name) is not None and two[i].get(name) is not None]
        weights = _weights(metric, [one[i] for i in both], [two[i] for i in both])
        if weights == []:  # tokens of two tokenizers are not one unit
            continue
        values = [[float(rows[i][name]) for i in both] for rows in (one, two)]
        if not both:
            continue
        change = paired(values[0], values[1], weights)
        means = [_mean(each, weights) for each in values]
        yield Verdict(other.model, metric, part, means[0], means[1], change, change.p)


def _weights(metric: Metric, one: Rows, two: Rows) -> list[float] | None:
    """What the rows count, by the baseline; None where all alike, empty where it is not the same.

    Answers of two models are of two lengths: there each row counts alike.
    """
    if metric.weight in (None, "answer_tokens"):
        return None
    mine, theirs = ([float(row[metric.weight]) for row in rows] for rows in (one, two))
    return [] if mine != theirs and metric.weight == "tokens" else mine


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    if weights is None:
        return math.fsum(values) / len(values)
    return math.fsum(v * w for v, w in zip(values, weights, strict=True)) / math.fsum(weights)


def _worded(verdict: Verdict, p: float) -> Verdict:
    change, up = verdict.change, verdict.metric.better
    if p >= ALPHA or change.by == 0:
        return replace(verdict, p=p)
    if up is None:
        return replace(verdict, p=p, word="higher" if change.by > 0 else "lower")
    return replace(verdict, p=p, word="better" if (change.by > 0) == up else "worse")


def lines(verdicts: Sequence[Verdict], first: str) -> list[str]:
    """The verdict in words: of each model what is better, worse and not distinguishable."""
    told = []
    for model in dict.fromkeys(verdict.model for verdict in verdicts):
        own = [v for v in verdicts if v.model == model and v.metric.primary]
        groups = []
        for word in ("better", "worse", UNSURE):
            found = [v for v in own if v.word == word and v.metric.better is not None]
            if found:
                groups.append(f"{word}: {'; '.join(v.told() for v in found)}")
        moved = [v for v in own if v.word in ("higher", "lower")]
        groups += [f"{v.word}: {v.told()}" for v in moved]
        told.append(f"{model} against {first}: {'. '.join(groups) or 'nothing to compare'}.")
    return told


# --- the gate --------------------------------------------------------------------------------

GATE_PASSED, GATE_WORSE, GATE_FEW = 0, 1, 3


@dataclass(frozen=True)
class Gate:
    """Whether a model may pass.

    Attributes:
        code: 0 not worse, 1 worse, 3 too few rows to tell.
        told: Why, a line for each measure.
        needed: How many rows would tell; 0 where these do.
    """

    code: int
    told: list[str]
    needed: int


def gate(verdicts: Sequence[Verdict], margin: float) -> Gate:
    """Hold each primary measure against a margin that does not count.

    A measure is worse where it lost more than the margin and its interval leaves out no change; it
    is not worse where its interval leaves out a loss of the margin.

    Args:
        verdicts: Of `compare`.
        margin: What may be lost: of a share in absolute terms, of any other figure as a share of
            the baseline's.

    Raises:
        ConfigError: If no measure can be held against anything.
    """
    # How likely both sides are says less than which is likelier, and has no natural zero.
    held = [
        v for v in verdicts
        if v.metric.primary and v.metric.better is not None and v.metric.name != "margin"
    ]  # fmt: skip
    if not held:
        fix = "ask for a measure that can be better or worse, such as bits_per_byte"
        raise ConfigError(Problem("--gate", "there is no measure to hold against it", fix))
    code, needed, told = GATE_PASSED, 0, []
    for v in held:
        allowed = margin if v.metric.unit == "share" else margin * abs(v.first)
        sign = -1 if v.metric.better else 1
        ends = sorted((sign * v.change.low, sign * v.change.high))
        lost = sign * v.change.by
        if v.word == "worse" and lost > allowed:
            code, word = GATE_WORSE, "worse"
        elif ends[1] <= allowed:  # not where the interval is unknown
            word = "not worse"
        else:
            more = rows_needed(v.change.spread, allowed) if v.change.spread > 0 and allowed else 0
            needed = max(needed, more, v.change.rows + 1)
            word = f"too few rows to tell; about {max(more, v.change.rows + 1):,} are needed"
            code = code or GATE_FEW
        told.append(f"{v.model}, {v.told()}: {word} (margin {allowed:.3g})")
    return Gate(code, told, needed if code == GATE_FEW else 0)
