"""Votes as Argilla 2 has them: what its `Record.to_dict()` gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from modelforge.feedback.between import (
    OURS,
    PROMPTS,
    TIES,
    Unread,
    beside_of,
    by_task,
    dense,
    mine,
    models_in,
    number_in,
    prompt_in,
    verdict_of,
    with_beside,
    word_of,
)
from modelforge.feedback.votes import Vote


def to_argilla(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """A record for each prompt with its answers; a response for each vote."""
    records = []
    for number, group in enumerate(by_task(votes)):
        first = group[0]
        names = [f"response-{i}" for i in range(1, len(first.answers) + 1)]
        prompt = first.prompt.get("messages", first.prompt.get("prompt"))
        said: dict[str, list[Any]] = {}
        for vote in group:
            for question, value in _argilla_answers(vote, names).items():
                status = "discarded" if vote.kind == "skip" else "submitted"
                answer = {"value": value, "user_id": vote.annotator, "status": status}
                said.setdefault(question, []).append(answer)
        beside = {"prompt": dict(first.prompt), "models": first.models,
                  "votes": {vote.annotator: beside_of(vote) for vote in group}}  # fmt: skip
        records.append({
            "id": str(number), "status": "completed",
            "fields": {"prompt": prompt, **dict(zip(names, first.answers, strict=True))},
            "metadata": {OURS: json.dumps(beside, ensure_ascii=False)},
            "suggestions": {}, "responses": said, "vectors": {},
        })  # fmt: skip
    return records


def _argilla_answers(vote: Vote, names: Sequence[str]) -> dict[str, Any]:
    if vote.kind == "skip":
        return {"preference": None}
    said: dict[str, Any] = {}
    if len(names) == 2 or vote.kind == "bad":
        said["preference"] = word_of(vote, names, "both bad")
    else:
        said["ranking"] = [
            {"value": name, "rank": rank} for name, rank in zip(names, vote.ranks, strict=True)
        ]
    more = {"confidence": vote.confidence, "comment": vote.comment, "better": vote.better}
    return said | {name: value for name, value in more.items() if value is not None}


def from_argilla(record: Mapping[str, Any]) -> list[Vote]:
    """The votes of a record."""
    fields, said = record.get("fields"), record.get("responses")
    if not isinstance(fields, Mapping) or not isinstance(said, Mapping):
        raise Unread("has no fields and responses, as Argilla's Record.to_dict() gives them")
    beside = mine((record.get("metadata") or {}).get(OURS))
    name = next((name for name in PROMPTS if name in fields), None)
    answers = [key for key in fields if key != name and isinstance(fields[key], str)]
    if name is None or len(answers) < 2:
        raise Unread("needs a field named prompt and two further fields with answers")
    texts = tuple(fields[key] for key in answers)
    prompt = beside.get("prompt") or prompt_in(fields[name])
    models = models_in(beside, answers)
    by_user: dict[str, dict[str, Any]] = {}
    for question, given in said.items():
        for answer in given:
            theirs = by_user.setdefault(str(answer.get("user_id")), {})
            theirs[question] = answer.get("value")
            if answer.get("status") == "discarded":
                theirs[""] = "skip"
    found = []
    for user, values in by_user.items():
        ranks, kind = _argilla_verdict(values, answers)
        vote = Vote(prompt, texts, models, user, user, kind, ranks, number_in(values, "confidence"),
                    (), values.get("better"), values.get("comment"))  # fmt: skip
        found.append(with_beside(vote, beside.get("votes", {}).get(user, {})))
    return found


def _argilla_verdict(
    values: Mapping[str, Any], answers: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    if "" in values:
        return (), "skip"
    for question, value in values.items():
        if isinstance(value, list) and value and question not in ("comment", "better"):
            order = [v if isinstance(v, Mapping) else {"value": v, "rank": i}
                     for i, v in enumerate(value, 1)]  # fmt: skip
            places = {v["value"]: v["rank"] for v in order}
            if set(places) == set(answers):
                return dense([places[name] for name in answers]), "ranked"
        if isinstance(value, str) and (value in answers or value in TIES):
            return verdict_of(value, answers)
    raise Unread(f"has no response that is one of {', '.join(answers)}, a ranking of them, or tie")
