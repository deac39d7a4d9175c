"""Votes as Label Studio has them: its JSON export."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from modelforge.feedback.between import (
    OURS,
    PROMPTS,
    TIES,
    Unread,
    beside_of,
    by_task,
    mine,
    models_in,
    number_in,
    prompt_in,
    verdict_of,
    with_beside,
    word_of,
)
from modelforge.feedback.votes import Vote, ranks_of

_MAIL = "@annotator.invalid"


def to_label_studio(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """A task for each prompt with its answers; an annotation for each vote."""
    tasks = []
    for number, group in enumerate(by_task(votes), 1):
        first = group[0]
        names = [f"answer{i}" for i in range(1, len(first.answers) + 1)]
        prompt = first.prompt.get("messages", first.prompt.get("prompt"))
        data = {"prompt": prompt, **dict(zip(names, first.answers, strict=True))}
        beside = {"prompt": dict(first.prompt), "models": first.models}
        done = [_annotation(i, vote, names) for i, vote in enumerate(group, 1)]
        tasks.append({"id": number, "data": data, "annotations": done, "meta": {OURS: beside}})
    return tasks


def _annotation(number: int, vote: Vote, names: Sequence[str]) -> dict[str, Any]:
    results = []

    def add(kind: str, name: str, value: Mapping[str, Any]) -> None:
        results.append({"from_name": name, "to_name": names[0], "type": kind, "value": value})

    word = word_of(vote, names, "both bad")
    if vote.kind == "ranked" and len(names) > 2:
        order = sorted(range(len(names)), key=lambda i: vote.ranks[i])
        add("ranker", "ranking", {"ranker": {"rank": [names[i] for i in order]}})
    elif word in names:
        add("pairwise", "preference", {"selected": ("left", "right")[names.index(word)]})
    elif vote.kind != "skip":
        add("choices", "verdict", {"choices": [word]})
    if vote.confidence is not None:
        add("rating", "confidence", {"rating": vote.confidence})
    for name, text in (("comment", vote.comment), ("better", vote.better)):
        if text is not None:
            add("textarea", name, {"text": [text]})
    return {
        "id": number, "completed_by": {"email": vote.annotator + _MAIL, "first_name": vote.name},
        "result": results, "was_cancelled": vote.kind == "skip", "lead_time": vote.seconds,
        "created_at": datetime.fromtimestamp(vote.at, UTC).isoformat(), OURS: beside_of(vote),
    }  # fmt: skip


def from_label_studio(task: Mapping[str, Any]) -> list[Vote]:
    """The votes of a task."""
    data, done = task.get("data"), task.get("annotations")
    if not isinstance(data, Mapping) or not isinstance(done, list):
        raise Unread("has no data and annotations, as Label Studio's JSON export has them")
    beside = mine((task.get("meta") or {}).get(OURS))
    name = next((name for name in PROMPTS if name in data), None)
    answers = [key for key, value in data.items() if key != name and isinstance(value, str)]
    if name is None or len(answers) < 2:
        raise Unread("needs data named prompt and two further texts with answers")
    prompt = beside.get("prompt") or prompt_in(data[name])
    texts, models = tuple(data[key] for key in answers), models_in(beside, answers)
    found = []
    for one in done:
        who, called = _completed_by(one.get("completed_by"))
        values = {r["from_name"] if r["type"] == "textarea" else r["type"]: r["value"]
                  for r in one.get("result", [])}  # fmt: skip
        ranks, kind = _studio_verdict(values, answers, bool(one.get("was_cancelled")))
        texted = {n: "\n".join(values[n]["text"]) for n in ("comment", "better") if n in values}
        vote = Vote(prompt, texts, models, who, called, kind, ranks,
                    number_in(values.get("rating") or {}, "rating"), (), texted.get("better"),
                    texted.get("comment"), one.get("lead_time"), _time(one))  # fmt: skip
        found.append(with_beside(vote, mine(one.get(OURS))))
    return found


def _studio_verdict(
    values: Mapping[str, Any], answers: Sequence[str], cancelled: bool
) -> tuple[tuple[int, ...], str]:
    if cancelled:
        return (), "skip"
    if "pairwise" in values and len(answers) == 2:
        return ((1, 2) if values["pairwise"]["selected"] == "left" else (2, 1)), "ranked"
    if "ranker" in values:
        ranked = values["ranker"]["ranker"]
        order = ranked if isinstance(ranked, list) else next(iter(ranked.values()))
        if set(order) == set(answers):
            return ranks_of([[answers.index(name)] for name in order]), "ranked"
    word = ((values.get("choices") or {}).get("choices") or [""])[0]
    if word in TIES or word in answers:
        return verdict_of(word, answers)
    raise Unread("has an annotation without a pairwise selection, a ranking of its answers or tie")


def _completed_by(said: Any) -> tuple[str, str]:
    if not isinstance(said, Mapping):
        return f"label-studio:{said}", f"Label Studio {said}"
    mail = str(said.get("email") or said.get("id"))
    ours = mail.endswith(_MAIL)
    who = mail.removesuffix(_MAIL) if ours else f"label-studio:{mail}"
    return who, str(said.get("first_name") or mail)


def _time(one: Mapping[str, Any]) -> float:
    with contextlib.suppress(TypeError, ValueError):
        return datetime.fromisoformat(str(one.get("created_at"))).timestamp()
    return 0.0
