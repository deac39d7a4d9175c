"""Who wins before a judge: the kept answers of several models, held together two by two."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from modelforge.errors import ConfigError, DataError, Problem
from modelforge.evaluation.judge import Judge, both_orders, hard, text_of
from modelforge.evaluation.kept import Evaluation
from modelforge.evaluation.preferences import bradley_terry, length_controlled, win_rate


@dataclass(frozen=True)
class Contest:
    """One model against another before a judge.

    Attributes:
        model, against: The two.
        rows: Prompts that both answered.
        wins, low, high: The share that the model wins over both orders, a tie a half, and its 95 %
            interval.
        at_equal_length, equal_low, equal_high: The same with the liking for length taken out.
    """

    model: str
    against: str
    rows: int
    wins: float
    low: float
    high: float
    at_equal_length: float
    equal_low: float
    equal_high: float

    def told(self) -> str:
        """The result in words."""
        return (
            f"{self.model} against {self.against}: wins {self.wins:.1%} [{self.low:.1%}, "
            f"{self.high:.1%}] of {self.rows}; at equal length {self.at_equal_length:.1%} "
            f"[{self.equal_low:.1%}, {self.equal_high:.1%}]"
        )


#: What the data's own answers are called among the models.
DATA = "data"


def of_the_data(found: Evaluation) -> Evaluation:
    """The data's own answers, as if a model had given them: AlpacaEval's opponent.

    Args:
        found: An evaluation of that data.

    Raises:
        DataError: If the data has none.
    """
    rows = [
        {**row, "resps": [[row["target"]] if row["target"] else []], "later": None}
        for row in found.rows
    ]
    if not any(row["target"] for row in rows):
        what, fix = "has no answers of its own", "name data with answers, or leave it out"
        raise DataError(Problem("--against-data", f"{found.task} {what}", fix))
    return replace(found, model=DATA, rows=rows)


def contests(judge: Judge, found: Sequence[Evaluation]) -> dict[str, Any]:
    """Every model against every other, by their first answer to each prompt.

    Args:
        judge: One that has passed its audit.
        found: Evaluations of the same rows, with answers.

    Returns:
        ``contests``; ``strengths`` of all, where there are more than two models.

    Raises:
        UserError: If there are no answers to judge.
    """
    told, pairs, prompts = [], [], []
    for (i, first), (j, second) in itertools.combinations(enumerate(found), 2):
        cases, ids = _cases(first, second)
        straight, turned = both_orders(judge, cases)
        won = 1 - (hard(straight) + hard(turned)) / 2  # of the second model
        longer = np.array([len(b) - len(a) for _, a, b in cases], float)
        won, longer = (_by_row(ids, each) for each in (won, longer))
        ids = list(dict.fromkeys(ids))
        share, low, high = win_rate(won)
        level = length_controlled(won, longer)
        told.append(
            Contest(
                second.model,
                first.model,
                len(ids),
                share,
                low,
                high,
                level.win_rate,
                level.low,
                level.high,
            )
        )
        pairs += [(j, i, float(each)) for each in won]
        prompts += ids
    strengths = {}
    if len(found) > 2:
        fitted = bradley_terry(pairs, len(found), prompts=prompts)
        for i, each in enumerate(found):
            strengths[each.model] = [fitted.strength[i], fitted.low[i], fitted.high[i]]
    return {"contests": [asdict(each) for each in told], "strengths": strengths,
            "told": [each.told() for each in told]}  # fmt: skip


def _cases(first: Evaluation, second: Evaluation) -> tuple[list[tuple[str, str, str]], list[int]]:
    """The prompts that both answered, with their first answers.

    A row that asks in several turns is two cases, as in MT-Bench (Zheng et al. 2023): the first
    turn, and all of it.
    """
    if any("length" not in each.table for each in (first, second)):
        what = "asks for no answers, and a judge reads them"
        raise ConfigError(Problem("--metrics", what, "add length, or leave --metrics out"))
    theirs = {row["doc_id"]: row for row in second.rows}
    cases, ids = [], []
    for row in first.rows:
        other = theirs[row["doc_id"]]
        if row["resps"][0] and other["resps"][0]:
            prompt = text_of(row["doc"]["prompt"])
            cases.append((prompt, row["resps"][0][0], other["resps"][0][0]))
            ids.append(row["doc_id"])
            if row.get("later") and other.get("later"):
                asked = [prompt, *(each["question"] for each in row["later"])]
                cases.append((_in_turn(asked), _whole(row), _whole(other)))
                ids.append(row["doc_id"])
    if len(cases) < 4:
        what = f"{len(cases)} prompts were answered by both, and a judge needs 4"
        raise DataError(Problem(str(first.folder), what, "give more rows with prompts"))
    return cases, ids


def _by_row(ids: Sequence[Any], values: np.ndarray) -> np.ndarray:
    """The mean of each row's cases: turns of one conversation are not independent."""
    found: dict[Any, list[float]] = {}
    for number, value in zip(ids, values, strict=True):
        found.setdefault(number, []).append(float(value))
    return np.array([sum(each) / len(each) for each in found.values()])


def _whole(row: Mapping[str, Any]) -> str:
    """A model's answers to all questions of a row."""
    return _in_turn([row["resps"][0][0], *(each["answer"] for each in row["later"])])


def _in_turn(texts: Sequence[str]) -> str:
    return "\n\n".join(f"({i}) {text}" for i, text in enumerate(texts, 1))
