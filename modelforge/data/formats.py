"""The table of formats that are recognised by their columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modelforge.data.compare import (
    convert_compared,
    convert_labelled,
    convert_score_lists,
    convert_scored,
    has_score,
    is_label,
)
from modelforge.data.convert import (
    Converter,
    DataKind,
    read_best_and_wrong,
    read_instances,
    read_messages,
    read_pair,
    read_prompt,
    read_reply,
    read_text,
    read_turns,
    row_by_row,
)
from modelforge.data.dialogue import is_messages


def is_number(value: Any) -> bool:
    """Whether a cell is a number, also one written as text (as in CSV)."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_list(value: Any) -> bool:
    """Whether a cell is a list."""
    return isinstance(value, list)


def is_text(value: Any) -> bool:
    """Whether a cell is one text or number, not a structure."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


PAIR = frozenset[DataKind]({"preference", "demonstration", "prompt"})
REPLY = frozenset[DataKind]({"demonstration", "prompt"})
PROMPT = frozenset[DataKind]({"prompt"})
TEXT = frozenset[DataKind]({"demonstration"})


@dataclass(frozen=True)
class Format:
    """One layout of columns.

    Attributes:
        name: For the ledger.
        columns: Role → the column names that may fill it, the first found counts. All are needed.
            Names are compared in lower case, blanks and hyphens as ``_``.
        convert: Makes the examples.
        serves: The kinds it can make.
        optional: Roles filled if there.
        values: Role → what at least half its cells must look like in the first rows.
    """

    name: str
    columns: Mapping[str, tuple[str, ...]]
    convert: Converter
    serves: frozenset[DataKind]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, Callable[[Any], bool]] = field(default_factory=dict)


ASKED = ("prompt", "instruction", "question", "query", "problem", "goal", "input")
ANSWERED = ("completion", "response", "output", "answer", "reply", "target", "assistant")
CONVERSATION = ("messages", "conversations", "conversation", "dialogue", "dialog")
SYSTEM = {"system": ("system", "system_prompt")}
MARGIN = {
    "margin": ("margin",),
    "chosen_score": ("chosen_score", "score_chosen", "chosen_rating"),
    "rejected_score": ("rejected_score", "score_rejected", "rejected_rating"),
}
CHOSEN = {
    "chosen": ("chosen", "chosen_response", "accepted"),
    "rejected": ("rejected", "rejected_response", "declined"),
}
FIRST = ("response_a", "answer_a", "response_0", "response_1", "answer_0", "answer_1", "response1")
SECOND = ("response_b", "answer_b", "response_1", "response_2", "answer_1", "answer_2", "response2")
PREFERENCE = (
    "preference",
    "preferred",
    "winner",
    "better",
    "better_response_id",
    "choice",
    "label",
)

# Most specific first: the first that fits and serves the kind is taken.
TABLE: tuple[Format, ...] = (
    Format(
        "conversation, chosen/rejected",
        {"prompt": CONVERSATION, **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
        {"prompt": is_messages},
    ),
    Format(
        "instruction/input, chosen/rejected",
        {"prompt": ("instruction",), "input": ("input", "context"), **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
    ),
    Format(
        "prompt, chosen/rejected",
        {"prompt": ASKED, **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
    ),
    Format(
        "chosen/rejected, prompt implicit",
        CHOSEN,
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
    ),
    Format(
        "question, matching/not matching answer",
        {
            "prompt": ("question",),
            "chosen": ("answer_matching_behavior",),
            "rejected": ("answer_not_matching_behavior",),
        },
        row_by_row(read_pair),
        PAIR,
    ),
    Format(
        "question, best/incorrect answers",
        {
            "prompt": ("question",),
            "chosen": ("best_answer",),
            "rejected": ("incorrect_answers",),
        },
        row_by_row(read_best_and_wrong),
        PAIR,
    ),
    Format(
        "two responses and a preference",
        {"prompt": (*ASKED, *CONVERSATION), "a": FIRST, "b": SECOND, "preference": PREFERENCE},
        convert_compared,
        PAIR,
        {**SYSTEM, "margin": ("margin",)},
    ),
    Format(
        "several answers with scores",
        {"prompt": ASKED, "replies": ("completions", "responses", "answers", "candidates")},
        convert_score_lists,
        PAIR,
        SYSTEM,
        {"replies": has_score},
    ),
    Format(
        "lists of answers and of scores",
        {
            "prompt": ASKED,
            "replies": ("completions", "responses", "answers", "candidates"),
            "scores": ("scores", "ratings", "rewards"),
        },
        convert_score_lists,
        PAIR,
        SYSTEM,
        {"replies": is_list, "scores": is_list},
    ),
    Format(
        "messages and a label",
        {"messages": CONVERSATION, "label": ("label",)},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"messages": is_messages, "label": is_label},
    ),
    Format(
        "completion and a label",
        {"prompt": ASKED, "completion": ANSWERED, "label": ("label",)},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"label": is_label},
    ),
    Format(
        "answer and a score",
        {"prompt": ASKED, "completion": ANSWERED, "score": ("score", "rating", "reward")},
        convert_scored,
        PAIR,
        SYSTEM,
        {"score": is_number},
    ),
    Format(
        "messages",
        {"messages": CONVERSATION},
        row_by_row(read_messages),
        REPLY,
        SYSTEM,
        {"messages": is_messages},
    ),
    Format(
        "instruction with instances",
        {"prompt": ("instruction",), "instances": ("instances",)},
        row_by_row(read_instances),
        REPLY,
        values={"instances": is_list},
    ),
    Format(
        "context/question/answer",
        {
            "context": ("context", "passage"),
            "prompt": ("question",),
            "completion": ("answer", "answers", "response", "output"),
        },
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "body/question/answer",
        {"body": ("body",), "prompt": ("question",), "completion": ("answer",)},
        row_by_row(read_reply),
        REPLY,
    ),
    Format(
        "instruction/input/output",
        {"prompt": ("instruction",), "input": ("input", "context"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "instruction/output",
        {"prompt": ("instruction",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "prompt/completion",
        {"prompt": ("prompt", "query"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "question/answer",
        {
            "prompt": ("question", "problem"),
            "completion": ("best_answer", "solution", *ANSWERED, "answers"),
        },
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "document/summary",
        {
            "prompt": ("document", "article", "text", "passage", "dialogue", "post", "source"),
            "completion": ("summary", "highlights", "tldr", "abstract", "target"),
        },
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
        {"prompt": is_text},
    ),
    Format(
        "goal/target",
        {"prompt": ("goal",), "completion": ("target",)},
        row_by_row(read_reply),
        REPLY,
    ),
    Format(
        "input/output",
        {"prompt": ("input",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "turns of the user",
        {"turns": ("turns",)},
        row_by_row(read_turns),
        PROMPT,
        {"completion": ("reference",)},
        {"turns": is_list},
    ),
    Format("plain text", {"text": ("text",)}, row_by_row(read_text), TEXT),
    Format("prompt", {"prompt": ASKED}, row_by_row(read_prompt), PROMPT, SYSTEM),
)
