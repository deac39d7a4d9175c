"""A batch of rows → their lines: likelihoods, answers, and what rewards say of these."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from modelforge.data.carried import carrying, chat_ids
from modelforge.evaluation.kept import line_of
from modelforge.evaluation.metrics import METRICS, Metric
from modelforge.evaluation.scores import Sampling, Told, answered, from_start, likelihoods
from modelforge.evaluation.statistics import pass_at_k

if TYPE_CHECKING:
    from modelforge.evaluation.items import Item

__all__ = ["Sampling", "Scorer", "by_reward_model"]

Figures = dict[str, Any]


@dataclass
class Scorer:
    """Scores batches under one model.

    Attributes:
        tokenizer: The model's.
        model: Opens the model; it is entered for each batch.
        start: Opens the model that it began from; None where nothing is measured against it.
        base: Opens the model whose accuracy on pairs stands beside; None for none.
        how: How it is asked.
        template_kwargs: What every prompt gives the chat template.
        context: How many tokens it reads.
        functions: Reward by name.
        table: The measures that are wanted.
    """

    tokenizer: Any
    model: Callable[[], Any]
    start: Callable[[], Any] | None
    how: Sampling
    template_kwargs: Mapping[str, Any]
    context: int | None
    functions: Mapping[str, Callable[..., Any]]
    table: Mapping[str, Metric]
    base: Callable[[], Any] | None = None

    def __call__(self, batch: Sequence[Item]) -> list[dict[str, Any]]:
        """The lines of a batch."""
        found: list[Figures] = [{} for _ in batch]
        answers: list[list[Told]] = [[] for _ in batch]
        with self.model() as model:
            self._likelihoods(model, batch, found)
            asked = [i for i, item in enumerate(batch) if item.prompt is not None]
            if asked and self._asks():
                prompts = [self._prompt(batch[i]) for i in asked]
                told = answered(model, self.tokenizer, prompts, self.how, limit=self.context)
                for i, each in zip(asked, told, strict=True):
                    answers[i] = each
                self._go_on(model, batch, answers, found)
                if self.start is not None:
                    flat = [answer for each in told for answer in each]
                    repeated = [p for p in prompts for _ in range(self.how.samples)]
                    pad = self.tokenizer.pad_token_id
                    from_start(model, self.start(), repeated, flat, pad=pad)
        if self.base is not None:
            self._beside(batch, found)
        self._rewards(batch, answers, found)
        for figures, given in zip(found, answers, strict=True):
            if given:
                figures |= _of_answers(given)
        return [
            _line(item, self._text(item), [a.text for a in given], figures, list(self.table))
            for item, given, figures in zip(batch, answers, found, strict=True)
        ]

    def _asks(self) -> bool:
        return any(metric.needs not in ("reference", "pair") for metric in self.table.values())

    def _prompt(self, item: Item) -> list[int]:
        return self._within(item.prompt_ids)

    def _within(self, ids: list[int]) -> list[int]:
        room = None if self.context is None else self.context - self.how.max_new_tokens
        return ids[-room:] if room else ids

    def _go_on(
        self, model: Any, batch: Sequence[Item], told: list[list[Told]], found: list[Figures]
    ) -> None:
        """Ask what MT-Bench's rows ask next, behind the model's own first answer."""
        talks = {
            i: [*item.prompt, _reply(told[i][0].text)]
            for i, item in enumerate(batch)
            if told[i] and isinstance(item.prompt, list) and len(_turns(item)) > 1
        }
        once = replace(self.how, samples=1)
        for turn in range(1, max((len(_turns(batch[i])) for i in talks), default=0)):
            asked = [i for i in talks if turn < len(_turns(batch[i]))]
            prompts = []
            for i in asked:
                talks[i].append({"role": "user", "content": _turns(batch[i])[turn]})
                talk = carrying(talks[i], batch[i].columns)
                ids = chat_ids(self.tokenizer, talk, self.template_kwargs, generate=True)
                prompts.append(self._within(ids))
            answers = answered(model, self.tokenizer, prompts, once, limit=self.context)
            for i, (answer,) in zip(asked, answers, strict=True):
                talks[i].append(_reply(answer.text))
                later = {"question": talks[i][-2]["content"], "answer": answer.text}
                found[i].setdefault("later", []).append(later)

    def _text(self, item: Item) -> str:
        return str(self.tokenizer.decode(item.prompt_ids)) if item.prompt_ids else ""

    def _likelihoods(self, model: Any, batch: Sequence[Item], found: list[Figures]) -> None:
        if not any(metric.needs in ("reference", "pair") for metric in self.table.values()):
            return
        pad = self.tokenizer.pad_token_id
        count = max(len(item.sides) for item in batch)
        sides = [
            likelihoods(model, [item.sides[side] for item in batch], pad=pad)
            for side in range(count)
        ]
        for i, item in enumerate(batch):
            nats, tokens = sides[0][i]
            found[i] |= {
                "nats": nats,
                "tokens": tokens,
                "bytes": item.sides[0].size,
                "loss": nats / tokens if tokens else None,
                "bits_per_byte": nats / math.log(2) / item.sides[0].size
                if item.sides[0].size
                else None,
            }
            if count == 2:
                found[i] |= _pair(-nats, -sides[1][i][0])

    def _beside(self, batch: Sequence[Item], found: list[Figures]) -> None:
        """Which side of each pair the base finds likelier."""
        assert self.base is not None, "it is asked for"
        pad = self.tokenizer.pad_token_id
        pairs = [i for i, item in enumerate(batch) if len(item.sides) == 2]
        if not pairs:
            return
        with self.base() as model:
            better, worse = (
                likelihoods(model, [batch[i].sides[side] for i in pairs], pad=pad)
                for side in (0, 1)
            )
        for i, (one, _), (other, _) in zip(pairs, better, worse, strict=True):
            found[i]["base_accuracy"] = _pair(-one, -other)["accuracy"]

    def _rewards(
        self, batch: Sequence[Item], answers: list[list[Told]], found: list[Figures]
    ) -> None:
        """What each reward says of each answer; a row's figure is the mean."""
        rows = [(i, told) for i, each in enumerate(answers) for told in each]
        if not rows:
            return
        conversational = isinstance(batch[rows[0][0]].prompt, list)
        prompts = [batch[i].prompt for i, _ in rows]
        texts: list[Any] = [told.text for _, told in rows]
        if conversational:
            texts = [[{"role": "assistant", "content": text}] for text in texts]
        names = {name for i, _ in rows for name in batch[i].columns}
        columns = {n: [batch[i].columns.get(n) for i, _ in rows] for n in names}
        ids = [told.ids for _, told in rows]
        for name, function in self.functions.items():
            given = function(prompts=prompts, completions=texts, completion_ids=ids, **columns)
            given = asyncio.run(given) if inspect.iscoroutine(given) else given
            scores: dict[int, list[float]] = {}
            for (i, _), score in zip(rows, given, strict=True):
                if score is not None and math.isfinite(score):
                    scores.setdefault(i, []).append(float(score))
            for i, each in scores.items():
                found[i][name] = sum(each) / len(each)
                found[i].setdefault("scores", {})[name] = each
                if name not in METRICS:
                    self._pass(found[i], each)

    def _pass(self, figures: Figures, scores: Sequence[float]) -> None:
        for name in self.table:
            k = int(name.removeprefix("pass@")) if name.startswith("pass@") else 0
            if 0 < k <= len(scores) and set(scores) <= {0.0, 1.0}:
                figures[name] = pass_at_k(len(scores), int(sum(scores)), k)


def _turns(item: Item) -> list[str]:
    """What the user says in turn; empty where the row has no such column."""
    turns = item.columns.get("turns")
    return turns if isinstance(turns, list) and all(isinstance(t, str) for t in turns) else []


def _reply(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _pair(better: float, worse: float) -> Figures:
    """Which side is likelier (or scored higher), a tie half, and by how much."""
    gap = better - worse
    return {"accuracy": 0.5 if gap == 0 else float(gap > 0), "margin": gap}


def _of_answers(told: Sequence[Told]) -> Figures:
    """The figures of a prompt's answers: means, and sums where places are counted."""
    count = len(told)
    words = [answer.text.split() for answer in told]
    figures: Figures = {
        "length": sum(len(answer.ids) for answer in told) / count,
        "ended": sum(answer.ended for answer in told) / count,
        "distinct_1": _distinct(words, 1),
        "distinct_2": _distinct(words, 2),
    }
    if told[0].figures:
        places = sum(len(answer.ids) for answer in told)
        figures["answer_tokens"] = places
        for name in told[0].figures:
            figures[name] = sum(answer.figures[name] for answer in told) / max(places, 1)
    return figures


def _distinct(answers: Sequence[Sequence[str]], n: int) -> float | None:
    """The share of n-grams of some answers that differ (Li et al. 2016); None where none is."""
    grams = [
        tuple(words[i : i + n]) for words in answers for i in range(max(0, len(words) - n + 1))
    ]
    return len(set(grams)) / len(grams) if grams else None


def _line(
    item: Item, prompt: str, answers: Sequence[str], figures: Figures, names: Sequence[str]
) -> dict[str, Any]:
    shown = item.prompt if isinstance(item.prompt, str) else _said(item.prompt)
    doc = {"prompt": shown, **item.columns} if item.prompt is not None else {"text": item.place}
    line = line_of(
        item.doc_id,
        doc,
        prompt=prompt,
        target=item.reference or (item.sides[0].text if item.sides else ""),
        answers=answers,
        figures=figures,
        names=names,
    )
    return {**line, "place": item.place}


def _said(prompt: Any) -> Any:
    return json.loads(json.dumps(prompt, default=str))


def by_reward_model(
    model: Any, batch: Sequence[Item], *, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The lines of pairs that a reward model scores.

    Args:
        model: Called as a reward.
        batch: Pairs.
        names: The measures that are wanted.
    """
    prompts = [item.prompt for item in batch]
    lines = []
    scores = [
        model(prompts=prompts, completions=[_completion(item, side) for item in batch])
        for side in (0, 1)
    ]
    for item, better, worse in zip(batch, *scores, strict=True):
        figures = _pair(better, worse) | {"score_chosen": better, "score_rejected": worse}
        lines.append(_line(item, "", [], figures, names))
    return lines


def _completion(item: Item, side: int) -> Any:
    text = item.sides[side].text
    return [{"role": "assistant", "content": text}] if isinstance(item.prompt, list) else text
