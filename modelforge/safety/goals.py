"""The requests that a model is tried with: harmful ones, and harmless ones that look alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelforge.data.files import find, missing, read_file
from modelforge.errors import DataError, Problem, did_you_mean

BUILTIN = "builtin"
_HERE = Path(__file__).parent

# Of AdvBench, XSTest, HarmBench, JailbreakBench, StrongREJECT, Do-Not-Answer and their like.
_PROMPT = ("prompt", "goal", "behavior", "forbidden_prompt", "question", "instruction", "query",
           "request", "text", "input", "turns", "messages")  # fmt: skip
_CATEGORY = ("category", "semanticcategory", "functionalcategory", "harm_category", "risk_area",
             "harm_area", "content_policy_name", "type", "topic", "subcategory")  # fmt: skip
_LABEL = ("label", "prompt_label", "prompt_harm_label", "is_harmful", "harmful", "is_safe", "safe")
_BENIGN = {"safe", "benign", "harmless", "unharmful", "not_harmful", "0", "false", "no"}
_HARMFUL = {"unsafe", "harmful", "malicious", "toxic", "1", "true", "yes"}


@dataclass(frozen=True)
class Goal:
    """One request.

    Attributes:
        id: In its file.
        text: What is asked.
        category: What kind of harm it asks for; ``all`` where the file does not say.
        harmful: Whether a model should decline it.
        labelled: Whether the file says so; a file without labels is taken as harmful.
    """

    id: str
    text: str
    category: str
    harmful: bool
    labelled: bool = False


def read_goals(source: str, *, harmless: bool = False, limit: int | None = None) -> list[Goal]:
    """The requests of a file, or those that come with the program.

    Args:
        source: ``builtin``; a data file with a column of requests; or a text file, one a line.
        harmless: Whether requests without a label are harmless ones.
        limit: The most harmful and the most harmless ones, taken from every category in turn.

    Raises:
        DataError: If there is no such file, or it holds no requests.
    """
    path = _HERE / "builtin.jsonl" if source == BUILTIN else find(source, Path())
    if path is None or path.is_dir():
        known = did_you_mean(source, [BUILTIN]) if "." not in source else ""
        problem = missing(source, Path())
        raise DataError(Problem(problem.where, problem.what, known or problem.fix))
    if path.suffix == ".txt":
        rows = read_file(path, shown=source).rows
        lines = rows[0].cells["text"].splitlines() if rows else ()
        cells = [(f"{path}:{n}", {"prompt": s}) for n, s in enumerate(lines, 1) if s.strip()]
    else:
        cells = [(row.where, row.cells) for row in read_file(path, shown=source).rows]
    goals = _goals(cells, harmless)
    if not goals:
        raise DataError(Problem(source, "holds no requests", "give one a row"))
    return goals if limit is None else _some(goals, limit)


def _goals(rows: Iterable[tuple[str, Mapping[str, Any]]], harmless: bool) -> list[Goal]:
    """The request of each row, without repeats.

    Raises:
        DataError: With the first rows that hold none.
    """
    found: dict[tuple[str, bool], Goal] = {}
    problems: list[Problem] = []
    for number, (where, cells) in enumerate(rows):
        named = {re.sub(r"[\s-]+", "_", str(key)).lower(): value for key, value in cells.items()}
        said = next((named[c] for c in _PROMPT if named.get(c)), None)
        text = _text(said)
        label = _label(where, named, problems)
        if text is None:
            fix = "give one text a row; an attack adds turns of its own"
            if said is None:
                fix = f"name its column one of: {', '.join(_PROMPT)}"
            problems.append(Problem(where, "holds no request as one text", fix))
            continue
        context = _text(named.get("contextstring"))  # HarmBench's, put before as HarmBench does
        text = text if context is None else f"{context}\n\n---\n\n{text}"
        kind = _kind(next((named[c] for c in _CATEGORY if named.get(c)), "all"))
        harmful = not harmless if label is None else label
        goal = Goal(str(named.get("id", number)), text, kind, harmful, label is not None)
        found.setdefault((text, goal.harmful), goal)
    if problems:
        raise DataError(*problems[:10])
    return _apart(list(found.values()))


def _text(said: Any) -> str | None:
    """A request as text: it may be the only message of a conversation."""
    if isinstance(said, list) and len(said) == 1:
        said = said[0]
    if isinstance(said, Mapping):
        said = said.get("content", said.get("value"))
    return said.strip() if isinstance(said, str) and said.strip() else None


def _kind(said: Any) -> str:
    """A category in words: one, a list, or names that are true or false."""
    if isinstance(said, Mapping):
        said = [name for name, true in said.items() if true is True] or "all"
    return ", ".join(map(str, said)) if isinstance(said, list) else str(said)


def _label(where: str, named: Mapping[str, Any], problems: list[Problem]) -> bool | None:
    """Whether a row is said to be harmful; None where nothing says so."""
    column = next((c for c in _LABEL if named.get(c) is not None), None)
    answered = any(name in named for name in ("response", "answer", "completion"))
    if column is None or (column == "is_safe" and answered):  # that is said of the answer
        return None
    word = str(named[column]).strip().lower().replace(" ", "_")
    if word not in _BENIGN | _HARMFUL:
        fix = "write safe or unsafe, or harmful or benign; or name the column otherwise"
        problems.append(Problem(where, f"{column} is '{named[column]}'", fix))
    harmful = word not in _BENIGN
    # is_safe: true says the opposite of harmful: true.
    turned = column in ("is_safe", "safe") and word in ("0", "1", "true", "false", "yes", "no")
    return not harmful if turned else harmful


def _apart(goals: Sequence[Goal]) -> list[Goal]:
    """The same requests, each with an id that no other has: rows are known by it."""
    ids = [goal.id for goal in goals]
    if len(set(ids)) == len(ids):
        return list(goals)
    return [
        Goal(str(number), g.text, g.category, g.harmful, g.labelled)
        for number, g in enumerate(goals)
    ]


def _some(goals: Sequence[Goal], limit: int) -> list[Goal]:
    """The first of each kind, from one category after the other, in the order of the file."""
    taken: set[str] = set()
    for harmful in (True, False):
        queues: dict[str, list[Goal]] = {}
        for goal in goals:
            if goal.harmful == harmful:
                queues.setdefault(goal.category, []).append(goal)
        turn = [(place, goal.id) for queue in queues.values() for place, goal in enumerate(queue)]
        taken |= {each for _, each in sorted(turn, key=lambda t: t[0])[:limit]}
    return [goal for goal in goals if goal.id in taken]
