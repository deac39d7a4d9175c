"""Answers that were labelled or rated → pairs or demonstrations.

============  =====================================  ==========================================
source        preference                             demonstration
============  =====================================  ==========================================
labels        good and bad answers of one prompt,    the good ones
              paired in the file's order
scores        the best against the worst answer of   the best (all of them where several are)
              a prompt
============  =====================================  ==========================================

As labelled answers (kto), labels and scores of 1 or 0 (or -1) stand for themselves; of all others
the pairs are taken, the better side good and the worse one bad.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from modelforge.data.cells import written
from modelforge.data.convert import (
    Cells,
    Drop,
    Item,
    Made,
    Mode,
    Text,
    emit,
    number,
    prompt_of,
    reply_of,
    with_system,
)
from modelforge.data.dialogue import Skip, split_last_reply, to_messages
from modelforge.data.read import Row

# What a label may say of an answer; blanks, hyphens and a minus before a number are written _.
WORDS: dict[str, list[str]] = json.loads(
    files("modelforge.configs").joinpath("layouts/labels.json").read_text(encoding="utf-8")
)
SCORE_KEYS = ("overall_score", "score", "rating", "fine-grained_score", "reward", "pm_score")
RANK_KEYS = ("rank", "ranking")  # 1 is the best
ANSWER_KEYS = ("response", "completion", "text", "content", "answer", "output")


def is_label(value: Any) -> bool:
    """Whether a cell says good or bad in a way `is_good` reads."""
    try:
        is_good(value)
    except Skip:
        return False
    return True


def is_good(value: Any) -> bool:
    """A label as a truth value.

    Raises:
        Skip: If it is none.
    """
    word = re.sub(r"[\s-]+", "_", str(value).strip().lower().removesuffix(".0"))
    if word in WORDS["good"]:
        return True
    if word in WORDS["bad"]:
        return False
    raise Skip("label not understood")


def is_up_or_down(scores: Collection[float]) -> bool:
    """Whether scores are a thumb up or down: 1 or 0, or 1 or -1, and both are there."""
    return set(scores) in ({0.0, 1.0}, {-1.0, 1.0})


@dataclass(frozen=True, slots=True)
class Answer:
    """One rated answer to a prompt."""

    prompt: Text
    reply: Text
    score: float
    row: Row


Pairs = tuple[list[tuple[Answer, Answer]], list[tuple[Answer, str]]]


def convert_labelled(items: Iterable[Item], mode: Mode, drop: Drop) -> Made:
    """Answers labelled good or bad, one a row (KTO)."""
    answers = collect(items, mode, drop, lambda cells: float(is_good(cells.get("label"))))
    if mode.kind == "labelled":
        return emit_labelled(answers, mode, drop)
    if mode.kind == "preference":
        return emit_pairs(answers, mode, drop, pair_by_label)
    return emit_best(answers, mode, drop, lambda answer, group: answer.score > 0, "labelled bad")


def convert_scored(items: Iterable[Item], mode: Mode, drop: Drop) -> Made:
    """Answers with a score, one a row."""
    answers = collect(items, mode, drop, lambda cells: number(cells.get("score")))
    if mode.kind == "labelled" and is_up_or_down({answer.score for answer in answers}):
        return emit_labelled(answers, mode, drop)
    return convert_rated(answers, mode, drop)


def convert_score_lists(items: Iterable[Item], mode: Mode, drop: Drop) -> Made:
    """Several answers a row: ``replies`` and ``scores``, or replies that carry their score."""
    answers: list[Answer] = []
    for item in items:
        try:
            prompt = prompt_of(item.cells, mode)
            if mode.kind == "prompt":
                answers.append(Answer(prompt, best_or_empty(item.cells), 0.0, item.row))
                continue
            replies = [Answer(prompt, r, s, item.row) for r, s in replies_of(item.cells)]
            answers.extend(replies)
        except Skip as skip:
            drop(skip, item.row)
    return convert_rated(answers, mode, drop)


def best_or_empty(cells: Cells) -> str:
    """The best-rated reply of a row; empty where there is none."""
    try:
        return max(replies_of(cells), key=lambda pair: pair[1])[0]
    except Skip:
        return ""


def replies_of(cells: Cells) -> list[tuple[str, float]]:
    """The replies of one row with their scores.

    Raises:
        Skip: If there is none, one is no text, or the scores are not as many.
    """
    replies, scores, ranked = cells.get("replies"), cells.get("scores"), is_ranked(cells)
    if not isinstance(replies, list) or not replies:
        raise Skip("empty cell", "replies")
    if all(isinstance(reply, Mapping) for reply in replies):
        scores = [first_of(reply, RANK_KEYS if ranked else SCORE_KEYS) for reply in replies]
        replies = [first_of(reply, ANSWER_KEYS) for reply in replies]
    elif ranked:
        scores = cells["ranks"]
    if not isinstance(scores, list) or len(scores) != len(replies):
        raise Skip("score not understood")
    words = [written(reply) for reply in replies]
    if any(word is None or not word.strip() for word in words):
        raise Skip("empty cell", "replies")
    sign = -1 if ranked else 1
    return [(str(word), sign * number(score)) for word, score in zip(words, scores, strict=True)]


def is_ranked(cells: Cells) -> bool:
    """Whether the replies of a row have ranks, and no scores."""
    replies = cells.get("replies")
    if cells.get("ranks") is not None:
        return True
    return isinstance(replies, list) and any(
        isinstance(reply, Mapping)
        and first_of(reply, SCORE_KEYS) is None
        and first_of(reply, RANK_KEYS) is not None
        for reply in replies
    )


def first_of(mapping: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of ``keys`` that is there."""
    return next((mapping[key] for key in keys if mapping.get(key) is not None), None)


def has_score(value: Any) -> bool:
    """Whether a cell is a list of answers that each carry a score or a rank."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(item, Mapping) and first_of(item, (*SCORE_KEYS, *RANK_KEYS)) is not None
            for item in value
        )
    )


def convert_rated(answers: list[Answer], mode: Mode, drop: Drop) -> Made:
    """Rated answers → the best of each prompt, or the best against the worst."""
    if mode.pairs:
        return emit_pairs(answers, mode, drop, pair_by_score)
    worse = "rated below another answer"
    return emit_best(answers, mode, drop, is_best, worse)


def is_best(answer: Answer, group: list[Answer]) -> bool:
    """Whether no answer of the group is rated higher."""
    return answer.score == max(other.score for other in group)


def collect(
    items: Iterable[Item], mode: Mode, drop: Drop, rate: Callable[[Cells], float]
) -> list[Answer]:
    """One answer a row, as cells or as messages; as prompts the rating does not matter."""
    answers = []
    for item in items:
        try:
            prompt, reply = prompt_and_reply(item.cells, mode)
            score = 0.0 if mode.kind == "prompt" else rate(item.cells)
            answers.append(Answer(prompt, reply, score, item.row))
        except Skip as skip:
            drop(skip, item.row)
    return answers


def prompt_and_reply(cells: Cells, mode: Mode) -> tuple[Text, Text]:
    """Split a row that holds one answer.

    Raises:
        Skip: If it holds none.
    """
    if "messages" not in cells:
        return prompt_of(cells, mode), reply_of(cells, "completion")
    prompt, reply = split_last_reply(to_messages(cells["messages"]))
    if not prompt or reply is None:
        raise Skip("no assistant reply")
    return with_system(prompt, cells), reply


def by_prompt(answers: Iterable[Answer]) -> list[list[Answer]]:
    """The answers to each prompt, in the file's order."""
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(json.dumps(answer.prompt), []).append(answer)
    return list(groups.values())


def emit_best(
    answers: list[Answer],
    mode: Mode,
    drop: Drop,
    keep: Callable[[Answer, list[Answer]], bool],
    worse: str,
) -> Made:
    """Prompts, each once a row; or demonstrations, the answers that ``keep`` accepts."""
    for group in by_prompt(answers):
        for answer in group:
            try:
                if mode.kind != "prompt" and not keep(answer, group):
                    raise Skip(worse)
                yield answer.row, emit(mode, answer.prompt, answer.reply or None)
            except Skip as skip:
                drop(skip, answer.row)


def emit_labelled(answers: list[Answer], mode: Mode, drop: Drop) -> Made:
    """Each answer, and whether it is a good one."""
    told = Mode("demonstration", mode.conversational)
    for answer in answers:
        try:
            example = emit(told, answer.prompt, answer.reply)
        except Skip as skip:
            drop(skip, answer.row)
            continue
        yield answer.row, {**example, "label": answer.score > 0}


def emit_pairs(
    answers: list[Answer],
    mode: Mode,
    drop: Drop,
    pair: Callable[[list[Answer]], Pairs],
) -> Made:
    """The pairs that ``pair`` finds among the answers to each prompt."""
    for group in by_prompt(answers):
        pairs, unused = pair(group)
        for answer, reason in unused:
            drop(Skip(reason), answer.row)
        for good, bad in pairs:
            try:
                yield good.row, emit(mode, good.prompt, good.reply, bad.reply)
            except Skip as skip:
                drop(skip, good.row)


def pair_by_label(group: list[Answer]) -> Pairs:
    """The first good with the first bad answer, the second with the second, and so on."""
    good = [answer for answer in group if answer.score > 0]
    bad = [answer for answer in group if answer.score <= 0]
    count = min(len(good), len(bad))
    unused = [(answer, "no partner") for answer in good[count:] + bad[count:]]
    return list(zip(good, bad, strict=False)), unused


def pair_by_score(group: list[Answer]) -> Pairs:
    """The best answer with the worst."""
    if len(group) == 1:
        return [], [(group[0], "no partner")]
    ordered = sorted(group, key=lambda answer: -answer.score)
    best, worst = ordered[0], ordered[-1]
    if best.score == worst.score:
        return [], [(answer, "tie") for answer in group]
    return [(best, worst)], [(answer, "neither best nor worst") for answer in ordered[1:-1]]
