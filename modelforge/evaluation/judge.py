"""Judges of two answers, and whether one can be trusted: `audit`.

A judge says how likely the first of two answers is the better one. It is asked in both orders. One
that likes a place or a length more than an answer fails the audit, and awards no win rate: a model
of 135 million parameters was seen to answer "A" whatever stood there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from modelforge.common.console import say
from modelforge.common.endpoint import word_of
from modelforge.common.progress import Task
from modelforge.data.load import plain_pairs
from modelforge.data.sources import Asked
from modelforge.errors import ConfigError, DataError, Problem, RunError
from modelforge.evaluation.preferences import length_controlled, win_rate
from modelforge.measuring.intervals import wilson
from modelforge.rewards.functions import names_file, source_of

#: A prompt and two answers, in the order in which they are shown.
Case = tuple[str, str, str]
Judge = Callable[[Sequence[Case]], list[float]]

_ASK = (
    "Which answer to the question is better?\n\nQuestion: {}\n\nAnswer A: {}\n\nAnswer B: {}\n\n"
    "Reply with the letter A or B only."
)
_BATCH = 8


@dataclass(frozen=True)
class Audit:
    """What a judge is worth on pairs that people have judged.

    Attributes:
        judge: Its name.
        rows: How many pairs.
        agreement, agreement_interval: How often it says what people say, over both orders.
        at_equal_length, at_equal_length_interval: The same with the liking for length taken out.
        consistency, consistency_interval: Share of pairs on which both orders get one verdict.
        first, first_interval: Share of its verdicts for the answer that stands first.
        longer, people_longer: Share of pairs on which it, and people, prefer the longer answer.
        length: What a longer answer adds to the log odds of its verdict.
        seconds, characters: What the audit took, and what was read to it.
        problems: Why it cannot be trusted; empty where it can.
    """

    judge: str
    rows: int
    agreement: float
    agreement_interval: tuple[float, float]
    at_equal_length: float
    at_equal_length_interval: tuple[float, float]
    consistency: float
    consistency_interval: tuple[float, float]
    first: float
    first_interval: tuple[float, float]
    longer: float
    people_longer: float
    length: float
    seconds: float
    characters: int
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether it may award win rates."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self) | {"passed": self.passed}


def read_pairs(data: str, *, limit: int | None = None) -> list[Case]:
    """Pairs of a data set: the prompt, the answer that people prefer, and the other one.

    Raises:
        DataError: If it holds no pairs.
    """
    found = []
    for _, row in plain_pairs(Asked(data))[:limit]:
        prompt, better, worse = (text_of(row[k]) for k in ("prompt", "chosen", "rejected"))
        found.append((prompt, better, worse))
    if not found:
        raise DataError(Problem(data, "holds no pairs", "give chosen and rejected answers"))
    return found


def text_of(messages: Any) -> str:
    """A prompt or an answer as text; of a longer conversation who says what."""
    if isinstance(messages, str):
        return messages
    if len(messages) == 1:
        return str(messages[0].get("content") or "")
    return "\n\n".join(f"{m['role'].capitalize()}: {m.get('content') or ''}" for m in messages)


def both_orders(judge: Judge, cases: Sequence[Case]) -> tuple[np.ndarray, np.ndarray]:
    """How likely the judge calls the first of each case better: as it is, and turned around."""
    turned = [(prompt, second, first) for prompt, first, second in cases]
    task = Task("judging", 2 * len(cases), unit="verdicts")
    found = []
    try:
        for each in (list(cases), turned):
            verdicts: list[float] = []
            for begin in range(0, len(each), _BATCH):
                part = each[begin : begin + _BATCH]
                verdicts += judge(part)
                task.advance(len(part))
            found.append(np.asarray(verdicts, float))
    finally:
        task.close()
    return found[0], 1 - found[1]


def hard(verdicts: np.ndarray) -> np.ndarray:
    """Verdicts as won (1), lost (0) and undecided (½)."""
    return np.where(verdicts == 0.5, 0.5, (verdicts > 0.5).astype(float))


def audit(judge: Judge, pairs: Sequence[Case], *, name: str) -> Audit:
    """Hold a judge against people's preferences, in both orders.

    It passes where the 95 % intervals say that it agrees with people more often than a coin, also
    at equal length, and that both orders get one verdict more often than by chance.

    Args:
        judge: What is asked.
        pairs: The preferred answer first.
        name: Of the judge.
    """
    begin = time.perf_counter()
    straight, turned = both_orders(judge, pairs)
    seconds = time.perf_counter() - begin
    a, b = hard(straight), hard(turned)
    won, count = (a + b) / 2, len(pairs)
    agreement, low, high = win_rate(won)
    gaps = np.array([len(better) - len(worse) for _, better, worse in pairs], float)
    level = length_controlled(won, gaps)
    same = float((a == b).mean())
    # Verdicts for the place that is first: the preferred answer's as it is, the other's turned.
    first = float((a.mean() + (1 - b).mean()) / 2)
    apart = gaps != 0
    longer = np.where(gaps > 0, won, 1 - won)[apart]
    found = Audit(
        name, count, agreement, (low, high), level.win_rate, (level.low, level.high),
        same, wilson(same, count), first, wilson(first, 2 * count),
        float(longer.mean()) if apart.any() else 0.5,
        float((gaps > 0)[apart].mean()) if apart.any() else 0.5,
        level.length, seconds, 2 * sum(len("".join(case)) for case in pairs),
    )  # fmt: skip
    found.problems.extend(_problems(found))
    return found


def _problems(found: Audit) -> list[str]:
    told = []
    if found.consistency_interval[0] <= 0.5:
        place = "first" if found.first > 0.5 else "second"
        share = max(found.first, 1 - found.first)
        told.append(
            f"its verdict survives a swap of the answers on {found.consistency:.0%} of pairs, no "
            f"more than a coin's would; it takes the {place} answer {share:.0%} of the time"
        )
    if found.agreement_interval[0] <= 0.5:
        told.append(f"it agrees with people in {found.agreement:.0%}, not told apart from a coin")
    elif found.at_equal_length_interval[0] <= 0.5:
        told.append(
            f"at equal length it agrees with people in {found.at_equal_length:.0%}, not told apart "
            f"from a coin: it takes the longer answer on {found.longer:.0%} of pairs"
        )
    return told


# --- judges ------------------------------------------------------------------------------------


def open_judge(name: str, *, model: str | None = None) -> Judge:
    """A judge by its name.

    Args:
        name: ``file.py:function``, an ``http(s)://`` address of an OpenAI-compatible endpoint, or
            the folder or hub id of a model.
        model: The model's name at an endpoint.

    Raises:
        UserError: If there is no such judge.
    """
    if name.startswith(("http://", "https://")):
        return endpoint(name, model)
    if model is not None:
        raise ConfigError(Problem("--judge-model", "has no effect", "it names an endpoint's model"))
    return _function(name) if names_file(name) else local(name)


def _function(name: str) -> Judge:
    """The user's function of (prompts, firsts, seconds), which gives a number for each."""
    from modelforge.rewards.build import load_module

    path, function = source_of(name, Path())
    if path is None or not path.is_file():
        raise ConfigError(Problem("JUDGE", f"there is no file {name}", "check the path"))
    say(f"judge: running {path} for '{function}', as you ask")
    call = getattr(load_module(path.resolve()), function, None)
    if not callable(call):
        raise ConfigError(Problem("JUDGE", f"{path} has no function '{function}'"))

    def judge(cases: Sequence[Case]) -> list[float]:
        answer = call(*map(list, zip(*cases, strict=True)))
        try:
            given = [float(value) for value in answer]
        except (TypeError, ValueError):  # no list, or no numbers
            given = []
        if len(given) != len(cases) or not all(0 <= value <= 1 for value in given):
            what = f"gave {str(answer)[:60]} for {len(cases)} cases"
            raise RunError(Problem(name, what, "give each a number from 0 to 1: P(first better)"))
        return given

    return judge


def local(name: str) -> Judge:
    """A model of this machine, by how likely it finds the letters A and B.

    Raises:
        ModelError: If it cannot be loaded.
    """
    from modelforge.evaluation.opened import Bench, load_tokenizer, named

    asked, bench = named(name, where="JUDGE"), Bench()
    tokenizer = load_tokenizer(asked)
    letters = [tokenizer.encode(letter, add_special_tokens=False)[-1] for letter in "AB"]

    def judge(cases: Sequence[Case]) -> list[float]:
        found = []
        with bench.model(asked) as model:
            for case in cases:
                ask = [{"role": "user", "content": _ASK.format(*case)}]
                ids = tokenizer.apply_chat_template(
                    ask, add_generation_prompt=True, return_dict=True, return_tensors="pt"
                )
                logits = model(**ids.to(model.device)).logits[0, -1, letters].float()
                found.append(float(logits.softmax(-1)[0]))
        return found

    return judge


def endpoint(url: str, model: str | None) -> Judge:
    """A model behind an OpenAI-compatible address; its key comes from the environment alone.

    Raises:
        ConfigError: If its model is not named.
    """
    if model is None:
        raise ConfigError(Problem("JUDGE", f"{url} needs a model", "name it with --judge-model"))

    def one(case: Case) -> float:
        said = word_of(url, model, _ASK.format(*case))
        letter = said.strip().lstrip("*([\"'").upper()[:1]
        return {"A": 1.0, "B": 0.0}.get(letter, 0.5)

    return lambda cases: [one(case) for case in cases]
