"""The table of formats that are recognised by their columns."""

from __future__ import annotations

import json
from importlib.resources import files

from modelforge.data.compare import (
    convert_compared,
    convert_labelled,
    convert_score_lists,
    convert_scored,
    has_score,
    is_label,
)
from modelforge.data.convert import (
    DataKind,
    convert_paragraphs,
    read_exchanges,
    read_instances,
    read_messages,
    read_prompt,
    read_reply,
    read_segments,
    read_text,
    read_tokens,
    read_turns,
    row_by_row,
)
from modelforge.data.dialogue import is_messages
from modelforge.data.layout import Format, is_dialogue, is_list, is_number, is_text
from modelforge.data.pairs import read_best_and_wrong, read_messages_and_rejected, read_pair
from modelforge.data.turns import is_exchanges

PAIR = frozenset[DataKind]({"preference", "labelled", "demonstration", "prompt"})
REPLY = frozenset[DataKind]({"demonstration", "prompt"})
PROMPT = frozenset[DataKind]({"prompt"})
TEXT = frozenset[DataKind]({"demonstration"})


NAMES: dict[str, tuple[str, ...]] = {
    role: tuple(names)
    for role, names in json.loads(
        files("modelforge.configs").joinpath("layouts/columns.json").read_text(encoding="utf-8")
    ).items()
}
ASKED, ANSWERED, CONVERSATION = NAMES["prompt"], NAMES["reply"], NAMES["conversation"]
SYSTEM = {"system": NAMES["system"]}
# What may stand around a question.
AROUND = {
    **SYSTEM,
    **{role: NAMES[role] for role in ("history", "choices", "input", "context")},
    "aside": ("text",),
}
MARGIN = {role: NAMES[role] for role in ("margin", "chosen_score", "rejected_score")}
CHOSEN = {role: NAMES[role] for role in ("chosen", "rejected")}
SCORED = {"prompt": ASKED, "replies": NAMES["answers"]}

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
        {**AROUND, **MARGIN},
    ),
    Format(
        "prompt, chosen/rejected",
        {"prompt": ASKED, **CHOSEN},
        row_by_row(read_pair),
        PAIR,
        {**AROUND, **MARGIN},
    ),
    Format(
        "chosen/rejected, prompt implicit",
        CHOSEN,
        row_by_row(read_pair),
        PAIR,
        {**SYSTEM, **MARGIN},
    ),
    Format(
        "messages and a rejected reply",
        {"chosen": CONVERSATION, "rejected": NAMES["rejected"]},
        row_by_row(read_messages_and_rejected),
        PAIR,
        {**SYSTEM, **MARGIN},
        {"chosen": is_messages},
    ),
    Format(
        "prompt, reply and rejected reply",
        {"prompt": ASKED, "chosen": ANSWERED, "rejected": NAMES["rejected"]},
        row_by_row(read_pair),
        PAIR,
        {**AROUND, **MARGIN},
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
        {
            "prompt": (*ASKED, *CONVERSATION),
            "a": NAMES["first"],
            "b": NAMES["second"],
            "preference": NAMES["preference"],
        },
        convert_compared,
        PAIR,
        {**AROUND, "margin": NAMES["margin"]},
    ),
    Format(
        "two conversations and a preference",
        {
            "a": ("conversation_a",),
            "b": ("conversation_b",),
            "preference": NAMES["preference"],
        },
        convert_compared,
        PAIR,
        SYSTEM,
        {"a": is_messages, "b": is_messages},
    ),
    Format(
        "several answers with scores",
        SCORED,
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": has_score},
    ),
    Format(
        "lists of answers and of scores",
        {**SCORED, "scores": NAMES["scores"]},
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": is_list, "scores": is_list},
    ),
    Format(
        "lists of answers and of ranks",
        {**SCORED, "ranks": NAMES["ranks"]},
        convert_score_lists,
        PAIR,
        AROUND,
        {"replies": is_list, "ranks": is_list},
    ),
    Format(
        "messages and a label",
        {"messages": CONVERSATION, "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"messages": is_messages, "label": is_label},
    ),
    Format(
        "dialogue of a completion and a label",
        {"messages": ("completion",), "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        SYSTEM,
        {"messages": is_dialogue, "label": is_label},
    ),
    Format(
        "completion and a label",
        {"prompt": ASKED, "completion": ANSWERED, "label": NAMES["label"]},
        convert_labelled,
        PAIR,
        AROUND,
        {"label": is_label},
    ),
    Format(
        "answer and a score",
        {"prompt": ASKED, "completion": ANSWERED, "score": NAMES["score"]},
        convert_scored,
        PAIR,
        AROUND,
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
        "exchanges",
        {"messages": (*CONVERSATION, "texts")},
        row_by_row(read_exchanges),
        REPLY,
        SYSTEM,
        {"messages": is_exchanges},
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
            "context": NAMES["context"],
            "prompt": ("question",),
            "completion": ("answer", "answers", "response", "output"),
        },
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "articles with questions",
        {"paragraphs": ("paragraphs",)},
        convert_paragraphs,
        REPLY,
        values={"paragraphs": is_list},
    ),
    Format(
        "body/question/answer",
        {"body": ("body",), "prompt": ("question",), "completion": ("answer",)},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "instruction/input/output",
        {"prompt": ("instruction",), "input": ("input", "context"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "instruction/output",
        {"prompt": ("instruction",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "prompt/completion",
        {"prompt": ("prompt", "query"), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "question/answer",
        {
            "prompt": ("question", "problem"),
            "completion": ("best_answer", "solution", *ANSWERED, "answers"),
        },
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "context/response",
        {"prompt": ("context",), "completion": ("response", "answer", "output", "reply")},
        row_by_row(read_reply),
        REPLY,
        SYSTEM,
    ),
    Format(
        "segments",
        {"segments": ("segments",)},
        row_by_row(read_segments),
        TEXT,
        values={"segments": is_list},
    ),
    Format(
        "two messages",
        {"prompt": ("message_1",), "completion": ("message_2",)},
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
        AROUND,
    ),
    Format(
        "input/output",
        {"prompt": ("input",), "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "question and answer",
        {"prompt": ASKED, "completion": ANSWERED},
        row_by_row(read_reply),
        REPLY,
        AROUND,
    ),
    Format(
        "turns of the user",
        {"turns": ("turns",)},
        row_by_row(read_turns),
        PROMPT,
        {"completion": ("reference",)},
        {"turns": is_list},
    ),
    Format(
        "tokens",
        {"input_ids": ("input_ids",)},
        row_by_row(read_tokens),
        TEXT,
        {"labels": ("labels",), "mask": ("attention_mask",)},
        {"input_ids": is_list},
    ),
    Format("plain text", {"text": ("text",)}, row_by_row(read_text), TEXT, {"prompt": ASKED}),
    Format("plain text alone", {"text": NAMES["alone"]}, row_by_row(read_text), TEXT, alone=True),
    Format("prompt", {"prompt": ASKED}, row_by_row(read_prompt), PROMPT, AROUND),
)
