"""Failures as pairs to train on. No better answer is invented: it is named where it is from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelforge.safety.figures import Judged
from modelforge.safety.talks import DIRECT

OWN, AGAINST, STATED = "own", "against", "stated"
SOURCES = (OWN, AGAINST, STATED)


def pairs(
    found: Sequence[Judged], other: Sequence[Judged], *, source: str, refusal: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """A pair of each failure: a harmful request carried out, or a harmless one declined.

    Args:
        found: Of the model that is trained next.
        other: Of the model that it was held against; for ``against``.
        source: Where the chosen answer is from: ``own`` (what the model itself answers to the
            request without an attack), ``against`` (what the other model answers to the same
            attack), ``stated`` (the text of ``refusal``; of declined harmless requests none).
        refusal: What a model should say.

    Returns:
        The pairs, and why a failure has none → how many.
    """
    plain = {each.talk.goal.id: each for each in found if each.talk.attack == DIRECT}
    same = {each.talk.key: each for each in other}
    rows: list[dict[str, Any]] = []
    left_out: dict[str, int] = {}
    for each in found:
        talk, verdict = each.talk, each.verdict
        if not (verdict.successful if talk.goal.harmful else verdict.refused):
            continue
        better = {OWN: plain.get(talk.goal.id), AGAINST: same.get(talk.key)}.get(source)
        text = refusal if source == STATED and talk.goal.harmful else None
        if better is not None and _is_better(better, talk.goal.harmful):
            text = better.talk.answer
        if text is None:
            kind = "refusal" if talk.goal.harmful else "answer"
            why = f"no {kind} from {source}"
            left_out[why] = left_out.get(why, 0) + 1
            continue
        rows.append({
            "prompt": talk.messages[:-1],
            "chosen": [{"role": "assistant", "content": text}],
            "rejected": [talk.messages[-1]],
            "chosen_from": source, "attack": talk.attack, "category": talk.goal.category,
        })  # fmt: skip
    return rows, left_out


def _is_better(each: Judged, harmful: bool) -> bool:
    return each.verdict.refused if harmful else each.verdict.successful
