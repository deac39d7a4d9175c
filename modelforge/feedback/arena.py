"""Votes as the chatbot arena publishes them: a row for each battle."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelforge.feedback.between import (
    OURS,
    TIES,
    Unread,
    beside_of,
    mine,
    verdict_of,
    with_beside,
    word_of,
)
from modelforge.feedback.votes import Vote


def to_arena(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """A row for each two answers of each vote; a is what stood first."""
    rows = []
    for number, vote in enumerate(votes):
        shown = vote.shown or tuple(range(len(vote.answers)))
        turns = vote.prompt.get("messages") or [
            {"role": "user", "content": vote.prompt.get("prompt", "")}
        ]
        whole = {"prompt": dict(vote.prompt), "answers": vote.answers, "models": vote.models,
                 "annotator": vote.annotator, "kind": vote.kind, **beside_of(vote),
                 "confidence": vote.confidence, "better": vote.better,
                 "comment": vote.comment}  # fmt: skip
        for a, b in itertools.combinations(shown, 2):
            sides: dict[str, Any] = {}
            for letter, i in (("a", a), ("b", b)):
                sides[f"model_{letter}"] = " = ".join(vote.models[i]) or f"answer {i + 1}"
                answer = {"role": "assistant", "content": vote.answers[i]}
                sides[f"conversation_{letter}"] = [*turns, answer]
            pair = replace(vote, ranks=tuple(vote.ranks[i] for i in (a, b) if vote.ranks))
            winner = word_of(pair, ("model_a", "model_b"), "tie (bothbad)")
            rows.append({"question_id": str(number), **sides, "winner": winner,
                         "judge": vote.name, "turn": 1, "anony": True, "tstamp": vote.at,
                         OURS: whole})  # fmt: skip
    return rows


def from_arena(row: Mapping[str, Any]) -> list[Vote]:
    """The vote of a row. One that a ranking gave several rows comes of each of them, alike."""
    whole = mine(row.get(OURS))
    if whole:
        vote = Vote(whole["prompt"], tuple(whole["answers"]), tuple(map(tuple, whole["models"])),
                    whole["annotator"], str(row.get("judge")), whole["kind"], (),
                    whole["confidence"], (), whole["better"], whole["comment"])  # fmt: skip
        return [with_beside(vote, whole)]
    prompt, a, b = _battle(row)
    winner = row.get("winner") or next(
        (word for word in ("model_a", "model_b", "tie") if row.get(f"winner_{word}")), None
    )
    who = str(row.get("judge") or row.get("judge_hash") or row.get("evaluation_session_id") or "")
    who = who or f"row {row.get('question_id') or row.get('id')}"
    if winner not in (*TIES, "model_a", "model_b"):
        raise Unread(f"has the winner {winner!r}, which is none of model_a, model_b, tie")
    ranks, kind = verdict_of(str(winner), ("model_a", "model_b"))
    models = tuple((str(row.get(f"model_{x}") or f"answer {x}"),) for x in "ab")
    vote = Vote(prompt, (a, b), models, f"arena:{who}", who, kind, ranks, None, (0, 1))
    return [replace(vote, at=float(row.get("tstamp") or 0.0))]


def _battle(row: Mapping[str, Any]) -> tuple[dict[str, Any], str, str]:
    """Prompt and both answers; later turns of a longer conversation stand in its answer's text."""
    if "response_a" in row and "response_b" in row:
        prompt, *sides = (_listed(row.get(k)) for k in ("prompt", "response_a", "response_b"))
        turns = [[{"role": "user", "content": prompt[0]}, *_later(prompt, side)] for side in sides]
    else:
        turns = [list(row.get(f"conversation_{x}") or ()) for x in "ab"]
    if not all(len(turn) > 1 for turn in turns):
        raise Unread("has no conversation_a and conversation_b with an answer each")
    common = 0
    for first, second in zip(*(turn[:-1] for turn in turns), strict=False):
        if (first.get("role"), first.get("content")) != (second.get("role"), second.get("content")):
            break
        common += 1
    while common and turns[0][common - 1].get("role") == "assistant":
        common -= 1
    if not common:
        raise Unread("has two conversations that begin with different prompts")
    said = [{"role": m["role"], "content": m["content"]} for m in turns[0][:common]]
    first, second = (_rest(turn[common:]) for turn in turns)
    return {"messages": said}, first, second


def _later(prompt: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    turns = []
    for i, answer in enumerate(answers):
        turns += [{"role": "user", "content": prompt[i]}] if 0 < i < len(prompt) else []
        turns.append({"role": "assistant", "content": str(answer or "")})
    return turns


def _rest(turns: Sequence[Mapping[str, Any]]) -> str:
    if len(turns) == 1:
        return str(turns[0].get("content") or "")
    return "\n\n".join(f"{m['role'].capitalize()}: {m.get('content') or ''}" for m in turns)


def _listed(value: Any) -> list[str]:
    with contextlib.suppress(ValueError, TypeError):
        value = json.loads(value)
    return value if isinstance(value, list) and value else [str(value)]
